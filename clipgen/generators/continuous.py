"""Latents of plain numbers: what the families without a codebook share."""

from __future__ import annotations

import torch
from torch import Tensor

from clipgen.generators.protocol import unpacked


class Continuous:
    """A latent that its picture shows whole, and that is kept as it is, in 16 bits."""

    name: str
    side: int
    stride: int
    lr: float
    device: torch.device
    precision = "fp32"
    limit: float  # the largest number in a latent: beyond it nothing changes in the picture, or no picture is

    def settle(self, precision: str) -> None:
        """Nothing: there is no net that could be computed in less."""

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """The shape of a latent for one picture of (H, W)."""
        raise NotImplementedError

    def residual(self, latent: Tensor) -> Tensor:
        """Nothing: the picture shows all of it."""
        return torch.zeros_like(latent)

    def project_(self, latent: Tensor) -> None:
        """Clamp to ``limit`` on both sides."""
        latent.data.clamp_(-self.limit, self.limit)

    def pack(self, latent: Tensor) -> Tensor:
        """The latent as float16."""
        return latent.detach().half()

    def unpack(self, saved: Tensor, size: tuple[int, int]) -> Tensor:
        """What ``pack`` kept, as float32. Raises ClipgenError for another shape, and for what is not finite."""
        return unpacked(self.name, saved, self.shape(size)).to(self.device)
