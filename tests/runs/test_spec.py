"""What is checked before a run, and that steering has one rule: live, waiting, resumed or replayed."""

import threading
from pathlib import Path

import pytest
import torch
from PIL import Image

import clipgen
from clipgen.generators.catalogue import entry_of
from clipgen.runs import spec
from clipgen.runs.inputs import Inputs
from clipgen.runs.settings import QUALITIES, build, defaults_for
from clipgen.storage import remote
from tests.benchmarks.call_chain import count_calls

SMALL = {"steps": 6, "every": 1, "cutouts": 2, "size": (64, 64), "init": "perlin"}


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"init": "nowhere.png"}, "no such file"),
        ({"init": "no such word"}, "no such start"),
        (
            {"init": torch.zeros(3, 3, dtype=torch.int64)},
            r"tokens of shape \(3, 3\).*needs \(16, 16\), from 0 to 16383",
        ),
        ({"mask": "nowhere"}, "mask='nowhere': use all"),
        ({"mask": "not all"}, "nothing to paint"),
        ({"size": (100, 100)}, r"nearest is \(96, 96\)"),
        ({"relax": "gumbel"}, "no token logits"),
        ({"prompt": "gone.png | a cat"}, r"gone\.png"),
        ({"perceptor": "ViT-B-32/nonsense"}, "neither a file nor a tag"),
        ({"perceptor": "mini | mini:-1"}, "weight above 0"),
        ({"camera": "zoom=9"}, "is not a move"),
        ({"losses": [3]}, "neither a function"),
    ],
)
def test_everything_is_checked_before_a_gigabyte_is_fetched(asked, says, tmp_path, monkeypatch):
    def refuse(file):
        pytest.fail(f"{file.name} would have been downloaded")

    monkeypatch.setattr(remote, "fetch", refuse)
    monkeypatch.setattr(spec, "load_generator", lambda *_: pytest.fail("a generator would have been loaded"))
    wanted = {"prompt": "a cat", "generator": "vqgan_imagenet_f16_16384", "size": (256, 256)} | asked
    with pytest.raises(clipgen.ClipgenError, match=says):
        clipgen.Run(**wanted, folder=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("weight", [1, 0.9, 0.5, 2])
def test_a_negative_prompt_has_the_weight_that_is_given(weight, tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "fog", "PNG")
    for negative in ({"blurry": weight}, ["a dog", {Path("b.png"): weight}], f"{tmp_path / 'fog'}:{weight} | a dog"):
        settings = Inputs().name_values({"prompt": "a cat", "negative": negative})
        settings = Inputs().name_files(build(settings.pop("prompt"), settings))
        weights = {prompt.weight for prompt in settings.prompts[1:] if prompt.text != "a dog"}
        assert weights == {-weight} and all(p.weight == -0.5 for p in settings.prompts if p.text == "a dog")


def test_a_replay_accepts_what_was_accepted_live(tmp_path):
    run = clipgen.Run("a cat", folder=tmp_path, **SMALL)
    for frame in run:
        if frame.step == 2:
            run.change(cut_max=1.5)
        if frame.step == 4:
            run.change(cut_min=1.2)
    again = clipgen.finish(clipgen.Run.replay(run.journal.folder, folder=tmp_path / "again"), progress=False)
    assert again.image.tobytes() == run.image.tobytes() and again.settings.cut_min == 1.2


def test_changes_that_wait_are_checked_together(tmp_path):
    run = clipgen.Run("a cat", folder=tmp_path, **SMALL)
    frames = iter(run)
    next(frames)
    run.change(cut_max=0.8)
    with pytest.raises(clipgen.ClipgenError, match=r"cut_min=0\.9: is above cut_max=0\.8"):
        run.change(cut_min=0.9)
    run.change(cut_min=0.7)
    next(frames)
    assert (run.settings.cut_min, run.settings.cut_max) == (0.7, 0.8)
    assert [change["step"] for change in run.journal.changes] == [1, 1]


def test_a_live_change_may_not_break_what_a_replay_still_has_to_do(tmp_path):
    run = clipgen.Run("a cat", folder=tmp_path, **SMALL)
    for frame in run:
        if frame.step == 4:
            run.change(cut_min=1.0)
    again = clipgen.Run.replay(run.journal.folder, folder=tmp_path / "again")
    next(iter(again))
    with pytest.raises(clipgen.ClipgenError, match="is above cut_max"):
        again.change(cut_max=0.9)
    assert clipgen.finish(again, progress=False).image.tobytes() == run.image.tobytes()


def test_many_threads_may_steer(tmp_path):
    run = clipgen.Run("a cat", folder=tmp_path, **SMALL)
    frames = iter(run)
    next(frames)
    threads = [threading.Thread(target=run.change, kwargs={"tv": i / 10}) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    list(frames)
    tvs = [change["tv"] for change in run.journal.changes]
    assert sorted(tvs) == [i / 10 for i in range(8)] and run.settings.tv == tvs[-1]


@pytest.mark.parametrize("name", ["steps", "seed", "size", "generator", "optimizer", "init", "fit"])
def test_what_makes_a_run_cannot_change(name, tmp_path):
    run = clipgen.Run("a cat", folder=tmp_path, **SMALL)
    with pytest.raises(clipgen.ClipgenError, match=f"{name}=.*cannot be changed during a run"):
        run.change(**{name: getattr(run.settings, name)})


@pytest.mark.slow
def test_a_change_makes_again_only_what_depends_on_it(tmp_path, monkeypatch):
    run = clipgen.Run("a cat", folder=tmp_path, **(SMALL | {"init": "dalle"}))
    perceptor, asked = run.models.perceptors[0][0], []
    embed = perceptor.embed_text
    monkeypatch.setattr(perceptor, "embed_text", lambda texts: asked.append(len(texts)) or embed(texts))
    frames = iter(run)
    next(frames)
    first = len(asked)
    goals, mask = run.optimization.spec.init_targets, Image.new("L", (64, 64), 255)
    run.change(lr=0.3)
    next(frames)
    assert (
        len(asked) == first
        and run.optimization.spec.init_targets is goals
        and run.optimization.spec.optimizer.lr == 0.3
    )
    run.change(mask=mask)
    next(frames)
    assert run.optimization.spec.init_targets is not goals, "a draft of its own for what is painted"
    run.change(prompt="a dog")
    next(frames)
    assert len(asked) > first and run.prompts[0].text == "a dog"


@pytest.mark.parametrize(
    ("quality", "device", "side"),
    [("draft", "cpu", 64), ("normal", "cpu", 128), ("best", "cpu", 128), ("draft", "cuda", 128), ("best", "cuda", 192)],
)
def test_the_size_of_a_quality(quality, device, side):
    entry = entry_of("mini-vqgan")
    assert spec.default_size(entry, quality, torch.device(device)) == (side, side)


def test_what_suits_a_quality_and_a_generator():
    assert [defaults_for(q, "mini-vqgan") for q in QUALITIES] == [
        {"steps": 60, "cutouts": 8, "fringes": 100.0},
        {"steps": 120, "cutouts": 16, "fringes": 100.0},
        {"steps": 300, "cutouts": 32, "fringes": 100.0},
    ]
    stack = defaults_for("draft", "stack")
    assert (
        stack["augment"] != clipgen.Settings("x").augment and stack["steps"] < defaults_for("normal", "stack")["steps"]
    )
    run = clipgen.runs.settings.build("x", {"generator": "stack", "augment": "flip"})
    assert run.augment == "flip" and run.ema == stack["ema"], "what is asked for wins"


def test_the_prompt_is_parsed_once_and_passes_few_functions():
    calls = count_calls()
    assert calls["prompts.py", "parse"] == 1
    assert len(calls) <= 16, sorted(calls)
    assert len({file for file, _ in calls}) <= 8
