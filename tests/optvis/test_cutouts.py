"""Views: what CLIP is shown."""

import pytest
import torch
from torch.nn import functional as F

from clipgen.errors import ClipgenError
from clipgen.optvis.cutouts import AUGMENTATIONS, Cutouts, cutouts, plan


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth(height=64, width=64):
    return F.interpolate(torch.rand(1, 3, 6, 6, generator=rng()), (height, width), mode="bicubic").clamp(0, 1)


def test_cutouts_are_views_with_a_gradient():
    images = torch.stack([torch.zeros(3, 96, 160), torch.ones(3, 96, 160)]).requires_grad_()
    views = cutouts(images, 5, 32, rng(), noise=0)
    assert views.shape == (10, 3, 32, 32)
    assert views[:5].abs().max() == 0 and views[5:].min() > 0.9999, "all views of a picture stand together"
    views.sum().backward()
    assert (images.grad != 0).float().mean() > 0.5
    assert torch.equal(cutouts(images, 2, 32, rng(1)), cutouts(images, 2, 32, rng(1)))
    assert not torch.equal(cutouts(images, 2, 32, rng(1)), cutouts(images, 2, 32, rng(2)))


def test_cutouts_average_what_is_far_larger():
    checks = (torch.arange(512)[:, None] + torch.arange(512)).remainder(2).float().expand(1, 3, 512, 512)
    assert (cutouts(checks, 4, 32, rng(), noise=0) - 0.5).abs().max() < 1e-5


def test_default_views_are_those_of_the_first_version():
    """Seeds keep their pictures: numbers of commit 0f331e1, where drawing and rendering were one."""
    images = torch.linspace(0, 50, 2 * 3 * 24 * 40).sin().reshape(2, 3, 24, 40) / 2 + 0.5
    numbers = rng(5)
    views = cutouts(images, 3, 8, numbers)
    pixels = [0.310085, 0.126191, 0.191748, 0.354265, 0.176582, 0.207413]
    deviations = [0.33719, 0.331566, 0.336577, 0.339372, 0.337891, 0.332896]
    assert views[:, 1, 3, 6].tolist() == pytest.approx(pixels, abs=1e-5)
    assert views.std((1, 2, 3)).tolist() == pytest.approx(deviations, abs=1e-5)
    assert float(torch.rand((), generator=numbers)) == pytest.approx(0.526119, abs=1e-6), "as many numbers are drawn"


@pytest.mark.parametrize("augment", [(), *((name,) for name in AUGMENTATIONS), AUGMENTATIONS])
def test_views_in_parts_are_the_same_views(augment):
    images = torch.cat([smooth(), 1 - smooth()]).requires_grad_()
    views = plan(images.shape, 7, 24, rng(3), augment=augment)
    whole = views.render(images)
    parts = [views.render(images, part).unflatten(0, (2, -1)) for part in (slice(0, 3), slice(3, 4), slice(4, 7))]
    assert torch.equal(torch.cat(parts, 1).flatten(0, 1), whole) and whole.shape == (14, 3, 24, 24)
    whole.square().sum().backward()
    assert (images.grad != 0).float().mean() > 0.5
    assert not torch.equal(plan(images.shape, 7, 24, rng(4), augment=augment).render(images), whole)


def test_each_augmentation_does_something():
    image = smooth()
    plain = plan(image.shape, 6, 32, rng(), augment=()).render(image)
    for name in AUGMENTATIONS:
        assert (plan(image.shape, 6, 32, rng(), augment=(name,)).render(image) - plain).abs().mean() > 1e-3, name
    with pytest.raises(ClipgenError, match="augment='flop': choose among flip"):
        Cutouts(augment="flip, flop")


def test_erased_views_have_a_grey_hole():
    views = plan((1, 3, 64, 64), 20, 32, rng(), augment=("erase",)).render(torch.ones(1, 3, 64, 64))
    share = (views == 0.5).float().mean((1, 2, 3))
    assert 0.03 < share.mean() < 0.2 and (share > 0).all()


def test_shifted_views_show_the_edge_and_grain_differs_from_view_to_view():
    image = torch.zeros(1, 3, 64, 64)
    image[..., 24:40, 24:40] = 1
    settings = {"smallest": 1, "largest": 1}
    still = plan(image.shape, 12, 32, rng(), augment=(), **settings).render(image)
    moved = plan(image.shape, 12, 32, rng(), augment=("shift",), shift=0.25, **settings).render(image)
    places = torch.stack([(view[0] > 0.5).nonzero().float().mean(0) for view in moved])
    assert (still - still[:1]).abs().max() < 1e-6 and places.std(0).min() > 2 and (places - 15.5).abs().max() <= 8.5
    grain = plan(image.shape, 200, 16, rng(), augment=("grain",), noise=0.2, **settings).render(image * 0)
    strength = grain.std((1, 2, 3))
    assert strength.min() < 0.02 and 0.17 < strength.max() < 0.23 and strength.mean() == pytest.approx(0.1, abs=0.02)
