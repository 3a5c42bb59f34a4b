"""Views: what CLIP is shown."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clipgen.cutouts import AUGMENTATIONS, CutoutConfig, cutouts, rendering
from clipgen.errors import ClipgenError


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth(height=64, width=64):
    return F.interpolate(torch.rand(1, 3, 6, 6, generator=rng()), (height, width), mode="bicubic").clamp(0, 1)


def test_cutouts_are_views_with_a_gradient():
    images = torch.stack([torch.zeros(3, 96, 160), torch.ones(3, 96, 160)]).requires_grad_()
    views = cutouts(images, 5, 32, rng(), augment="flip, affine")
    assert views.shape == (10, 3, 32, 32)
    assert views[:5].abs().max() == 0 and views[5:].min() > 0.9999, "all views of a picture stand together"
    views.sum().backward()
    assert (images.grad != 0).float().mean() > 0.5
    assert torch.equal(cutouts(images, 2, 32, rng(1)), cutouts(images, 2, 32, rng(1)))
    assert not torch.equal(cutouts(images, 2, 32, rng(1)), cutouts(images, 2, 32, rng(2)))


def test_cutouts_average_what_is_far_larger():
    checks = (torch.arange(512)[:, None] + torch.arange(512)).remainder(2).float().expand(1, 3, 512, 512)
    assert (cutouts(checks, 4, 32, rng(), augment="flip, affine") - 0.5).abs().max() < 1e-5


def test_default_views_are_those_of_the_first_version():
    """Seeds keep their pictures where views do not shrink them: numbers of 4cbcd49, which were those of 0f331e1."""
    images = torch.linspace(0, 50, 2 * 3 * 24 * 40).sin().reshape(2, 3, 24, 40) / 2 + 0.5
    numbers = rng(5)
    views = cutouts(images, 3, 20, numbers)
    pixels = [0.486791, 0.120923, 0.281233, 0.432575, 0.288687, 0.293128]
    deviations = [0.352193, 0.35159, 0.354168, 0.352572, 0.352186, 0.351122]
    assert views[:, 1, 9, 15].tolist() == pytest.approx(pixels, abs=1e-5)
    assert views.std((1, 2, 3)).tolist() == pytest.approx(deviations, abs=1e-5)
    assert float(torch.rand((), generator=numbers)) == pytest.approx(0.772135, abs=1e-6), "as many numbers are drawn"


PER_STEP = ("erase_all", "levels")  # all views of a step have it, or none
PER_VIEW = [name for name in AUGMENTATIONS if name not in PER_STEP]
ALL = ", ".join(PER_VIEW)


@pytest.mark.parametrize("augment", ["", *PER_VIEW, "erase_all", ALL])
@pytest.mark.parametrize("padding", ["border", "grey"])
def test_views_in_parts_are_the_same_views(augment, padding):
    images = torch.cat([smooth(), 1 - smooth()]).requires_grad_()
    how = CutoutConfig(cutouts=7, augment=augment, padding=padding)
    views = how.sample(images.shape, 24, rng(3))
    whole = views.render(images)
    parts = [views.render(images, part).unflatten(0, (2, -1)) for part in (slice(0, 3), slice(3, 4), slice(4, 7))]
    assert torch.cat(parts, 1).flatten(0, 1).allclose(whole, atol=1e-5), "threads may round otherwise"
    assert whole.shape == (14, 3, 24, 24)
    whole.square().sum().backward()
    assert (images.grad != 0).float().mean() > 0.5
    assert not torch.equal(how.sample(images.shape, 24, rng(4)).render(images), whole)


@pytest.mark.parametrize("views", [1, 5, 8])
@pytest.mark.parametrize("padding", ["border", "reflection", "zeros"])
def test_views_of_one_tall_grid_are_those_of_a_grid_each(views, padding):
    images = torch.cat([smooth(40, 30), 1 - smooth(40, 30)]).requires_grad_()
    grid = rendering.sampling_coords(CutoutConfig(cutouts=views, augment=ALL).sample(images.shape, 9, rng(2)).warp, 9)
    tall = rendering.sample_grid(images, grid, padding)
    each = F.grid_sample(images.repeat_interleave(views, 0), grid, padding_mode=padding, align_corners=False)
    pull = torch.randn(tall.shape, generator=rng())
    ours, theirs = (torch.autograd.grad((seen * pull).sum(), images)[0] for seen in (tall, each))
    assert torch.allclose(tall, each, atol=1e-6) and torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["border", "reflection", "grey", "wrap"])
def test_the_gradient_of_views_is_that_of_finite_differences(padding):
    image = smooth(12, 14).double().requires_grad_()
    views = CutoutConfig(cutouts=3, augment=ALL, padding=padding).sample(image.shape, 4, rng(6))
    numbers = {
        key: value for key, value in vars(views).items() if isinstance(value, Tensor) and value.is_floating_point()
    }
    fine = replace(views, **{key: value.double() for key, value in numbers.items()})
    assert torch.autograd.gradcheck(fine.render, image)
    pull = torch.randn(9, 4, 4, generator=rng()).view(3, 3, 4, 4)
    exact, coarse = image.detach().requires_grad_(), image.detach().float().requires_grad_()
    fine.render(exact).backward(pull.double())
    views.render(coarse).backward(pull)
    assert torch.allclose(coarse.grad.double(), exact.grad, atol=1e-5)


@pytest.mark.parametrize("name", PER_VIEW)
def test_each_augmentation_does_something_to_its_share_of_the_views(name):
    image = smooth()
    how = {"count": 400, "size": 16, "cut_min": 1, "cut_max": 1}
    plain = cutouts(image, rng=rng(), augment="", **how)
    changed = (cutouts(image, rng=rng(), augment=f"{name}:0.3", **how) - plain).abs().mean((1, 2, 3)) > 1e-4
    assert changed.float().mean() == pytest.approx(0.3, abs=0.08)


@pytest.mark.slow
@pytest.mark.parametrize("name", PER_STEP)
def test_some_augmentations_are_on_all_views_of_a_step_or_on_none(name):
    image, steps = 0.3 + 0.4 * smooth(), []
    for step in range(100):
        how = {"count": 3, "size": 16, "cut_min": 1, "cut_max": 1}
        plain = cutouts(image, rng=rng(step), augment="", **how)
        changed = (cutouts(image, rng=rng(step), augment=f"{name}:0.3", **how) - plain).abs().mean((1, 2, 3)) > 1e-4
        assert changed.all() or not changed.any()
        steps.append(float(changed[0]))
    assert sum(steps) / 100 == pytest.approx(0.3, abs=0.12)


@pytest.mark.parametrize(
    "text",
    [
        *("flip, flop", "affine=x", "affine:1.5", "affine=15:0.7:0.2", "=3"),
        *("affine + flop", "affine:0.5 + shear", "+", "affine +", "erase, erase_all"),
    ],
)
def test_what_is_no_augmentation_is_refused(text):
    with pytest.raises(ClipgenError, match="augment="):
        CutoutConfig(augment=text)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_augmentation_of_strength_0_is_none(name):
    how = {"count": 9, "size": 16, "cut_min": 1, "cut_max": 1}
    plain = cutouts(smooth(), rng=rng(), augment="", **how)
    assert torch.equal(cutouts(smooth(), rng=rng(), augment=f"{name}=0:1", **how), plain)


@pytest.mark.parametrize("shape", [(1, 512), (512, 1), (1, 60)])
def test_cutouts_of_a_line_of_pixels_average_it(shape):
    line = torch.arange(max(shape)).remainder(2).float().view(1, 1, *shape).expand(1, 3, *shape)
    views = cutouts(line, 4, 16, rng(), augment="", overview=1.0)
    assert (views - 0.5).abs().max() < 1e-5


def test_erased_views_have_a_black_hole():
    views = cutouts(torch.ones(1, 3, 64, 64), 50, 32, rng(), augment="erase=0.3")
    share = (views == 0).float().mean((1, 2, 3))
    assert 0.12 < share.mean() < 0.25 and share.min() > 0.05 and share.max() < 0.4


def test_shifted_views_show_the_edge_and_grain_differs_from_view_to_view():
    image = torch.zeros(1, 3, 64, 64)
    image[..., 24:40, 24:40] = 1
    whole = {"cut_min": 1, "cut_max": 1}
    still = cutouts(image, 12, 32, rng(), augment="", **whole)
    moved = cutouts(image, 12, 32, rng(), augment="shift=0.25", **whole)
    places = torch.stack([(view[0] > 0.5).nonzero().float().mean(0) for view in moved])
    assert (still - still[:1]).abs().max() < 1e-6 and places.std(0).min() > 2 and (places - 15.5).abs().max() <= 8.5
    grain = cutouts(image * 0, 200, 16, rng(), augment="grain=0.2", **whole)
    strength = grain.std((1, 2, 3))
    assert strength.min() < 0.02 and 0.17 < strength.max() < 0.23 and strength.mean() == pytest.approx(0.1, abs=0.02)


def test_perspective_draws_the_corners_in():
    inwards = torch.rand(5, 4, 2, generator=rng()) * 0.6
    seen_at = rendering.CORNERS * (1 - inwards)
    shown = torch.cat([seen_at, torch.ones(5, 4, 1)], -1) @ rendering.perspective(inwards).mT
    assert torch.allclose(shown[..., :2] / shown[..., 2:], rendering.CORNERS.expand(5, 4, 2), atol=1e-4)
    assert torch.allclose(rendering.perspective(torch.zeros(1, 4, 2)), torch.eye(3), atol=1e-6)


def test_colours():
    colour, one = torch.tensor([0.8, 0.3, 0.1]), torch.ones(1)

    def tinted(light=0.0, contrast=1.0, saturation=1.0, hue=0.0):
        matrix = rendering.colour_matrix(*(one * number for number in (light, contrast, saturation, hue)))[0]
        return matrix[:, :3] @ colour + matrix[:, 3]

    assert torch.allclose(tinted(), colour, atol=1e-6)
    assert torch.allclose(tinted(saturation=0), colour.mean().expand(3), atol=1e-6)
    assert torch.allclose(tinted(hue=1 / 3), colour.roll(1), atol=1e-6), "a third of a turn: red becomes green"
    assert torch.allclose(tinted(light=0.1, contrast=0.5), (colour - 0.5) / 2 + 0.6, atol=1e-6)


@pytest.mark.parametrize("padding", ["border", "reflection", "black", "grey"])
def test_what_lies_beyond_the_picture(padding):
    image = 0.5 + 0.4 * smooth()
    views = cutouts(image, 8, 32, rng(2), augment="", cut_min=2, cut_max=2, padding=padding)
    corners = views[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    if padding == "black":
        assert corners.min() == 0
    if padding == "grey":
        level = corners.flatten(0).mode().values
        assert (corners.sub(level).abs() < 1e-6).float().mean() > 0.4 and 0 < level < 1
    if padding in ("border", "reflection"):
        assert views.min() > 0.4


def test_sizes_and_overviews():
    image = smooth(64, 128)

    def sides(**settings):
        views = CutoutConfig(cutouts=4000, augment="", **settings).sample(image.shape, 16, rng())
        return views.warp[:, 1, 1]  # shares of the height, the shorter side

    own = sides(cut_min=0, cut_max=1)
    assert own.min() == pytest.approx(16 / 64, abs=0.01) and own.mean() == pytest.approx(0.625, abs=0.01)
    area = sides(cut_min=0.5, cut_max=1, cut_sizes="area").square()
    assert area.mean() == pytest.approx(0.625, abs=0.01), "areas are spread evenly"
    normal = sides(cut_min=0.5, cut_max=1.5, cut_sizes="normal")
    assert normal.mean() == pytest.approx(1, abs=0.01) and normal.std() == pytest.approx(0.2, abs=0.01)
    wide = sides(cut_min=0.3, cut_max=0.3, overview=0.25, overview_size=1.0)
    assert (wide > 1.9).float().mean() == 0.25, "those see all of the longer side"


def test_several_large_pictures_have_as_many_cutouts_each():
    """Cutouts are sorted by how much a picture is pooled for them: more levels than there are cutouts."""
    images = torch.stack([torch.full((3, 512, 512), level) for level in (0.0, 1.0)])
    for seed in range(20):
        rng = torch.Generator().manual_seed(seed)
        made = cutouts(images, 3, 8, rng, cut_min=0.05, cut_max=1.0, augment="")
        assert made.shape == (6, 3, 8, 8) and made.mean((1, 2, 3)).tolist() == [0, 0, 0, 1, 1, 1]
