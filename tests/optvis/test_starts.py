"""Where runs begin."""

import pytest
import torch

import clipgen
from clipgen.images.palette import colour
from clipgen.mini import drafts
from clipgen.optvis import starts
from clipgen.optvis.drawn import Dalle
from clipgen.optvis.prompt import Prompt
from clipgen.registry import STARTS


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


MADE = {name: STARTS[name]() for name in ("noise", "perlin", "gradient")} | {
    name: starts.Colour(colour(name)) for name in ("navy", "#ff8000")
}


@pytest.mark.parametrize("name", MADE)
def test_made_starts(name):
    first, again, other = (MADE[name].draw((24, 40), rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (1, 3, 24, 40) and first.min() >= 0 and first.max() <= 1
    assert torch.equal(first, again) and torch.equal(first, other) == isinstance(MADE[name], starts.Colour)


def test_made_starts_are_as_rough_as_they_say():
    noise, perlin, gradient = (
        MADE[name].draw((64, 64), rng()).diff(dim=-1).abs().mean() for name in ("noise", "perlin", "gradient")
    )
    assert noise > 4 * perlin > 4 * gradient and colour("a fox") is None


@pytest.mark.parametrize(
    ("init", "goals"), [("random", 0), ("perlin", 1), pytest.param("collage", 1, marks=pytest.mark.slow)]
)
def test_random_codes_have_no_goal_even_in_a_mask(init, goals, tmp_path):
    run = clipgen.Run("a cat", init=init, mask="left", steps=1, cutouts=2, size=(64, 64), folder=tmp_path)
    list(run)
    assert len(run.render.recipe.goals) == goals


@pytest.mark.slow
def test_a_drawing_is_held_firmly_by_a_decoder_and_coloured_without_one(tmp_path):
    asked = {"init": "dalle", "steps": 1, "cutouts": 2, "size": (64, 64), "folder": tmp_path}
    held = {}
    for generator in ("mini-vqgan", "stack"):
        run = clipgen.Run("a blue cat", generator=generator, **asked)
        list(run)
        (held[generator],) = run.render.recipe.goals
    assert [goal.strength for goal in held.values()] == [12.0, 0.1]
    blue = [float(goal.image[:, 2].mean() - goal.image.mean()) for goal in held.values()]
    assert blue[0] > 0 > blue[1], "the stack begins with a cat in its own colours"


def test_each_thing_is_drawn_alone():
    told = {
        "a green cat": ["a cat"],
        "an orange fish": ["a fish"],
        "a red apple and a banana": ["an apple", "a banana"],
        "a red car in the snow": ["a car in the snow"],
        "the sun over the sea and a boat": ["the sun over the sea and a boat"],
    }
    assert {text: drafts.things(text) for text in told} == told
    assert drafts.things("red") == ["red"]


def test_drawings_stand_side_by_side(monkeypatch):
    monkeypatch.setattr(
        Dalle, "_image", lambda _, __, prompts, size: torch.full((1, 3, *size), len(prompts[0].text) / 10)
    )
    param = clipgen.load_generator("stack")
    scene = starts.Scene(
        param, None, (64, 96), 0, rng(), param.start((64, 96), rng()), [Prompt("a cat and a red horse")]
    )
    image = drafts.Drafts()._image(scene, scene.prompts, scene.size)
    assert image.shape == (1, 3, 64, 96)
    assert image[0, 0, 32, [0, 47, 48, 95]].tolist() == pytest.approx([0.5, 0.5, 0.7, 0.7]) and image[0, 0, 4, 4] == 1
