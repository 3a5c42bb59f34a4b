"""Images without a network: pixels, and linear maps to them, from a spectrum and from a stack of images.

The spectrum: Mordvintsev et al. 2018, "Differentiable Image Parameterizations"; Olah et al. 2017. The stack: Fort and
Whitaker 2025, "Direct Ascent Synthesis".
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from clipgen.generators import Entry, Generator, Randomness, clamp

EPSILON = 1 / 512  # least distance from black and white, whose logits are infinite: half an 8-bit level
# A square root of the correlation of red, green and blue in ImageNet, as lucid publishes it; its columns are about
# lightness, red against blue, and green against both.
COLOURS = torch.tensor([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
COLOURS /= COLOURS.norm(dim=0).max()
MAGNITUDE = 0.3  # of Maco's frequencies, before 1/f: pixels then have a standard deviation of about 0.2


class Pixels(Generator):
    """A latent (B, 3, H, W) whose sigmoid is the image. Subclasses put a linear map before the sigmoid.

    A sigmoid rather than a clamp, because Adam's even steps then become smaller as a colour gets pure.
    """

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


# --- a spectrum -----------------------------------------------------------------------------------------


class FFT(Pixels):
    """A latent (B, 3, H, W): the Hartley spectrum of each of three decorrelated colours, divided by 1/f.

    Hartley's numbers, the real part less the imaginary part of Fourier's, are as many as there are pixels, so that a
    latent has its image's size, and none of its numbers is redundant. Frequencies are scaled by 1/f, as in photographs,
    and colours are taken along decorrelated axes, so that every step of the optimiser counts about the same to the eye.

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


# --- a stack --------------------------------------------------------------------------------------------


class Stack(Pixels):
    """A latent (B, 3, H + K, W): an image, and in K rows below it its halvings down to one pixel, to be added up.

    A shape is moved at every resolution that shows it, so that form comes before grain. Where single pixels follow a
    CLIP into noise that only it can read, this draws outlines.
    """

    lr = 0.4

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        return 1, 3, size[0] + _extra_rows(*size), size[1]

    def levels(self, latent: Tensor) -> list[Tensor]:
        """Return the images (B, 3, h, w) of a stack, finest first, as views of the latent."""
        sizes = _halvings(_image_height(*latent.shape[-2:]), latent.shape[-1])
        areas = [h * w for h, w in sizes]
        parts = latent.flatten(2)[..., : sum(areas)].split(areas, -1)
        return [part.unflatten(-1, size) for part, size in zip(parts, sizes, strict=True)]

    def to_logits(self, latent: Tensor) -> Tensor:
        logits, *coarser = self.levels(latent)
        for level in coarser:
            logits = logits + _enlarge(level, logits)
        return logits

    def from_logits(self, logits: Tensor) -> Tensor:
        """Return one of many inverses: from the coarsest on, each level takes what is left."""
        batch, _, height, width = logits.shape
        latent = logits.new_zeros(batch, *self.shape((height, width))[1:])
        for level in reversed(self.levels(latent)):
            level += F.interpolate(logits, level.shape[-2:], mode="area")
            logits = logits - _enlarge(level, logits)
        return latent


def _enlarge(level: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(level, like.shape[-2:], mode="bicubic")


@lru_cache(maxsize=64)
def _halvings(height: int, width: int) -> list[tuple[int, int]]:
    """Return (H, W) and its halvings down to (1, 1)."""
    sizes = [(height, width)]
    while max(height, width) > 1:
        height, width = (height + 1) // 2, (width + 1) // 2
        sizes.append((height, width))
    return sizes


def _extra_rows(height: int, width: int) -> int:
    """Return how many rows of ``width`` hold all that is coarser than (H, W)."""
    return -(-sum(h * w for h, w in _halvings(height, width)[1:]) // width)


@lru_cache(maxsize=64)
def _image_height(rows: int, width: int) -> int:
    """Return the H of a latent of H + K rows: it is unique, because K does not fall when H grows."""
    return next(height for height in range(rows, 0, -1) if height + _extra_rows(height, width) == rows)
