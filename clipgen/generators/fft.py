"""A spectrum as the latent (Mordvintsev et al. 2018, "Differentiable Image Parameterizations"; Olah et al. 2017).

Two things make every step of the optimiser count about the same to the eye: frequencies are scaled by 1/f, as they
are in photographs, and colours are taken along the axes on which they vary independently.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipgen.generators.codes import clamp
from clipgen.generators.pixels import Pixels
from clipgen.generators.protocol import Randomness

if TYPE_CHECKING:
    from clipgen.generators.catalogue import Entry

# A square root of the correlation of red, green and blue in ImageNet, as lucid publishes it; its columns are about
# lightness, red against blue, and green against both.
COLOURS = torch.tensor([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
COLOURS /= COLOURS.norm(dim=0).max()


class FFT(Pixels):
    """A latent (B, 3, H, W): for each of three decorrelated colours, the picture's frequencies over their 1/f.

    They are Hartley's, real part less imaginary part: the same waves as Fourier's, but as many real numbers as there
    are pixels, so that a latent tells its picture's size, odd or even, and none of its numbers is without effect.

    Around mid-grey, with a clamp that lets the gradient through: a number here moves every pixel at once, and those
    that others' steps throw far beyond white would stay there as white specks, where a sigmoid has no slope.
    """

    limit = 1e3
    lr = 0.1

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] of any size, exactly."""
        return self.analysis(image - 0.5)

    def image(self, latent: Tensor, progress: float = 1.0, rng: Randomness | None = None) -> Tensor:
        """A latent to (B, 3, H, W) in [0, 1]."""
        return clamp(0.5 + self.synthesis(latent))

    def synthesis(self, latent: Tensor) -> Tensor:
        waves = hartley(latent * _scale(latent.shape[-2:]).to(latent.device))
        return torch.einsum("rc,bchw->brhw", COLOURS.to(latent.device), waves)

    def analysis(self, logits: Tensor) -> Tensor:
        waves = torch.einsum("cr,brhw->bchw", COLOURS.inverse().to(logits.device), logits)
        return hartley(waves) / _scale(logits.shape[-2:]).to(logits.device)


def hartley(numbers: Tensor) -> Tensor:
    """The orthonormal Hartley transform of the last two dimensions, which is its own inverse."""
    spectrum = torch.fft.fft2(numbers, norm="ortho")
    return spectrum.real - spectrum.imag


@lru_cache(maxsize=8)
def _scale(size: tuple[int, int]) -> Tensor:
    """(H, W): 1/f, f in cycles a pixel and no lower than one cycle in the longer side; the quarter is lucid's."""
    down, across = (torch.fft.fftfreq(side) for side in size)
    return 0.25 / torch.hypot(down[:, None], across).clamp(min=1 / max(size))


def load(name: str, entry: Entry, device: torch.device) -> FFT:
    """Needs no files."""
    return FFT(name, entry.side, device)
