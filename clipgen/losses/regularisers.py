"""Losses of the picture alone (smoothness, colour, symmetry, sharpness, fringes, a palette), and one of a noise latent.

Each is a dataclass whose fields are its settings; with ``weight`` 0 it is skipped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from clipgen.device import constant
from clipgen.errors import ClipgenError
from clipgen.images.reading import parse_colour
from clipgen.losses.init_loss import box_blur, lightness
from clipgen.losses.loss import Loss, StepContext
from clipgen.setting import setting

LAPLACIAN = 0.0, 1.0, 0.0, 1.0, -4.0, 1.0, 0.0, 1.0, 0.0  # of 3 x 3 pixels


class Regulariser(Loss):
    """A loss of the picture alone, times its ``weight``."""

    @property
    def weight(self) -> float:
        """The setting that has the regulariser's name."""
        return getattr(self, self.name)

    def of(self, images: Tensor) -> Tensor:
        """Return a scalar for (B, 3, H, W) in [0, 1], before its weight."""
        raise NotImplementedError

    def terms(self, context: StepContext) -> Iterator[Tensor]:
        if self.weight:
            yield self.weight * self.of(context.image)


@dataclass(frozen=True)
class TotalVariation(Regulariser):
    """Mean absolute difference of neighbouring pixels."""

    name = "tv"
    tv: float = setting(0.0, "weight of total variation; higher is smoother", 0, section="steer")

    def of(self, images: Tensor) -> Tensor:
        return images.diff(dim=-1).abs().mean() + images.diff(dim=-2).abs().mean()


@dataclass(frozen=True)
class Saturation(Regulariser):
    """Minus the mean distance of pixels from their grey."""

    name = "saturation"
    saturation: float = setting(0.0, "weight of colour saturation")

    def of(self, images: Tensor) -> Tensor:
        return -(images - images.mean(1, keepdim=True)).square().sum(1).add(1e-8).sqrt().mean()


@dataclass(frozen=True)
class Symmetry(Regulariser):
    """Mean squared difference from the mirror image."""

    name = "symmetry"
    symmetry: float = setting(0.0, "weight of left-right symmetry", 0)

    def of(self, images: Tensor) -> Tensor:
        return (images - images.flip(-1)).square().mean()


@dataclass(frozen=True)
class Sharpness(Regulariser):
    """Minus the mean absolute Laplacian."""

    name = "sharpness"
    sharpness: float = setting(0.0, "weight of fine contrast")

    def of(self, images: Tensor) -> Tensor:
        kernel = constant(LAPLACIAN, images.device).view(3, 3).expand(3, 1, 3, 3)
        return -F.conv2d(images, kernel, groups=3).abs().mean()


@dataclass(frozen=True)
class Fringes(Regulariser):
    """Mean squared difference of chroma from its local mean, over a fortieth of the height in each direction.

    A small CLIP does not see coloured fringes along lines, and its gradient draws them.
    """

    name = "fringes"
    fringes: float = setting(0.0, "weight against coloured fringes; 100 by default where a draft is coloured", 0)

    def of(self, images: Tensor) -> Tensor:
        chroma = images - lightness(images)
        return (chroma - box_blur(chroma, max(1, images.shape[-2] // 40))).square().mean()


@dataclass(frozen=True)
class Palette(Regulariser):
    """Mean squared distance of pixels to the nearest colour of a palette."""

    name = "palette"
    palette: str = setting("", "colours to use: 'navy, #ffcc00, white'")
    palette_weight: float = setting(1.0, "weight of the palette", 0)

    def __post_init__(self) -> None:
        _ = self.colours  # raises for a word that is not a colour

    @cached_property
    def colours(self) -> list[float]:
        """The red, green and blue of the palette's colours, one after another, in [0, 1]."""
        colours: list[float] = []
        for name in filter(None, map(str.strip, self.palette.split(","))):
            colour = parse_colour(name)
            if colour is None:
                raise ClipgenError(f"palette={self.palette!r}: {name!r} is not a colour; write 'navy, #ffcc00'")
            colours += colour.tolist()
        return colours

    @property
    def weight(self) -> float:
        return self.palette_weight if self.colours else 0.0

    def of(self, images: Tensor) -> Tensor:
        pixels = images.permute(0, 2, 3, 1).unsqueeze(-2)
        return (pixels - constant(self.colours, images.device).view(-1, 3)).square().sum(-1).amin(-1).mean()


@dataclass(frozen=True)
class NoiseNorm(Loss):
    """|z|²/2 - (d - 1) log |z|, the negative log-density of |z|, up to a constant, for z ~ N(0, I_d)."""

    name = "noise_norm"
    noise_norm: float = setting(0.01, "weight of the norm of the noise, of one-step generators such as sd-turbo", 0)

    def terms(self, context: StepContext) -> Iterator[Tensor]:
        if self.noise_norm and context.spec.generator.is_noise:
            norm = torch.linalg.vector_norm(context.latent)
            yield self.noise_norm * (norm.square() / 2 - (context.latent[0].numel() - 1) * norm.log())
