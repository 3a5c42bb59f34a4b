"""The pixels as the latent, and the base of all generators that are a linear map and a sigmoid.

A sigmoid rather than a clamp, because Adam's even steps then become smaller as a colour gets pure.
"""

import torch
from torch import Tensor

from clipgen.generators.base import Entry, Generator, Randomness

EPSILON = 1 / 512  # pure black and white lie at infinity: half an 8-bit level before them is near enough


class Pixels(Generator):
    """A latent (B, 3, H, W) whose sigmoid is the image. Subclasses put a linear map before the sigmoid."""

    limit = 16.0
    lr = 0.5
    spread = 0.01

    def __init__(self, name: str, entry: Entry, device: torch.device):
        self.name, self.native_size, self.device = name, entry.native_size, device

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        return 1, 3, *size

    def to_logits(self, latent: Tensor) -> Tensor:
        """Return the logits (B, 3, H, W) of a latent, by a linear map."""
        return latent

    def from_logits(self, logits: Tensor) -> Tensor:
        """Return a latent whose logits these are."""
        return logits

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """Return the latent of (B, 3, H, W) of any size, exact but for colours purer than ``EPSILON``."""
        return self.from_logits(image.clamp(EPSILON, 1 - EPSILON).logit())

    def image(self, latent: Tensor, progress: float = 1.0, rng: Randomness | None = None) -> Tensor:
        return self.to_logits(latent).sigmoid()

    def distance(self, latent: Tensor, other: Tensor) -> Tensor:
        """Return the mean squared difference of the images, divided by that of unrelated ones (deviation 1/4)."""
        return (self.image(latent) - self.image(other)).square().mean() / (2 * 0.25**2)
