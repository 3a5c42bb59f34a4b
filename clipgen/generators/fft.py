"""A spectrum as the latent (Mordvintsev et al. 2018, "Differentiable Image Parameterizations"; Olah et al. 2017).

Frequencies are scaled by 1/f, as in photographs, and colours are taken along decorrelated axes, so that every step of
the optimiser counts about the same to the eye.
"""

from functools import lru_cache

import torch
from torch import Tensor

from clipgen.generators.base import Randomness, clamp
from clipgen.generators.pixels import Pixels

# A square root of the correlation of red, green and blue in ImageNet, as lucid publishes it; its columns are about
# lightness, red against blue, and green against both.
COLOURS = torch.tensor([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
COLOURS /= COLOURS.norm(dim=0).max()
MAGNITUDE = 0.3  # of all frequencies of Maco: pixels then have a standard deviation of about 0.2


class FFT(Pixels):
    """A latent (B, 3, H, W): the Hartley spectrum of each of three decorrelated colours, divided by 1/f.

    Hartley's numbers, the real part less the imaginary part of Fourier's, are as many as there are pixels, so that a
    latent has its image's size, and none of its numbers is redundant.

    The image is clamped around mid-grey, with a gradient. Each number moves every pixel and can push one far out of
    range; a sigmoid would saturate there and leave white specks.
    """

    limit = 1e3
    lr = 0.1

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """Return the latent of (B, 3, H, W) of any size, exactly."""
        return self.from_logits(image - 0.5)

    def image(self, latent: Tensor, progress: float = 1.0, rng: Randomness | None = None) -> Tensor:
        return clamp(0.5 + self.to_logits(latent))

    def to_logits(self, latent: Tensor) -> Tensor:
        waves = hartley(latent * _scale(latent.shape[-2:], latent.device))
        return torch.einsum("rc,bchw->brhw", _colours(latent.device), waves)

    def from_logits(self, logits: Tensor) -> Tensor:
        waves = torch.einsum("cr,brhw->bchw", COLOURS.inverse().to(logits.device), logits)
        return hartley(waves) / _scale(logits.shape[-2:], logits.device)


class Maco(FFT):
    """The same with fixed magnitudes, so that phases alone are optimised (Fel et al. 2023, "MACO").

    They are 1/f, as on average in photographs: no frequency can be made stronger to please a CLIP.
    """

    def to_logits(self, latent: Tensor) -> Tensor:
        return super().to_logits(MAGNITUDE * _normalize(latent))

    def project_(self, latent: Tensor) -> None:
        """Normalise every frequency, in place."""
        latent.data.copy_(_normalize(latent.data))


def _normalize(latent: Tensor) -> Tensor:
    """Scale each number and that of the opposite frequency, which together hold a phase, to a mean square of 1."""
    opposite = latent.flip(-2, -1).roll((1, 1), (-2, -1))
    return latent / (latent.square() + opposite.square()).div(2).sqrt().clamp(min=1e-12)


def hartley(numbers: Tensor) -> Tensor:
    """Return the orthonormal Hartley transform of the last two dimensions, which is its own inverse."""
    spectrum = torch.fft.fft2(numbers, norm="ortho")
    return spectrum.real - spectrum.imag


@lru_cache
def _colours(device: torch.device) -> Tensor:
    return COLOURS.to(device)


@lru_cache(maxsize=8)
def _scale(size: tuple[int, int], device: torch.device) -> Tensor:
    """Return 1/f for (H, W), f in cycles per pixel, at least one cycle along the longer side; the 1/4 is lucid's."""
    down, across = (torch.fft.fftfreq(side) for side in size)
    return (0.25 / torch.hypot(down[:, None], across).clamp(min=1 / max(size))).to(device)
