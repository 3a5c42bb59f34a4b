"""The picture itself as the latent, and what every family shares that needs no net: a linear map, then a sigmoid.

A sigmoid rather than a clamp, because Adam's even steps become smaller as a colour gets pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipgen.generators.continuous import Continuous
from clipgen.generators.protocol import Randomness

if TYPE_CHECKING:
    from clipgen.generators.catalogue import Entry

GROUND = 0.83  # the grey that pictures begin on: as light as paper, and still easy to darken
EDGE = 1 / 512  # pure black and white lie at infinity: half an 8-bit level before them is near enough


class Pixels(Continuous):
    """A latent (B, 3, H, W) whose sigmoid is the picture. Subclasses say what stands before the sigmoid.

    ``spread``: the deviation of the noise on the ground that a picture begins with.
    """

    stride = 1
    limit = 16.0
    lr = 0.5
    spread = 0.01

    def __init__(self, name: str, side: int, device: torch.device):
        self.name, self.side, self.device = name, side, device

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        return 1, 3, *size

    def synthesis(self, latent: Tensor) -> Tensor:
        """A latent to logits (B, 3, H, W): linear."""
        return latent

    def analysis(self, logits: Tensor) -> Tensor:
        """The inverse of ``synthesis``."""
        return logits

    def start(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        """A plain light ground with a little noise."""
        noise = self.spread * torch.randn(self.shape(size), generator=rng)
        return noise.to(self.device) + self.encode(torch.full((1, 3, *size), GROUND, device=self.device))

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] of any size, exactly but for what is purer than ``EDGE``."""
        return self.analysis(image.clamp(EDGE, 1 - EDGE).logit())

    def image(self, latent: Tensor, progress: float = 1.0, rng: Randomness | None = None) -> Tensor:
        """A latent to (B, 3, H, W) in (0, 1)."""
        return self.synthesis(latent).sigmoid()

    def distance(self, latent: Tensor, other: Tensor) -> Tensor:
        """Mean squared difference of the pictures, in that of two whose pixels deviate by a quarter."""
        return (self.image(latent) - self.image(other)).square().mean() / (2 * 0.25**2)


def load(name: str, entry: Entry, device: torch.device) -> Pixels:
    """Needs no files."""
    return Pixels(name, entry.side, device)
