"""What views of a recipe show over 200 steps, beside its source's: how much black, and how many views are untouched.

Also what a view gathers of the pixels that it covers. The sources' maps are torchvision's here: those of kornia 0.5.4,
with which nerdyrodent's notebook ran, move a picture up and down alone where one number is given, turn and shear and
move the same views, and erase one box in all views of a step or in none.
"""

import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

from clipgen.cutouts import CutoutConfig
from clipgen.runs.settings import build

STEPS, SIDE = 200, 24


def draws(name, augment=None):
    """A recipe's views of a white picture, step by step, without what changes colours."""
    cutouts = build("a city", {"recipe": name}).select(CutoutConfig)
    plain = [item for item in cutouts.augment.split(", ") if not item.startswith(("grain", "colour", "levels"))]
    cutouts = dataclasses.replace(cutouts, augment=", ".join(plain) if augment is None else augment, lift=0.0)
    for step in range(STEPS):
        yield cutouts.sample((1, 3, SIDE, SIDE), SIDE, torch.Generator().manual_seed(step))


def black(views):
    """The share of black in views of a white picture."""
    return float((views < 0.5).float().mean())


def uniform(low, high):
    return float(torch.empty(()).uniform_(low, high))


def nerdyrodent_step():
    """Half of the 32 views of a white picture as kornia 0.5.4 made them."""
    views = []
    for _ in range(16):
        view = torch.ones(1, SIDE, SIDE)
        if uniform(0, 1) < 0.7:
            move = [0, round(uniform(-0.1, 0.1) * SIDE)]
            view = tv.affine(view, uniform(-15, 15), move, 1.0, [uniform(-5, 5), 0.0], tv.InterpolationMode.BILINEAR)
        if uniform(0, 1) < 0.7:
            end = SIDE - 1
            corners = [[0, 0], [end, 0], [end, end], [0, end]]
            inwards = [[uniform(0, 0.35 * SIDE), uniform(0, 0.35 * SIDE)] for _ in corners]
            moved = [[abs(x - dx), abs(y - dy)] for (x, y), (dx, dy) in zip(corners, inwards, strict=True)]
            view = tv.perspective(view, corners, moved, tv.InterpolationMode.BILINEAR)
        views.append(view)
    views = torch.stack(views)
    if uniform(0, 1) < 0.7:
        area, ratio = uniform(0.1, 0.4), uniform(0.3, 1) if uniform(0, 1) < 0.5 else uniform(1, 1 / 0.3)
        height, width = (min(SIDE, round(SIDE * math.sqrt(area * r))) for r in (ratio, 1 / ratio))
        top, left = (int(torch.randint(SIDE - side + 1, ())) for side in (height, width))
        views[:, :, top : top + height, left : left + width] = 0
    return views


def murdock_step():
    """Views of a white picture with half a side of black around it, turned and moved as a whole."""
    half = SIDE // 2
    picture = F.pad(torch.ones(1, 1, SIDE, SIDE), [half] * 4)
    move = [round(uniform(-0.1, 0.1) * 2 * SIDE) for _ in range(2)]
    picture = tv.affine(picture, uniform(-24, 24), move, 1.0, [0.0, 0.0])
    shares = []
    for number in range(32):
        side = int(float((1.2 + 0.3 * torch.randn(())).clamp(0.43, 1.9)) * SIDE)
        side = int(1.4 * SIDE) if number >= 29 else side
        top, left = (int(torch.randint(2 * SIDE - side, ())) for _ in range(2))
        shares.append(black(picture[..., top : top + side, left : left + side]))
    return sum(shares) / 32


@pytest.mark.slow
def test_nerdyrodents_views_are_as_black():
    torch.manual_seed(0)
    theirs = sum(black(nerdyrodent_step()) for _ in range(STEPS)) / STEPS
    white = torch.ones(1, 3, SIDE, SIDE)
    share = sum(black(views.render(white)) for views in draws("nerdyrodent")) / STEPS
    assert share == pytest.approx(theirs, rel=0.05)


def test_nerdyrodents_maps_are_on_the_same_views():
    """Of its views 30% are neither turned nor sheared nor moved; each map by itself would leave 2.7%."""
    warps = torch.cat([views.warp for views in draws("nerdyrodent", "affine=15 + shear=5 + shift_y=0.1:0.7")])
    assert ((warps - torch.eye(3)).abs().amax((1, 2)) < 1e-6).float().mean() == pytest.approx(0.3, rel=0.05)
    moved = (warps - torch.eye(3)).abs() > 1e-6
    assert moved[:, :2, :2].any(2).any(1).float().mean() == pytest.approx(0.7, rel=0.05)
    assert not moved[:, 0, 2].any(), "left and right"
    assert torch.equal(moved[:, 1, 2], moved[:, 0, 1])
    assert warps[:, 1, 2].abs().max() <= 0.2 and warps[moved[:, 1, 2], 1, 2].std() == pytest.approx(0.1155, rel=0.05)


def test_a_box_is_erased_in_all_views_of_a_step_or_in_none():
    steps = [*draws("nerdyrodent", "erase_all=0.4:0.7")]
    assert all((views.hole == views.hole[:1]).all() for views in steps)
    erased = sum(bool(views.hole[0, 2:].prod() > 0) for views in steps) / STEPS
    assert erased == pytest.approx(0.7, abs=0.05)


@pytest.mark.slow
def test_murdocks_views_are_as_black():
    """Those of both recipes, which show a picture to CLIP in the same views."""
    torch.manual_seed(0)
    theirs = sum(murdock_step() for _ in range(STEPS)) / STEPS
    white = torch.ones(1, 3, SIDE, SIDE)
    for name in ("murdock-dalle", "murdock-vqgan"):
        assert sum(black(views.render(white)) for views in draws(name)) / STEPS == pytest.approx(theirs, rel=0.05)


@pytest.mark.parametrize("name", ["crowson", "das"])
def test_no_view_of_the_others_is_black(name):
    white = torch.ones(1, 3, SIDE, SIDE)
    assert all(black(views.render(white)) == 0 for views in draws(name))


def test_pixrays_views_are_leaned_as_often():
    warps = torch.cat([views.warp for views in draws("pixray")])
    assert (warps[:, 2, :2].abs().amax(1) > 1e-6).float().mean() == pytest.approx(0.7, rel=0.05)


def test_pixrays_views_are_stretched_together():
    """Its CLIP was shown each batch from its least, as black, to its most, as white."""
    cutouts = build("a city", {"recipe": "pixray"}).select(CutoutConfig)
    picture = 0.3 + 0.4 * torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    draw = cutouts.sample(picture.shape, 32, torch.Generator().manual_seed(0))
    plain = dataclasses.replace(draw, levels=False).render(picture)
    stretched = (plain - plain.min()) / (plain.max() - plain.min())
    assert (draw.render(picture) - stretched).abs().max() < 1e-6
    two = cutouts.sample((2, 3, 64, 64), 32, torch.Generator().manual_seed(0)).render(torch.cat([picture, picture / 2]))
    assert [(views.min(), views.max()) for views in two.split(30)] == [(0, 1), (0, 1)], "each picture by itself"


def lanczos(image, size):
    """Resized by a Lanczos kernel of two lobes, as wide as a pixel of the smaller picture covers."""

    def kernel(length):
        ratio = length / size
        x = (torch.arange(length) - ((torch.arange(size) + 0.5) * ratio - 0.5)[:, None]) / ratio
        weights = torch.where(x.abs() < 2, torch.sinc(x) * torch.sinc(x / 2), torch.zeros(()))
        return weights / weights.sum(1, keepdim=True)

    return kernel(image.shape[-2]) @ image @ kernel(image.shape[-1]).T


@pytest.mark.parametrize(("side", "size"), [(480, 224), (512, 224), (128, 64), (300, 224), (1024, 224)])
def test_every_pixel_has_a_gradient_where_a_view_shrinks_the_picture(side, size):
    """Bilinear sampling alone left 25% of the pixels of Crowson's full view without one, and a cosine of 0.68."""
    picture = F.interpolate(torch.rand(1, 3, 16, 16), (side, side), mode="bicubic").requires_grad_()
    views = CutoutConfig(cutouts=1, cut_min=1, cut_max=1, augment="").sample(picture.shape, size, torch.Generator())
    pull = F.interpolate(torch.randn(1, 3, size // 4, size // 4), (size, size), mode="bicubic")
    shown = views.render(picture)
    (ours,) = torch.autograd.grad((shown * pull).sum(), picture)
    (theirs,) = torch.autograd.grad((lanczos(picture, size) * pull).sum(), picture)
    assert (ours == 0).float().mean() < 0.01
    assert F.cosine_similarity(ours.flatten(), theirs.flatten(), 0) > 0.95
    assert ours.norm() == pytest.approx(float(theirs.norm()), rel=0.05)
    assert (shown - lanczos(picture, size)).abs().mean() < 0.005


def test_views_keep_their_order_and_parts_are_the_same():
    """Large and small views are sampled from different averages of the picture, and come back in the order drawn."""
    pictures = torch.rand(2, 3, 96, 80, generator=torch.Generator().manual_seed(0))
    for padding in ("border", "wrap", "black"):
        cutouts = CutoutConfig(cutouts=12, cut_min=0.2, cut_max=1.2, padding=padding, augment="flip, affine=20")
        views = cutouts.sample(pictures.shape, 24, torch.Generator().manual_seed(3))
        whole = views.render(pictures).unflatten(0, (2, 12))
        parts = [views.render(pictures, slice(i, i + 1)).unflatten(0, (2, 1)) for i in range(12)]
        assert (whole - torch.cat(parts, 1)).abs().max() < 1e-5
