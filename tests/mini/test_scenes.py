import pytest
import torch

from clipgen.mini.scenes import COLOURS, PLACES, background, held_out, paint, tint


def test_a_tenth_of_all_combinations_is_held_out():
    words = [f"thing {i}" for i in range(300)]
    share = sum(held_out(colour, word) for colour in COLOURS for word in words) / (300 * len(COLOURS))
    assert 0.08 < share < 0.12
    assert all(held_out("blue", word) == held_out(word, "blue") for word in words)


@pytest.mark.parametrize("place", PLACES)
def test_a_background_is_a_picture(place):
    picture = background(place, 48, torch.Generator().manual_seed(0))
    assert picture.shape == (3, 48, 48) and picture.min() >= 0 and picture.max() <= 1
    assert picture[0].std() > 0.01, "there is something to see"


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
