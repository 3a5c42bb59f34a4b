"""The distance to the photograph, drawing or draft that a run starts from."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor
from torch.nn import functional as F

from clipgen.device import constant
from clipgen.losses.loss import InitTarget, Loss, StepContext
from clipgen.losses.prompt_loss import spherical_distance
from clipgen.setting import setting

# Squared differences of unrelated pictures are about 0.1 in pixels, 0.01 in lines and 1 in latents.
PIXEL_SCALE = 10.0
LINE_SCALE = 50.0
BT601 = 0.3, 0.59, 0.11  # how light red, green and blue are, rounded


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
