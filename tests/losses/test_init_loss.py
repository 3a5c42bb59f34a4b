"""Nearness to a drawing that is to be coloured in."""

import pytest
import torch
from torch.nn import functional as F

from clipgen.losses.regularisers import box_blur, colouring_distance


def drawing():
    """A grey face with two dark eyes on white paper, and a red spot beside it."""
    image = torch.ones(1, 3, 64, 64)
    image[..., 16:48, 16:48] = 0.5
    image[..., 28:32, 24:28] = image[..., 28:32, 36:40] = 0.2
    image[..., 4:12, 50:60] = torch.tensor([0.9, 0.1, 0.1])[:, None, None]
    return image


def face(image, colour):
    """The same with its grey in another colour, as light in its eyes as they were."""
    made = image.clone()
    made[..., 16:48, 16:48] += torch.tensor(colour)[:, None, None]
    return made


def test_what_is_grey_may_take_any_colour():
    image = drawing()
    assert colouring_distance(image, image) == 0
    hue = colouring_distance(face(image, (0.3, -0.15, -0.0102)), image)  # as light as before
    erased = image.clone()
    erased[..., 28:32, 24:40] = 0.5
    repainted, dirty = image.clone(), image.clone()
    repainted[..., 4:12, 50:60] = torch.tensor([0.1, 0.1, 0.9])[:, None, None]
    dirty[..., 52:, :20] = 0.7
    assert hue < 1e-3
    for other in (erased, repainted, dirty):
        assert colouring_distance(other, image) > 100 * hue + 0.02


def test_a_thing_may_become_lighter_as_a_whole_but_for_its_border():
    image = drawing()
    lighter = colouring_distance(face(image, (0.2, 0.2, 0.2)), image)
    flat = image.clone()
    flat[..., 16:48, 16:48] = 0.7  # as light, without eyes
    assert lighter < colouring_distance(flat, image)


@pytest.mark.parametrize("size", [(8, 8), (16, 200)])
def test_it_has_a_gradient_at_any_size(size):
    image = torch.rand(1, 3, *size, requires_grad=True)
    colouring_distance(image, torch.rand(1, 3, *size)).backward()
    assert image.grad.isfinite().all() and image.grad.abs().sum() > 0


@pytest.mark.parametrize(("size", "reach"), [((9, 7), 1), ((16, 40), 5)])
def test_the_mean_around_a_place_is_that_of_a_pool(size, reach):
    image = torch.rand(2, 3, *size)
    pool = F.avg_pool2d(F.pad(image, (reach,) * 4, mode="replicate"), 2 * reach + 1, stride=1)
    torch.testing.assert_close(box_blur(image, reach), pool)
