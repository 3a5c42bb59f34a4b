"""What a picture is held near to: the photograph or drawing from which it starts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from clipgen.images.palette import lightness
from clipgen.losses.objectives import Goal, Moment, Objective
from clipgen.losses.prompt_loss import spherical_distance
from clipgen.setting import setting

# Pixels of unrelated pictures are about a tenth of a squared unit apart, their lines a hundredth, latents about one.
PIXELS = 10.0
LINES = 50.0


@dataclass(frozen=True, repr=False)
class Nearness(Objective):
    """The distance to the goals of the recipe, each as much as the prompts that it stands for hold at a step."""

    name = "near"
    near: float = setting(
        1.0, "how strongly the picture is drawn to the drawing or image it started from", 0, section="steer"
    )
    near_space: str = setting(
        "auto",
        "where nearness is measured; colouring: lines and colours hold, what is grey may take any; auto: as suits init",
        choices=("auto", "latent", "pixels", "colouring", "clip"),
        section="start",
    )
    near_fade: float = setting(0.0, "0: as strong to the end; 1: fading to nothing by the end", 0, 1, section="start")

    def terms(self, moment: Moment) -> Iterator[Tensor]:
        shares = moment.recipe.shares(moment.step)
        for share, goal in zip(shares, moment.recipe.goals, strict=True):
            near = self.near * (1 - self.near_fade * moment.progress) * goal.strength
            if near and share:
                yield near * share / sum(shares) * self._away(moment, goal)

    def _away(self, moment: Moment, goal: Goal) -> Tensor:
        space = goal.space if self.near_space == "auto" else self.near_space
        if space == "latent":
            return moment.recipe.param.distance(moment.latent, goal.latent)
        if space == "pixels":
            return PIXELS * (moment.image - goal.image).square().mean()
        if space == "colouring":
            return coloured_in(moment.image, goal.image)
        perceptor = moment.recipe.perceptors[0][0]
        seen, wanted = (
            perceptor.encode_image(F.interpolate(x, (perceptor.size,) * 2, mode="bilinear", antialias=True))
            for x in (moment.image, goal.image)
        )
        return spherical_distance(seen, wanted.detach()).mean()


def coloured_in(image: Tensor, drawing: Tensor) -> Tensor:
    """How far a picture, (B, 3, H, W), has left the lines of a drawing, and its colours where it is not grey: a scalar.

    A line is what is lighter or darker than the mean of what is around it, a sixteenth of the height far, so that a
    grey thing may become a yellow or a navy one. White is the paper, and stays.
    """
    colourful = drawing.amax(1, keepdim=True) - drawing.amin(1, keepdim=True) > 0.05
    paper = drawing.amin(1, keepdim=True) > 0.93
    colours = (colourful | paper) * (image - drawing).square()
    return LINES * (_lines(image) - _lines(drawing)).square().mean() + 3 * PIXELS * colours.mean()


def _lines(image: Tensor) -> Tensor:
    light = lightness(image)
    return light - mean_around(light, max(1, image.shape[-2] // 16))


def mean_around(image: Tensor, reach: int) -> Tensor:
    """The mean of (B, C, H, W) over the square that reaches so far from each place; beyond an edge is what is at it.

    By running sums, which cost the same for every reach: of a step at 512x512 a pooling so wide took six sevenths.
    """
    width = 2 * reach + 1
    mean = F.pad(image, (reach + 1, reach, reach + 1, reach), mode="replicate")
    for side in (-2, -1):
        sums = mean.cumsum(side)
        places = sums.shape[side] - width
        mean = (sums.narrow(side, width, places) - sums.narrow(side, 0, places)) / width
    return mean
