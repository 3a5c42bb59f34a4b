"""Every example of the guide's page on settings, and what it promises."""

import functools
import math
import re
import runpy
import shlex
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from spandrel.architectures.Compact import Compact

import clipgen
from clipgen.cli import main
from clipgen.export import export
from clipgen.mini import drafts
from clipgen.runs import settings as module
from clipgen.runs.journal import Journal

PAGE = (Path(__file__).parents[2] / "notebooks" / "guide" / "settings.md").read_text()
TABLE = PAGE.split("## All settings")[0]
LINES = [line for line in TABLE.splitlines() if line.startswith("| ") and not line.startswith("| what |")]
ROWS = [line.strip("| \n").split(" | ") for line in LINES]
CELLS = [cell.strip("` |").replace("\\|", "|") for row in ROWS for cell in row[1:] if cell.strip("` |")]
PYTHON, COMMANDS = ([c for c in CELLS if c.startswith("clipgen ") == shell] for shell in (False, True))


@pytest.fixture(autouse=True)
def _small(monkeypatch, inline_workers):
    """The lines as they stand, on pictures, presets and drafts that take no time."""
    monkeypatch.setattr(drafts, "DRAFTS", 1)
    monkeypatch.setattr(drafts, "MIN_LOG_LIKELIHOOD", -math.inf)
    quick = {"steps": 5, "cutouts": 4, "size": (64, 64), "every": 2, "init": "perlin"}  # drafts take long
    monkeypatch.setattr(module, "defaults_for", lambda *_: quick)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with the files that the table names."""
    folder = tmp_path_factory.mktemp("desk")
    rows = np.linspace(0, 255, 80, dtype=np.uint8)
    photo = np.stack([np.tile(rows, (60, 1)), np.full((60, 80), 90, np.uint8), np.tile(rows[::-1], (60, 1))], -1)
    Image.fromarray(photo).save(folder / "photo.png")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 48))
    mask.save(folder / "mask.png")
    frames = [Image.fromarray(np.roll(photo, 10 * i, 1)) for i in range(3)]
    frames[0].save(folder / "film.gif", save_all=True, append_images=frames[1:])
    (folder / "study.yaml").write_text("{prompt: 'a {thing}', thing: [cat, dog], init: perlin, size: 64x64, steps: 2}")
    upscaler = Compact(num_feat=8, num_conv=2, upscale=4)  # Real-ESRGAN's small kind, with random weights
    torch.save(upscaler.state_dict(), folder / "RealESRGAN_x4plus.pth")
    run = clipgen.generate("a cat", **small(steps=5, every=2), folder=folder)
    run.journal.folder.rename(folder / "RUN")
    run.journal.folder = folder / "RUN"
    run.export(folder / "cat.png")
    return folder, run


QUICK = {"cutouts": 4, "size": (64, 64), "init": "perlin"}  # a draft takes longer than all of these steps


def small(**knobs):
    return {"steps": 12, "every": 3, "progress": False} | QUICK | knobs


@pytest.mark.slow
@pytest.mark.parametrize("line", PYTHON)
def test_python(line, desk, monkeypatch):
    folder, run = desk
    if line.startswith("run.change"):  # which a finished run refuses
        run = clipgen.Run("a cat", folder=folder, **QUICK)
    monkeypatch.chdir(folder)
    (folder / "line.py").write_text(f"made = {line}\n")
    made = runpy.run_path("line.py", {"clipgen": clipgen, "run": run})["made"]
    runs = made if isinstance(made, list) else [made]
    assert all(run.finished for run in runs if isinstance(run, clipgen.Run))


@pytest.mark.slow
@pytest.mark.parametrize("line", COMMANDS)
def test_command(line, desk, monkeypatch, capsys):
    folder, _ = desk
    monkeypatch.chdir(folder)
    assert main([*shlex.split(line)[1:]] + (["--quiet"] if "export" not in line else [])) == 0
    out = capsys.readouterr().out
    for name in re.findall(r"[\w-]+\.(?:png|gif|mp4)\b", out.split(" (done)")[0]):
        assert Path(name).stat().st_size > 100


def test_there_are_lines_for_everything():
    assert len(PYTHON) > 22 and len(COMMANDS) > 20
    text = " ".join(CELLS)
    silent = {
        "prompt",
        "seed",
        "size",
        "generator",
        "perceptor",
        "relax",
        "device",
        "every",
        "steps",
        "palette_weight",
        "cut_max",
        "near_fade",
        "noise_norm",  # of one-step generators
        "aesthetic",  # of published perceptors only
        "patch_dropout",  # below the table: the embedded perceptors have no patches
    }
    names = {knob for knob in clipgen.Settings.__dataclass_fields__ if knob not in silent}
    missing = {name for name in names if not re.search(rf"\b{name}\b", text)}
    assert not missing, "add an example to the upper tables of notebooks/guide/settings.md, or a name to `silent` above"


@pytest.mark.slow
def test_a_mask_keeps_the_rest(desk, tmp_path):
    folder, _ = desk
    photo = Image.open(folder / "photo.png").crop((10, 0, 70, 60)).resize((64, 64))
    run = clipgen.generate("fire", mask="bottom", near=0, folder=tmp_path, **small(init=photo, lr=1.0))
    kept, start = np.asarray(run.image, float), np.asarray(photo, float)
    assert abs(kept[:32] - start[:32]).max() <= 1 and abs(kept[32:] - start[32:]).mean() > 5


@pytest.mark.slow
def test_an_image_prompt_pulls_towards_the_image(tmp_path):
    apple = clipgen.generate("a red apple", folder=tmp_path, **small(init="dalle", steps=3)).image
    run = clipgen.generate([apple, "snow:-0.2"], folder=tmp_path, **small(init="grey", steps=18))
    assert run.journal.scores[-1]["clip"] > run.journal.scores[0]["clip"] + 0.1
    again = clipgen.finish(clipgen.Run.replay(run.journal.folder, folder=tmp_path / "again", like=run), progress=False)
    assert again.image.tobytes() == run.image.tobytes(), "the picture went into the run folder"


@pytest.mark.slow
def test_a_story_changes_its_subject(tmp_path):
    run = clipgen.generate("the sea@0-14 | fire@8-30", folder=tmp_path, **small(init="grey", steps=30, every=1))
    early, late = clipgen.rank([run.journal.frame(14), run.image], ["the sea", "fire"])
    assert late[1] > early[1]


def test_a_spot_prompt_moves_its_spot_only(tmp_path):
    knobs = small(init="grey", steps=4, every=1, ema=0, lr=500.0, optimizer="SGD")  # steps as large as the gradient
    run = clipgen.Run("fire [right]", folder=tmp_path, **{k: v for k, v in knobs.items() if k != "progress"})
    list(run)
    start = run.models.generator.encode(torch.full((1, 3, 64, 64), 128 / 255))
    moved = (run.optimization.latent.detach() - start).abs().sum((0, 1))
    assert moved[:, 5:].mean() > 3 * moved[:, :3].mean()


@pytest.mark.slow
def test_stay_near(tmp_path, desk):
    folder, _ = desk
    photo = Image.open(folder / "photo.png").resize((64, 64))

    def away(**knobs):
        run = clipgen.generate("fire", folder=tmp_path, **small(init=photo, lr=1.0, **knobs))
        return np.abs(np.asarray(run.image, float) - np.asarray(photo, float)).mean()

    free, held = away(near=0), away(near=30, near_space="pixels")
    assert away(near=30, near_space="latent") < free and held < free
    assert held < away(near=30, near_space="pixels", near_fade=1)
    assert away(near=3, near_space="clip", steps=2) > 0


@pytest.mark.slow
def test_passes_make_the_same_picture(tmp_path):
    one, four = (clipgen.generate("a bee", passes=p, folder=tmp_path, **small(cutouts=7)) for p in (1, 4))
    difference = np.abs(np.asarray(one.image, float) - np.asarray(four.image, float))
    assert difference.mean() < 1, "up to rounding"
    first, again = one.journal.scores[0], four.journal.scores[0]
    assert again["clip"] == pytest.approx(first["clip"], abs=1e-4) and again["loss"] == pytest.approx(first["loss"])


@pytest.mark.slow
def test_short_memory_is_met_with_passes(tmp_path, monkeypatch):
    knobs = QUICK | {"generator": "mini-vqgan", "cutouts": 8}
    run = clipgen.Run("a bee", folder=tmp_path, steps=6, every=2, **knobs)
    (perceptor, _), whole = run.models.perceptors[0], run.models.perceptors[0][0].encode_image

    def small_memory(images, kept=None):
        if images.requires_grad and len(images) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return whole(images, kept)

    monkeypatch.setattr(perceptor, "encode_image", small_memory)
    with pytest.warns(UserWarning, match="memory is short") as said:
        list(run)
    assert run.finished and len(said) == 1
    monkeypatch.undo()
    plenty = clipgen.generate("a bee", folder=tmp_path, steps=6, every=2, **knobs, progress=False)
    assert np.abs(np.asarray(run.image, float) - np.asarray(plenty.image, float)).mean() < 1

    run = clipgen.Run("a bee", folder=tmp_path, steps=6, **QUICK)
    monkeypatch.setattr(
        run.models.perceptors[0][0], "encode_image", lambda images, *_: small_memory(images.repeat(9, 1, 1, 1))
    )
    with pytest.warns(UserWarning), pytest.raises(clipgen.ClipgenError, match=r"one cutout at a time .*; lower size"):
        list(run)


@pytest.mark.slow
def test_a_loss_that_is_no_number(tmp_path):
    bad = {4, 8, 9, 10}

    def loss(image, latent, step):
        return image.mean() * (float("nan") if step in bad else 0)

    run = clipgen.Run("a bee", losses=[loss], folder=tmp_path, steps=14, every=1, **QUICK)
    with pytest.warns(UserWarning) as said:
        frames = list(run)
    assert sum("skipped" in str(w.message) for w in said) == 3 and "three times in a row" in str(said[-1].message)
    with pytest.raises(clipgen.ClipgenError, match=r"1 losses of its own \(loss\), but 0 are given"):
        clipgen.Run.resume(run.journal.folder)
    bad.clear()
    assert clipgen.finish(clipgen.Run.resume(run.journal.folder, losses=[loss]), progress=False).finished
    assert not run.finished and frames[-1].step == 11 and np.asarray(run.image).std() > 1


@pytest.mark.slow
def test_steering_is_replayed(tmp_path):
    run = clipgen.Run("a cat", folder=tmp_path, steps=16, every=2, **QUICK)
    done = threading.Event()
    for frame in run:
        if frame.step == 4:
            thread = threading.Thread(target=lambda: (run.change(prompt="fire:2 | snow:-1", lr=0.6), done.set()))
            thread.start()
            done.wait(10)
        if frame.step == 10:
            run.change(
                mask=Image.new("L", (64, 64), 255), symmetry=1.0, prompt=[Image.new("RGB", (9, 9), "red"), "fire"]
            )
    assert [change["step"] for change in run.journal.changes] == [4, 10] and run.settings.lr == 0.6
    again = clipgen.finish(clipgen.Run.replay(run.journal.folder, folder=tmp_path / "again"), progress=False)
    assert [f.tobytes() for f in again.journal.frames()] == [f.tobytes() for f in run.journal.frames()]
    mistakes = {"steps": 99, "promt": "x", "prompt": "", "lr": -1.0, "mask": "nowhere", "camera": "zoom=9"}
    for changes in ([3], [{"step": "x"}], {"a": 1}, [{"step": 1, "nonsense": 2}]):
        export([run.image], tmp_path / "bad.png", run.journal.settings | {"changes": changes})
        with pytest.raises(clipgen.ClipgenError):
            clipgen.Run.replay(tmp_path / "bad.png", folder=tmp_path / "bad")
    for wrong in ({name: value} for name, value in mistakes.items()):
        with pytest.raises(clipgen.ClipgenError):
            run.change(**wrong)


@pytest.mark.slow
def test_replay_from_a_file_alone(tmp_path):
    run = clipgen.Run("a cat", folder=tmp_path, steps=8, every=2, **QUICK)
    for frame in run:
        if frame.step == 4:
            run.change(prompt="fire", lr=0.6)
    for name in ("fire.png", "fire.gif", "fire.webp"):
        run.export(tmp_path / name)
        again = clipgen.Run.replay(tmp_path / name, folder=tmp_path / "again", like=run)
        clipgen.finish(again, progress=False)
        assert again.image.tobytes() == run.image.tobytes()


@pytest.mark.slow
def test_a_change_just_before_the_crash_is_kept(tmp_path):
    def frames(stop):
        run = clipgen.Run("a cat", folder=tmp_path, steps=12, every=3, **QUICK)
        for frame in run:
            if frame.step == 3:
                run.change(prompt="fire", lr=0.5)
            if frame.step == stop:
                run.stop()
        if stop:
            run = clipgen.Run.resume(run.journal.folder)
            list(run)
        return [f.tobytes() for f in run.journal.frames()]

    assert frames(None) == frames(6)


@pytest.mark.slow
def test_branch(tmp_path):
    run = clipgen.generate("a cat", generator="mini-vqgan", folder=tmp_path, **small())
    branch = run.branch(6, prompt="a dog", steps=5, folder=tmp_path)
    first = next(iter(branch))
    then, now = np.asarray(run.journal.frame(6), float), np.asarray(first.image, float)
    assert np.abs(then - now).mean() < np.abs(then - np.asarray(run.journal.frame(1), float)).mean() / 2
    assert branch.models is run.models and branch.settings.prompt == "a dog"
    list(branch)
    resumed = clipgen.Run.replay(branch.journal.folder, folder=tmp_path)
    assert list(resumed)[-1].image.tobytes() == branch.image.tobytes(), "its tokens are in the folder"
    with pytest.raises(clipgen.ClipgenError, match="no such frame"):
        run.branch(7)


def test_a_full_disk_does_not_stop_the_run(tmp_path, monkeypatch):
    run = clipgen.Run("a cat", folder=tmp_path, steps=9, every=3, **QUICK)
    frames = iter(run)
    next(frames)
    monkeypatch.setattr(Journal, "_replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.warns(UserWarning, match="cannot be saved any more") as said:
        last = list(frames)[-1]
    assert run.finished and len(said) == 1 and run.image is last.image and run.journal.steps == [1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["AdamW", "SGD", "RMSprop", "Adagrad", "NAdam", "Adadelta", "Rprop", "ASGD", "Adafactor"]
)
def test_any_optimiser_resumes_to_the_same_frames(name, tmp_path):
    knobs = {"optimizer": name, "steps": 8, "every": 2, "cutouts": 2, "size": (64, 64), "init": "gradient"}
    whole = clipgen.Run("fire", folder=tmp_path, **knobs)
    list(whole)
    half = clipgen.Run("fire", folder=tmp_path, **knobs)
    for frame in half:
        if frame.step == 4:
            half.stop()
    half = clipgen.Run.resume(half.journal.folder)
    assert half.step == 4
    list(half)
    assert [f.tobytes() for f in half.journal.frames()] == [f.tobytes() for f in whole.journal.frames()]


def test_damaged_and_foreign_run_folders(tmp_path):
    run = clipgen.generate("a cat", folder=tmp_path, **small(steps=3))
    folder = run.journal.folder
    saved = (folder / "settings.json").read_text()
    cases = [
        (tmp_path, None, None, "not a run folder"),
        (folder, "settings.json", "{", "settings.json is damaged"),
        (folder, "settings.json", "[]", "another version"),
        (folder, "settings.json", saved.replace('"format": 2', '"format": 99'), "another version .*format 99"),
        (folder, "settings.json", saved.replace('"prompt"', '"p"'), "no prompt"),
        (folder, "settings.json", saved.replace('"steps": 3', '"steps": "x"'), "steps='x'"),
        (folder, "state.safetensors", "x", "the state is damaged"),
        (folder, "changes.jsonl", "x", "damaged"),
    ]
    for where, file, content, says in cases:
        if file:
            before = (where / file).read_bytes() if (where / file).exists() else None
            (where / file).write_text(content)
        with pytest.raises(clipgen.ClipgenError, match=says) as caught:
            clipgen.Run.resume(where)
        assert "\n" not in str(caught.value)
        if file:
            (where / file).unlink() if before is None else (where / file).write_bytes(before)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert clipgen.Run.resume(folder).finished


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(tmp_path):
    import signal
    import subprocess
    import sys

    asked = "--steps 4000 --size 64 --cutouts 4 --init perlin --folder runs"
    command = [sys.executable, "-m", "clipgen", "a cat", *asked.split()]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    with subprocess.Popen(command, cwd=tmp_path, preexec_fn=heard, **pipes) as process:
        while not (process.poll() is not None or list(tmp_path.glob("runs/*/frames/00006.png"))):
            pass
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err, err
    (folder,) = (tmp_path / "runs").iterdir()
    assert f"clipgen resume runs/{folder.name}" in out and (tmp_path / "a-cat.gif").exists()
    step = clipgen.Run.resume(folder).step
    assert f"interrupted at step {step}" in out and step >= 6
