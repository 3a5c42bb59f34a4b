"""Runs that start from drafts: what a changed prompt, a story, a crash and a look back make of them."""

import pytest
import torch
from PIL import Image

import clipgen
from clipgen.inits import Dalle

SMALL = {"init": "dalle", "size": (64, 64), "cutouts": 3, "steps": 12, "every": 2, "lr": 1e-6, "ema": 0.0}
STORY = "a cat@0-6 | a dog@6-"


@pytest.fixture
def plain(monkeypatch):
    """Drafts that need no transformer: a square, the lighter the longer its name is."""

    def draft(self, context, text, size):
        image = torch.ones(1, 3, *size)
        image[..., size[0] // 4 : -size[0] // 4, size[1] // 4 : -size[1] // 4] = len(text) / 20
        yield image

    monkeypatch.setattr(Dalle, "stages", draft)


def shade(image):
    return image.getpixel((32, 32))[0] / 255


@pytest.mark.slow
@pytest.mark.parametrize("generator", ["stack", "mini-dvae"])
def test_a_changed_prompt_begins_again_from_its_draft(generator, plain, tmp_path):
    run, seen = clipgen.Run("a cat", generator=generator, folder=tmp_path, **SMALL), []
    for frame in run:
        seen.append(shade(frame.image))
        if frame.step == 4:
            run.change(prompt="a rhinoceros | grey:-0.2")
        elif frame.step == 8:
            run.change(prompt="a rhinoceros | red:-0.1", near=2.0)
    cat, rhinoceros = seen[:3], seen[3:]  # the first step has a frame, too
    assert max(cat) < 0.35 and min(rhinoceros) > 0.5
    assert run.optimization.optimizer.state_dict()["state"][0]["step"] == 8, (
        "what is no draft of its own begins nothing"
    )


@pytest.mark.slow
def test_what_is_shown_goes_over(plain, tmp_path):
    run, seen = clipgen.Run("a cat", folder=tmp_path, **SMALL | {"ema": 0.8, "every": 1}), []
    for frame in run:
        seen.append(shade(frame.image))
        if frame.step == 4:
            run.change(prompt="a rhinoceros")
    assert seen[3] < seen[4] < seen[6] < seen[-1] and seen[-1] - seen[4] > 0.1


@pytest.mark.slow
def test_a_story_is_the_same_after_a_stop(plain, tmp_path):
    def frames(stop):
        run = clipgen.Run(STORY, folder=tmp_path, **SMALL)
        for frame in run:
            if frame.step == stop:
                run.stop()
        if stop:
            run = clipgen.Run.resume(run.journal.folder)
            list(run)
        score = run.journal.scores[4]
        assert run.views(score["step"], progress=False).score == pytest.approx(score["clip"], abs=1e-5)
        return [frame.tobytes() for frame in run.journal.frames()]

    whole = frames(None)
    assert frames(4) == whole and frames(6) == whole and frames(8) == whole


@pytest.mark.parametrize(
    ("prompt", "knobs", "steps"),
    [
        ("a cat | a rhinoceros@4-8:2", {}, 12),  # it joins, and takes nobody's place
        ("a cat@0-6 | a rhinoceros@4-", {}, 7),  # half way through the fading
        ("a cat@0-4 | a rhinoceros@8-", {}, 4),  # after a time without a goal
        ("a cat@0-6 | a rhinoceros@6-", {"size": "32x32@0-6, 64x64@6-"}, 6),
    ],
    ids=["joins", "fades", "gap", "grows"],
)
def test_when_it_begins_again(prompt, knobs, steps, plain, tmp_path):
    run = clipgen.Run(prompt, folder=tmp_path, **SMALL | knobs)
    list(run)
    assert run.optimization.optimizer.state_dict()["state"][0]["step"] == steps


@pytest.mark.slow
def test_a_story_of_several_in_one_tensor(plain, tmp_path):
    alone = clipgen.generate(STORY, folder=tmp_path, progress=False, **SMALL)
    made, _ = clipgen.batch(STORY, 2, batch=2, progress=False, folder=tmp_path, **SMALL)
    assert abs(shade(made.image) - shade(alone.image)) < 0.01


def test_a_masked_part_begins_with_its_draft(plain, tmp_path):
    photo, asked = Image.new("RGB", (64, 64), "black"), SMALL | {"mask": "left", "steps": 1}
    image = clipgen.generate("a cat", folder=tmp_path, progress=False, **asked | {"init": photo}).image
    assert image.getpixel((3, 60))[0] > 240 and image.getpixel((60, 3))[0] < 10
    image = clipgen.generate("a cat", folder=tmp_path, progress=False, **asked | {"init": photo, "near": 0.0}).image
    assert image.getpixel((3, 60))[0] < 10, "left to CLIP, it grows out of the picture"


def test_a_picture_alone_is_no_draft(tmp_path):
    run = clipgen.Run(Image.new("RGB", (64, 64), "red"), folder=tmp_path, **SMALL | {"init": "auto"})
    assert run.settings.init == "random" and clipgen.Run("red", folder=tmp_path).settings.init == "dalle"
