"""The stack: its resolutions, where they lie, and that the coarse ones come first."""

import pytest
import torch

from clipgen.generators import Entry
from clipgen.generators.pixels import Stack


@pytest.fixture
def stack():
    return Stack("stack", Entry("", native_size=128, stride=1), torch.device("cpu"))


def sizes(stack, size):
    return [tuple(level.shape[-2:]) for level in stack.levels(torch.zeros(stack.shape(size)))]


def test_the_resolutions_halve_down_to_one_pixel(stack):
    assert sizes(stack, (128, 128)) == [(2**i, 2**i) for i in range(7, -1, -1)]
    assert sizes(stack, (5, 12)) == [(5, 12), (3, 6), (2, 3), (1, 2), (1, 1)]
    assert len(sizes(stack, (512, 512))) == 10


def test_a_latent_tells_its_picture_s_size(stack):
    """Whatever the size, the shape of its latent belongs to no other; and a third more is all that it takes."""
    owners = {}
    for width in (4, 5, 31, 64):
        for height in range(4, 140):
            shape = stack.shape((height, width))
            assert owners.setdefault(shape, (height, width)) == (height, width)
            assert sizes(stack, (height, width))[0] == (height, width)
    assert stack.shape((128, 128)) == (1, 3, 171, 128)


def test_levels_are_views_that_do_not_overlap(stack):
    latent = torch.zeros(2, 3, *stack.shape((20, 33))[2:])
    for i, level in enumerate(stack.levels(latent), 1):
        assert not level.any()
        level += i
    assert (latent != 0).sum() == sum(level.numel() for level in stack.levels(latent))


def test_encoding_gives_the_coarse_levels_what_they_can_show(stack):
    """A plain colour is all in the single pixel, a smooth ramp hardly in the finest."""
    plain = stack.levels(stack.encode(torch.tensor([0.9, 0.5, 0.2])[None, :, None, None].expand(1, 3, 32, 48)))
    assert plain[-1].abs().sum() > 1 and all(level.abs().max() < 1e-5 for level in plain[:-1])
    ramp = stack.levels(stack.encode(torch.linspace(0.2, 0.8, 64).expand(1, 3, 64, 64)))
    assert ramp[0].abs().mean() < 0.01 * sum(level.abs().mean() for level in ramp)


def test_one_step_of_adam_moves_a_colour_by_every_level(stack):
    latent = stack.start((32, 32), torch.Generator().manual_seed(0)).requires_grad_()
    before = stack.to_logits(latent).mean()
    optimiser = torch.optim.Adam([latent], lr=0.01)
    stack.image(latent).mean().backward()
    optimiser.step()
    after = stack.to_logits(latent).mean()
    assert float((before - after).detach()) == pytest.approx(6 * 0.01, rel=0.05)
