import pytest
import torch

from clipgen.mini.scenes import COLOURS
from clipgen.mini.training.data import is_held_out
from clipgen.mini.training.sampler import PLAIN, SceneSampler, paint, tint


@pytest.mark.slow
def test_scenes_are_what_they_say(drawings):
    batch = SceneSampler(drawings, ~drawings.held_out(), 64, seed=1).batch(400)
    again = SceneSampler(drawings, ~drawings.held_out(), 64, seed=1).batch(400)
    assert torch.equal(batch.images, again.images) and batch.captions == again.captions
    assert batch.images.shape == (400, 3, 64, 64) and batch.images.min() >= 0 and batch.images.max() <= 1
    names = [thing.name for thing in drawings.things]
    trained = {(c, n) for text in batch.captions for n in names for c in COLOURS if f"{c} {n}" in text}
    assert trained and not any(is_held_out(c, n) for c, n in trained), "held-out combinations are never trained on"
    assert any(" next to " in c or " above " in c for c in batch.captions)


def test_equal_captions_count_as_the_same(drawings):
    batch = SceneSampler(drawings, ~drawings.held_out(), 64, seed=1, mix=PLAIN).batch(60)
    wanted = [[float(a == b) for b in batch.captions] for a in batch.captions]
    assert batch.same().tolist() == wanted
    assert batch.same().sum() > 60, "some captions of so few things come twice"


@pytest.mark.slow
def test_crops_are_pieces_of_scenes(drawings):
    pieces = SceneSampler(drawings, ~drawings.held_out(), 128, seed=1).crops(8, 64)
    scenes = SceneSampler(drawings, ~drawings.held_out(), 128, seed=1).batch(2).images
    assert pieces.shape == (8, 3, 64, 64)
    places = scenes[0].unfold(1, 64, 1).unfold(2, 64, 1).movedim(0, 2)
    assert (places == pieces[0]).flatten(2).all(2).any(), "each is somewhere in its scene"


def test_a_tenth_of_all_combinations_is_held_out():
    words = [f"thing {i}" for i in range(300)]
    share = sum(is_held_out(colour, word) for colour in COLOURS for word in words) / (300 * len(COLOURS))
    assert 0.08 < share < 0.12
    assert all(is_held_out("blue", word) == is_held_out(word, "blue") for word in words)


@pytest.mark.parametrize("size", [(64, 64), (48, 96)])
def test_a_drawing_lies_where_it_was_put(size):
    canvas, square = torch.zeros(1, 3, *size), torch.ones(1, 4, 16, 16)
    right = paint(canvas, square, torch.tensor([0.5]), torch.tensor([0.5]), torch.tensor([0.0]), torch.tensor([False]))
    height, width = size
    ys, xs = (right[0, 0] > 0.5).nonzero(as_tuple=True)
    assert ys.float().mean() + 0.5 == pytest.approx(height / 2, abs=1)
    assert xs.float().mean() + 0.5 == pytest.approx(0.75 * width, abs=1)
    assert len(ys) == pytest.approx((min(size) / 2) ** 2, rel=0.1), "half of the shorter side"


def test_a_tinted_drawing_keeps_its_light_and_shade():
    ramp = torch.linspace(0, 1, 9).expand(3, 1, 9)
    red = tint(ramp, "red")
    assert (red.mean(0)[0].diff() > 0).all()
    assert torch.allclose(red[:, 0, 4], torch.tensor(COLOURS["red"])), "the middle is the colour itself"
    assert tint(ramp, None) is ramp
