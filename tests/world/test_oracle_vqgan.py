"""``crowson``, ``nerdyrodent`` and ``pixray`` beside the loops of their sources, all of which move a VQGAN's latent.

Read in EleutherAI/vqgan-clip (the z+quantize notebook), nerdyrodent/VQGAN-CLIP (``generate.py``, ``MakeCutouts``) and
pixray/pixray (``pixray.py``, ``slip.py``, ``vqgan.py``), and said in our words.
"""

import dataclasses
import math

import pytest
import torch
from oracle import SIDE, Loop, beside, small_clip, small_vqgan
from torch.nn import functional as F

from clipgen.cutouts import CutoutConfig
from clipgen.cutouts.rendering import sampling_coords
from clipgen.prompts import parse

LARGE = 136  # pixels of a picture that is to CLIP's size as 480 is to 224


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("nets")
    return small_clip(folder), *small_vqgan(folder)


def clamped(images):
    """In [0, 1]; the gradient passes, but for what would push a number further out."""
    inside = images.clamp(0, 1).detach()
    if images.requires_grad:
        images.register_hook(lambda gradient: gradient * (gradient * (images.detach() - inside) >= 0))
    return inside + images - images.detach()


class Quantised(Loop):
    """What the three have in common: nearest codes straight through, a sum over prompts, Adam, codes' range."""

    rate: float

    def __init__(self, *parts):
        super().__init__(*parts)
        self.optimiser = torch.optim.Adam([self.latent], lr=self.rate)
        self.codes = self.net.quantize.embedding.weight

    def decode(self, rng):
        places = self.latent.movedim(1, 3)
        nearest = self.codes[torch.cdist(places.detach().flatten(0, 2), self.codes).argmin(1)].view_as(places)
        return clamped((self.net.decode((places + (nearest - places).detach()).movedim(3, 1)) + 1) / 2)

    def loss(self, embedded):
        total, self.distances = 0.0, list[float]()
        for text, prompt in zip(self.texts, parse(self.settings.prompt), strict=True):
            chord = (F.normalize(embedded, dim=1) - F.normalize(text, dim=0)).norm(dim=1)
            distance = math.copysign(1, prompt.weight) * 2 * (chord / 2).arcsin() ** 2
            self.distances.append(float(distance.detach().sort().values[4:6].mean()))  # five of ten views are below
            total = total + abs(prompt.weight) * distance.clamp(min=prompt.stop).mean()
        return total

    def after(self):
        self.latent.data.copy_(self.latent.data.movedim(1, 3).clamp(*self.codes.aminmax(dim=0)).movedim(3, 1))

    def shown(self):
        return self.decode(None)


class Crowson(Quantised):
    """Boxes of whole pixels, made as small as CLIP's view by Lanczos, then bicubically, corners on corners."""

    rate = 0.05

    def cut(self, picture, views):
        side, boxes = picture.shape[-1], []
        for warp in views.warp:
            size = int(warp[0, 0] * side)
            left, top = (min(round(float(side * (1 + warp[axis, 2]) - size) / 2), side - size) for axis in (0, 1))
            boxes.append(self.resized(picture[..., top : top + size, left : left + size]))
        return clamped(torch.cat(boxes))

    def resized(self, box):
        factor = box.shape[-1] / SIDE
        if factor > 1:
            reach = math.ceil(2 * factor + 1) - 2
            places = torch.arange(-reach, reach + 1) / factor
            weights = places.sinc() * (places / 2).sinc() * (places.abs() < 2)
            kernel = (weights / weights.sum()).expand(3, 1, 1, -1)
            for axis in (kernel, kernel.mT):
                pads = [reach * (axis.shape[-1] > 1)] * 2 + [reach * (axis.shape[-2] > 1)] * 2
                box = F.conv2d(F.pad(box, pads, "reflect"), axis, groups=3)
        return F.interpolate(box, (SIDE, SIDE), mode="bicubic", align_corners=True)


def jittered(views, matrix, lit=True):
    """What kornia's ColorJitter makes of views, by the numbers that are in clipgen's ``matrix`` (n, 3, 4)."""
    contrast = matrix[:, :, :3].sum(2)[:, 0]
    light = matrix[:, 0, 3] - 0.5 * (1 - contrast)
    turned = matrix[:, :, :3] / contrast[:, None, None] - 1 / 3
    cos, sin = turned.diagonal(0, 1, 2).sum(1) / 2, math.sqrt(3) * (turned[:, 1, 0] - turned[:, 0, 1]) / 2
    colour, hue = (cos**2 + sin**2).sqrt(), torch.atan2(sin, cos) / (2 * math.pi)
    light, contrast, colour, hue = (numbers[:, None, None, None] for numbers in (light, contrast, colour, hue))
    if lit:
        views = ((views + light).clamp(0, 1) * contrast).clamp(0, 1)
    most, least = views.amax(1, keepdim=True), views.amin(1, keepdim=True)
    chroma = (most - least).clamp(min=1e-6)
    red, green, blue = views.split(1, 1)
    other = torch.where(most == green, 2 + (blue - red) / chroma, 4 + (red - green) / chroma)
    sector = torch.where(most == red, (green - blue) / chroma, other) + 6 * hue
    share = (torch.tensor([5.0, 3.0, 1.0])[:, None, None] + sector) % 6
    return most - (colour * chroma).minimum(most) * torch.minimum(share, 4 - share).clamp(0, 1)


def pooled(picture):
    """Half the mean and half the largest of the pixels that one of CLIP's covers."""
    return (F.adaptive_avg_pool2d(picture, SIDE) + F.adaptive_max_pool2d(picture, SIDE)) / 2


def resampled(images, warp, padding="zeros", level=0.0):
    return F.grid_sample(images - level, sampling_coords(warp, SIDE), padding_mode=padding, align_corners=False) + level


class Nerdyrodent(Quantised):
    """With clipgen's views."""

    rate = 0.1

    def decode(self, rng):
        self.numbers = None if rng is None else rng.get_state()
        return super().decode(rng)

    def warped(self, picture, augment):
        """The warps that these augmentations would have, were they alone."""
        rng = torch.Generator()
        rng.set_state(self.numbers)
        return (
            dataclasses.replace(self.settings.select(CutoutConfig), augment=augment)
            .sample(picture.shape, SIDE, rng)
            .warp
        )


class NerdyrodentsViews(Nerdyrodent):
    """The same maps, each a resampling; colours clamped after each change."""

    def cut(self, picture, views):
        first = self.warped(picture, "affine=15 + shear=5 + shift_y=0.1:0.7")
        batch = resampled(pooled(picture).expand(views.count, -1, -1, -1), first)
        batch = jittered(resampled(batch, first.inverse() @ views.warp), views.colour_matrix)
        whole = dataclasses.replace(views, warp=torch.eye(3).expand_as(views.warp), colour_matrix=None, noise=None)
        return batch * whole.render(torch.ones(1, 3, SIDE, SIDE)) + views.noise


class Pixray(Nerdyrodent):
    """With clipgen's views, each batch from its least, as black, to its most, as white; Adam anew at a lower rate."""

    rate, dropping, done = 0.2, 7, 0

    def cut(self, picture, views):
        batch = self.batch(picture, views)
        batch = batch - batch.min()
        return batch / batch.max()

    def batch(self, picture, views):
        return dataclasses.replace(views, levels=False).render(picture)

    def after(self):
        super().after()
        self.done += 1
        if self.done == self.dropping:
            self.optimiser = torch.optim.Adam([self.latent], lr=self.rate / 10)


class PixraysViews(Pixray):
    """Other borders, wide views leaned half as much, each map of these a resampling, and no change of light."""

    def batch(self, picture, views):
        close, small = round(0.6 * views.count), pooled(picture).expand(views.count, -1, -1, -1)
        wide = self.warped(picture, "stretch=1.2")
        half = wide.inverse() @ self.warped(picture, "stretch=1.2, perspective=0.2:0.7")
        wide[:, [0, 1], [0, 1]] = 1 / 0.95
        one = resampled(small[:close], views.warp[:close], ("reflection", "border")[self.done % 2])
        two = resampled(
            resampled(small[close:], wide[close:], level=views.padding_grey), half[close:], level=views.padding_grey
        )
        return jittered(torch.cat([one, two]), views.colour_matrix, lit=False) + views.noise


class PixraysTextoff(Pixray):
    """A tenth of the distance to a stored embedding more; here to any."""

    def loss(self, embedded):
        stored = torch.randn(embedded.shape[1], generator=torch.Generator().manual_seed(0))
        chord = (F.normalize(embedded, dim=1) - F.normalize(stored, dim=0)).norm(dim=1)
        return super().loss(embedded) + 0.1 * (2 * (chord / 2).arcsin() ** 2).mean()


def run(recipe, kind, nets, side=SIDE, **asked):
    clip, net, file = nets
    return beside(recipe, kind, clip, net, generator=file, size=(side, side), cutouts=10, **asked)


def view_difference(apart):
    """The mean difference of what CLIP is shown of a picture."""
    picture, cutouts = apart.source.decode(torch.Generator().manual_seed(0)).detach(), apart.optimization.spec.cutouts
    views = cutouts.sample(picture.shape, SIDE, torch.Generator().manual_seed(0))
    return float((views.render(picture) - apart.source.cut(picture, views)).abs().mean())


def check_equal(apart, moved):
    """The weights are 1 and -0.5: clipgen's loss is the sum of the source's over 1.5, which Adam does not see."""
    assert max(apart.views) < 1e-4 and min(apart.cosines) > 0.9999
    for ours, theirs in apart.losses:
        assert 1.5 * ours == pytest.approx(theirs, abs=1e-5)
    assert apart.moved < moved and apart.shown < 1e-4
    assert apart.optimization.render_frame().std() > 0.01, "something is drawn"


@pytest.mark.slow
def test_crowson(nets):
    check_equal(run("crowson", Crowson, nets), 0.01)


@pytest.mark.slow
def test_nerdyrodent(nets):
    check_equal(run("nerdyrodent", Nerdyrodent, nets), 0.01)


@pytest.mark.slow
def test_pixray(nets):
    """But for its optimiser, which begins anew when the rate drops."""
    apart = run("pixray", Pixray, nets, lr="0.2@0-7, 0.02@7-")
    check_equal(apart, 0.08)
    assert apart.moved > 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "kind", "side", "cosine", "difference"),
    [
        ("crowson", Crowson, LARGE, (0.6, 1), (0.005, 0.08)),  # 0.88 and 0.040 if nothing is averaged
        ("nerdyrodent", NerdyrodentsViews, SIDE, (0.8, 0.97), (0.01, 0.08)),  # 0.90, 0.039
        ("nerdyrodent", NerdyrodentsViews, LARGE, (0.3, 0.9), (0.03, 0.15)),  # 0.53, 0.075: mean and largest
        ("pixray", PixraysViews, SIDE, (0.7, 0.95), (0.02, 0.1)),  # 0.84, 0.047
    ],
)
def test_how_much_other_views_change_a_gradient(nets, recipe, kind, side, cosine, difference):
    """In the first step. The pictures are rough, as random weights draw them: of smooth ones views differ less."""
    apart = run(recipe, kind, nets, side, steps=1)
    assert cosine[0] < apart.cosines[0] < cosine[1]
    assert difference[0] < view_difference(apart) < difference[1]


@pytest.mark.slow
def test_textoff_changes_a_gradient_little(nets):
    assert 0.95 < run("pixray", PixraysTextoff, nets, steps=1).cosines[0] < 0.999


@pytest.mark.slow
def test_stops(nets):
    """Nearer to what is wanted than its stop, or further from what is not than that one's, a view is not moved."""
    plain = run("nerdyrodent", Nerdyrodent, nets, steps=1)
    wanted, away = plain.source.distances
    assert wanted > 0 > away
    stopped = run("nerdyrodent", Nerdyrodent, nets, steps=1, prompt=f"a city:1:{wanted} | a blur:-0.5:{away}")
    assert stopped.cosines[0] > 0.9999
    assert F.cosine_similarity(*(each.optimization.latent.grad.flatten() for each in (plain, stopped)), dim=0) < 0.99
