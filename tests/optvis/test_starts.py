"""Where runs begin."""

import pytest
import torch

import clipgen
from clipgen.images.palette import colour
from clipgen.optvis import starts
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
def test_a_drawing_is_held_firmly_by_a_decoder_alone(tmp_path):
    asked = {"init": "dalle", "steps": 1, "cutouts": 2, "size": (64, 64), "folder": tmp_path}
    held = []
    for generator in ("mini-vqgan", "stack"):
        run = clipgen.Run("a cat", generator=generator, **asked)
        list(run)
        held += [goal.strength for goal in run.render.recipe.goals]
    assert held == [12.0, 1.2]
