"""Losses of the picture alone (smoothness, colour, symmetry, sharpness, fringes, a palette), of a noise, of the start.

Each is a dataclass whose fields are its settings; with ``weight`` 0 it is skipped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from clipgen.device import constant
from clipgen.errors import ClipgenError
from clipgen.images.reading import parse_colour
from clipgen.losses import InitTarget, Loss, StepContext
from clipgen.losses.prompt_loss import spherical_distance
from clipgen.setting import setting

LAPLACIAN = 0.0, 1.0, 0.0, 1.0, -4.0, 1.0, 0.0, 1.0, 0.0  # of 3 x 3 pixels
# Squared differences of unrelated pictures are about 0.1 in pixels, 0.01 in lines and 1 in latents.
PIXEL_SCALE = 10.0
LINE_SCALE = 50.0
BT601 = 0.3, 0.59, 0.11  # how light red, green and blue are, rounded


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
        return (pixels - constant(tuple(self.colours), images.device).view(-1, 3)).square().sum(-1).amin(-1).mean()


@dataclass(frozen=True)
class NoiseNorm(Loss):
    """|z|²/2 - (d - 1) log |z|, the negative log-density of |z|, up to a constant, for z ~ N(0, I_d)."""

    name = "noise_norm"
    noise_norm: float = setting(0.01, "weight of the norm of the noise, of one-step generators such as sd-turbo", 0)

    def terms(self, context: StepContext) -> Iterator[Tensor]:
        if self.noise_norm and context.spec.generator.is_noise:
            norm = torch.linalg.vector_norm(context.latent)
            yield self.noise_norm * (norm.square() / 2 - (context.latent[0].numel() - 1) * norm.log())


# --- the distance to the photograph, drawing or draft that a run starts from --------------------------------


@dataclass(frozen=True)
class InitLoss(Loss):
    """The distance to the init targets, each weighted as its prompts are at a step."""

    name = "near"
    near: float = setting(1.0, "weight of staying near the drawing or image the run started from", 0, section="steer")
    near_space: str = setting(
        "auto",
        "space in which near is measured; colouring: keeps lines and colours, grey takes any colour; auto: by init",
        choices=("auto", "latent", "pixels", "colouring", "clip"),
        section="look",
    )
    near_fade: float = setting(0.0, "how much near fades by the end: 0 not at all, 1 to nothing", 0, 1, section="look")

    def terms(self, context: StepContext) -> Iterator[Tensor]:
        weights = context.spec.target_weights(context.step)
        for weight, target in zip(weights, context.spec.init_targets, strict=True):
            near = self.near * (1 - self.near_fade * (context.step / context.spec.steps)) * target.strength
            if near and weight:
                yield near * weight / sum(weights) * self._distance(context, target)

    def _distance(self, context: StepContext, target: InitTarget) -> Tensor:
        space = target.space if self.near_space == "auto" else self.near_space
        if space == "latent":
            return context.spec.generator.distance(context.latent, target.latent)
        if space == "pixels":
            return PIXEL_SCALE * (context.image - target.image).square().mean()
        if space == "colouring":
            return colouring_distance(context.image, target.image)
        perceptor = context.spec.perceptors[0][0]
        embedding, other = (
            perceptor.encode_image(F.interpolate(x, (perceptor.size,) * 2, mode="bilinear", antialias=True))
            for x in (context.image, target.image)
        )
        return spherical_distance(embedding, other.detach()).mean()


def colouring_distance(image: Tensor, drawing: Tensor) -> Tensor:
    """Return how far images (B, 3, H, W) are from a drawing whose grey parts may take any colour, as a scalar.

    Compares lines everywhere, and colours where the drawing is coloured or white. Lines are the lightness minus its
    mean over a sixteenth of the height, so that grey may become yellow or navy.
    """
    has_colour, drawn_lines = _colours_and_lines(drawing)
    colours = has_colour * (image - drawing).square()
    lines = _lines(image) - drawn_lines
    return LINE_SCALE * lines.square().mean() + 3 * PIXEL_SCALE * colours.mean()


@lru_cache(maxsize=4)  # drawings in use at the same time
def _colours_and_lines(drawing: Tensor) -> tuple[Tensor, Tensor]:
    """Return where a drawing (B, 3, H, W) is coloured or white, and its lines, both (B, 1, H, W)."""
    colourful = drawing.amax(1, keepdim=True) - drawing.amin(1, keepdim=True) > 0.05
    paper = drawing.amin(1, keepdim=True) > 0.93
    return colourful | paper, _lines(drawing)


def _lines(image: Tensor) -> Tensor:
    light = lightness(image)
    return light - box_blur(light, max(1, image.shape[-2] // 16))


def lightness(rgb: Tensor) -> Tensor:
    """Return the lightness (..., 1, H, W) of (..., 3, H, W), by the weights of ITU-R BT.601."""
    return (rgb * constant(BT601, rgb.device)[:, None, None]).sum(-3, keepdim=True)


def box_blur(image: Tensor, radius: int) -> Tensor:
    """Return the mean of (B, C, H, W) over squares of side ``2 * radius + 1``, edges repeated.

    Running sums cost the same for every radius; average pooling took six sevenths of a step at 512x512 on a CPU. On
    CUDA it is 12 kernels instead of 50, with the backward pass.
    """
    width = 2 * radius + 1
    if image.device.type == "cuda":
        padded = F.pad(image, (radius,) * 4, mode="replicate")
        return F.avg_pool2d(F.avg_pool2d(padded, (width, 1), 1), (1, width), 1)
    mean = F.pad(image, (radius + 1, radius, radius + 1, radius), mode="replicate")
    for side in (-2, -1):
        sums = mean.cumsum(side)
        length = sums.shape[side] - width
        mean = (sums.narrow(side, width, length) - sums.narrow(side, 0, length)) / width
    return mean
