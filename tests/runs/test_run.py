import json
import signal
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

import clipgen
from clipgen.errors import ClipgenError
from clipgen.runs.finish import iterate_batch
from clipgen.runs.folder import Lock
from clipgen.runs.journal import Journal


def scores(run):
    return [row["clip"] for row in run.journal.scores]


def test_a_run_keeps_all_it_shows(run):
    assert run.finished and run.step == run.settings.steps
    journal = Journal(run.journal.folder)
    assert journal.steps == [1, *range(3, 25, 3)] == [row["step"] for row in journal.scores]
    assert journal.settings["prompt"] == "a red apple" and journal.settings["versions"]["torch"] == torch.__version__
    assert run.image.size == (128, 128)
    assert run._repr_png_().startswith(b"\x89PNG")
    assert repr(run) == f"Run(folder={str(journal.folder)!r})"


def test_a_name_that_is_taken_is_left_alone(tmp_path, monkeypatch):
    marks = iter(["ab12", "ab12", "cd34"])
    monkeypatch.setattr("clipgen.storage.secrets.token_hex", lambda _: next(marks))
    monkeypatch.setattr("clipgen.storage.time.strftime", lambda _: "20261129-041801")
    first, second = (Journal.create(tmp_path, "a-cat", {"prompt": "a cat", "seed": seed}) for seed in range(2))
    assert [made.folder.name[-10:] for made in (first, second)] == ["a-cat-ab12", "a-cat-cd34"]
    assert first.settings["seed"] == 0 and second.settings["seed"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("generator", ["mini-vqgan", "mini-dvae"])
@pytest.mark.parametrize("init", ["random", "perlin"])
def test_the_score_rises(generator, init, tmp_path):
    less = {"steps": 24, "cutouts": 8, "size": (64, 64), "folder": tmp_path, "progress": False}
    run = clipgen.generate("a sunflower", generator=generator, init=init, **less)
    first, *_, last = scores(run)
    assert last > first + 0.1


@pytest.mark.slow
def test_a_start_picture_stays(tmp_path):
    start = Image.new("RGB", (64, 64), (30, 60, 200))
    start.save(tmp_path / "blue.png")
    run = clipgen.generate(
        "the sea", init=str(tmp_path / "blue.png"), near=5.0, steps=24, size=(64, 64), progress=False, folder=tmp_path
    )
    red, _, blue = run.image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    assert blue > red + 60


@pytest.mark.slow
def test_same_seed_same_picture(tmp_path):
    made = [
        clipgen.generate(
            "a cat | a dog:-0.3", seed=seed, steps=6, size=(96, 64), init="perlin", progress=False, folder=tmp_path
        )
        for seed in (1, 1, 2)
    ]
    same, again, other = (run.image.tobytes() for run in made)
    assert same == again != other
    assert made[0].image.size == (96, 64)


def test_stream_pause_and_stop(tmp_path):
    run = clipgen.Run("pizza", steps=500, every=1, size=(64, 64), init="perlin", folder=tmp_path)
    frames = iter(run)
    assert next(frames).step == 1
    run.pause()
    got = []
    thread = threading.Thread(target=lambda: got.extend(frames))
    thread.start()
    time.sleep(0.5)
    assert not got, "a paused run makes no frames"
    run.unpause()
    time.sleep(0.5)
    run.stop()
    thread.join(30)
    assert not thread.is_alive() and got and not run.finished
    assert run.journal.steps == list(range(1, got[-1].step + 1))
    assert run.export(tmp_path / "half.gif").exists()


def test_an_interrupt_keeps_what_was_made(tmp_path, monkeypatch):
    add = Journal.add

    def interrupted(journal, step, *rest):
        add(journal, step, *rest)
        if step == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "add", interrupted)
    run = clipgen.generate("a cat", steps=50, size=(64, 64), init="perlin", progress=False, folder=tmp_path)
    assert not run.finished and run.journal.steps == [1, 3, 6]


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"prompt": " "}, "nothing to draw"),
        ({"steps": 0}, "must be a whole number from 1 to 1,000,000"),
        ({"generator": "mini-vqgan", "size": (500, 500)}, r"nearest is \(496, 496\)"),
        ({"generator": "mini-vqgan", "size": (8, 8)}, r"nearest is \(32, 32\)"),
        ({"size": (10**6, 128)}, r"nearest is \(4096, 128\)"),
        ({"generator": "vqgam"}, "mini-vqgan"),
        ({"perceptor": "clop"}, "choose one of: mini"),
        ({"init": "nowhere.png"}, "no such file"),
        ({"lr": 0.0}, "lr=0.0: must be a number from 1e-12 to"),
        ({"near": float("nan")}, "near=nan: must be a number of at least 0"),
        ({"ema": 1.0}, "from 0 to 0.99999"),
        ({"stepz": 3}, "no such setting; did you mean steps"),
        ({"steps": 3.5}, "must be a whole number"),
        ({"quality": "great"}, "There are draft, normal, best"),
        ({"optimizer": "LBFGS"}, "choose one of: .*Adam"),
        ({"cut_min": 2.0}, "above cut_max"),
        ({"palette": "reddish"}, "palette="),
        ({"prompt": "a cat@9-3"}, "must end after it begins"),
        ({"prompt": "a cat:nan"}, "finite weight"),
        ({"prompt": "missing.png:2 | a cat"}, r"missing\.png"),
        ({"relax": "gumbel"}, "no token logits"),
        ({"device": "tpu9"}, "device='tpu9'"),
    ],
)
def test_bad_input_writes_nothing(knobs, says, tmp_path):
    with pytest.raises(clipgen.ClipgenError, match=says):
        clipgen.Run(**({"prompt": "a cat"} | knobs), folder=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_branch_of_another_size_begins_with_the_picture(tmp_path):
    small = {"generator": "pixels", "init": "perlin", "size": (32, 32), "cutouts": 2, "every": 1, "folder": tmp_path}
    run = clipgen.generate("a cat", steps=3, progress=False, **small)
    for size, begin in (((64, 64), "frame"), ("32", "latent"), ("32x32@0-1, 64x64@1-", "latent")):
        branch = clipgen.finish(run.branch(3, steps=1, size=size, lr=1e-9, folder=tmp_path), progress=False)
        ((kept,), wanted) = branch.journal.inputs().values(), getattr(run.journal, begin)(3)
        assert np.array_equal(np.asarray(kept), np.asarray(wanted))
        shown = np.asarray(branch.image.resize((32, 32)), float)
        assert np.abs(shown - np.asarray(run.image, float)).mean() < 8


def test_after_an_error_in_a_step_a_second_loop_says_what_to_do(tmp_path, monkeypatch):
    quick = {"generator": "pixels", "init": "perlin", "size": (32, 32), "cutouts": 2, "every": 1, "folder": tmp_path}
    run = clipgen.Run("a cat", steps=4, **quick)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        for frame in run:
            if frame.step == 2:
                patch.setattr(type(run.models.generator), "image", lambda *_: signal.raise_signal(signal.SIGINT))
    for loop in (run, iterate_batch([run]), run, run):
        with pytest.raises(ClipgenError, match=r"ended this Run object; continue with clipgen.Run.resume\("):
            list(loop)
    resumed = clipgen.Run.resume(run.journal.folder, like=run)
    assert [frame.step for frame in resumed] == [3, 4] and not list(resumed)


def test_a_run_whose_folder_another_one_holds_can_be_tried_again(tmp_path):
    run = clipgen.Run("a cat", generator="pixels", init="perlin", size=(32, 32), steps=2, every=1, folder=tmp_path)
    held, done = threading.Event(), threading.Event()

    def hold():
        with Lock(run.journal.folder):
            held.set()
            done.wait()

    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    try:
        with pytest.raises(ClipgenError, match="is in progress"):
            list(run)
    finally:
        done.set()
        other.join()
    assert [frame.step for frame in run] == [1, 2]


def test_a_branch_keeps_the_pictures_of_its_prompts(tmp_path):
    less = {"steps": 2, "size": (64, 64), "init": "perlin", "folder": tmp_path, "progress": False}
    run = clipgen.generate([Image.new("RGB", (64, 64), "red"), "a cat"], **less)
    branch = clipgen.finish(run.branch(2, steps=2, folder=tmp_path), progress=False)
    assert branch.finished and branch.settings.prompt == run.settings.prompt
    assert clipgen.Run.resume(branch.journal.folder, like=run).models is run.models


def test_a_removed_setting_is_ignored_where_it_changed_nothing_and_refused_otherwise(tmp_path):
    run = clipgen.Run("a cat", folder=tmp_path, generator="pixels", size=(32, 32), init="noise", steps=3)
    next(iter(run))
    run.stop()
    settings, changes = (run.journal.folder / name for name in ("settings.json", "changes.jsonl"))
    saved = json.loads(settings.read_text())
    settings.write_text(json.dumps(saved | {"window": 1.0}))
    changes.write_text(json.dumps({"step": 0, "window": 1, "lr": 0.1}) + "\n")
    assert clipgen.Run.resume(run.journal.folder, like=run).settings.lr == 0.1
    changes.write_text(json.dumps({"step": 0, "window": 0.5}) + "\n")
    with pytest.raises(ClipgenError, match=r"window=0\.5, a setting that was removed; use clipgen 0\.4"):
        clipgen.Run.resume(run.journal.folder, like=run)
    changes.write_text(json.dumps({"step": 0, "fit": "letterbox", "lr": 0.2}) + "\n")
    resumed = clipgen.Run.resume(run.journal.folder, like=run)
    assert (resumed.settings.lr, resumed.settings.fit) == (0.2, "crop"), "it could be changed, and did nothing"
    changes.unlink()
    settings.write_text(json.dumps(saved | {"window": "1@0-5, 0.5@5-"}))
    with pytest.raises(ClipgenError, match="window=1@0-5"):
        clipgen.Run.replay(run.journal.folder, folder=tmp_path, like=run)


@pytest.mark.parametrize(("version", "number"), [("0.1.0", 1), ("0.3.2", 2)])
def test_a_run_of_a_version_before_0_4_is_refused_by_its_version(version, number, tmp_path):
    run = clipgen.Run("a cat", folder=tmp_path, generator="pixels", size=(32, 32), init="noise", steps=1)
    clipgen.finish(run, progress=False).export(tmp_path / "a.png")
    settings = run.journal.folder / "settings.json"
    settings.write_text(json.dumps(run.journal.settings | {"format": number, "versions": {"clipgen": version}}))
    for use in (clipgen.Run.resume, clipgen.Run.replay):
        with pytest.raises(ClipgenError, match=rf"another version of clipgen \({version}, format {number}; .*use that"):
            use(run.journal.folder)
    assert clipgen.Run.replay(tmp_path / "a.png", folder=tmp_path, like=run).settings == run.settings
