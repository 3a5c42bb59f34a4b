"""What a picture is held near to: the photograph, drawing or collage from which it starts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from clipgen.optvis.objectives import Goal, Moment, Objective
from clipgen.optvis.prompt import strengths
from clipgen.optvis.prompt_loss import spherical_distance
from clipgen.setting import setting

# Pixels of unrelated pictures are about a tenth of a squared unit apart, latents about one.
PIXELS = 10.0


@dataclass(frozen=True, repr=False)
class Nearness(Objective):
    """The distance to the goals of the recipe, each as much as the prompts that it stands for hold at a step."""

    name = "near"
    near: float = setting(
        1.0, "how strongly the picture is drawn to the collage, drawing or image it started from", 0, shown="steer"
    )
    near_space: str = setting(
        "latent", "where nearness is measured", choices=("latent", "pixels", "clip"), shown="start"
    )
    near_fade: float = setting(0.0, "0: as strong to the end; 1: fading to nothing by the end", 0, 1, shown="start")

    def terms(self, moment: Moment) -> Iterator[Tensor]:
        goals, much = moment.recipe.goals, strengths(moment.recipe.prompts, moment.step)
        shares = [sum(max(0.0, much[i]) for i in goal.prompts) for goal in goals]
        for share, goal in zip(shares, goals, strict=True):
            near = self.near * (1 - self.near_fade * moment.progress) * goal.strength
            if near and share:
                yield near * share / sum(shares) * self._away(moment, goal)

    def _away(self, moment: Moment, goal: Goal) -> Tensor:
        if self.near_space == "latent":
            return moment.recipe.param.distance(moment.latent, goal.latent)
        if self.near_space == "pixels":
            return PIXELS * (moment.image - goal.image).square().mean()
        perceptor = moment.recipe.perceptors[0][0]
        seen, wanted = (
            perceptor.encode_image(F.interpolate(x, (perceptor.size,) * 2, mode="bilinear", antialias=True))
            for x in (moment.image, goal.image)
        )
        return spherical_distance(seen, wanted.detach()).mean()
