"""``das`` beside Direct Ascent Synthesis, as its paper says it (Fort and Whitaker 2025, arXiv 2502.07753, section 3).

Rate, schedule and average are clipgen's on purpose, so that the loop here has them as well; how much the fewer
resolutions change is measured by itself.
"""

import math

import pytest
import torch
from oracle import SIDE, Loop, beside, small_clip
from torch.nn import functional as F


def enlarged(level, side=SIDE):
    return F.interpolate(level, (side, side), mode="bicubic")


class Das(Loop):
    """A sum of pictures at halved resolutions, through a tanh from 0 to 1."""

    def __init__(self, *parts):
        super().__init__(*parts)
        self.optimiser = torch.optim.Adam([self.latent], betas=(0.9, 0.99))
        self.average, self.done = self.latent.detach().clone(), 0

    def picture(self, latent):
        places, sides = latent.flatten(2), [SIDE >> i for i in range(int(math.log2(SIDE)) + 1)]
        levels = places[..., : sum(side**2 for side in sides)].split([side**2 for side in sides], -1)
        total = sum(enlarged(level.unflatten(-1, (side, side))) for level, side in zip(levels, sides, strict=True))
        return 0.5 + 0.5 * (total / 2).tanh()

    def decode(self, rng):
        share = self.done / self.settings.steps  # the rate falls along a cosine, to a tenth
        fall = 0.1 + 0.9 * (0.5 + 0.5 * math.cos(math.pi * share))
        self.optimiser.param_groups[0]["lr"] = self.settings.lr * 0.4 * fall
        return self.picture(self.latent)

    def loss(self, embedded):
        wanted = F.normalize(self.texts[:1], dim=1)
        return (2 * ((F.normalize(embedded, dim=1) - wanted).norm(dim=1) / 2).arcsin() ** 2).mean()

    def after(self):
        self.done += 1
        self.average.lerp_(self.latent.detach(), 1 - self.settings.ema)

    def shown(self):
        return self.picture(self.average)


@pytest.fixture
def clip(tmp_path):
    torch.manual_seed(0)
    return small_clip(tmp_path)


@pytest.mark.slow
def test_das(clip):
    apart = beside("das", Das, clip, torch.nn.Identity(), prompt="a city")
    assert max(apart.views) < 1e-4 and min(apart.cosines) > 0.9999
    for ours, theirs in apart.losses:
        assert ours == pytest.approx(theirs, abs=1e-4)
    assert apart.moved < 0.02 and apart.shown < 1e-4


def test_as_if_every_resolution_were_there():
    """Where a first step of Adam, the sign of each number's gradient, takes the sum: halved resolutions, and all."""
    torch.manual_seed(0)
    wanted = sum(enlarged(torch.randn(1, 3, side, side)) / side for side in (2, 4, 8, 16, 32, 64))

    def moved(sides):
        levels = [torch.zeros(1, 3, side, side, requires_grad=True) for side in sides]
        total = sum(map(enlarged, levels))
        (total * wanted).sum().backward()
        return sum(enlarged(level.grad.sign()) for level in levels).flatten()

    halved, every = moved([1, 2, 4, 8, 16, 32, 64]), moved(range(1, SIDE + 1))
    cosine = F.cosine_similarity(halved, every, 0)
    assert 0.7 < cosine < 0.99, float(cosine)
