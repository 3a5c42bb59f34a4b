"""What a picture is asked for, and the recipe of which that is a part.

Objectives add up and can be multiplied by a number, as in lucid (Olah, Mordvintsev, Schubert 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from clipgen.clip.protocol import Perceptor
from clipgen.cutouts.sampling import Cutouts
from clipgen.generators.protocol import Parameterisation
from clipgen.images.camera import Camera
from clipgen.optimizers import Descent
from clipgen.prompts import Prompt, fade, weights_at

Loss = Callable[[Tensor, Tensor, int], Tensor]  # (image (1, 3, H, W), latent, step) to a scalar


class Goal(NamedTuple):
    """A picture that a run is drawn to while some of its prompts hold."""

    image: Tensor  # (1, 3, H, W) in [0, 1]
    latent: Tensor
    strength: float  # how firmly, as a factor on ``near``
    prompts: tuple[int, ...]  # those that it stands for
    space: str = "latent"  # where nearness to it is measured, unless the run says
    drafted: str = ""  # what it is a draft of: where that changes, the picture begins again; empty: never


@dataclass(frozen=True)
class Recipe:
    """What a picture is made of, asked for and moved by."""

    param: Parameterisation
    perceptors: Sequence[tuple[Perceptor, float]]  # with their shares, which sum to one
    prompts: Sequence[Prompt]
    objectives: Sequence[Objective]
    goals: Sequence[Goal]
    descent: Descent
    camera: Camera
    mask: Tensor | None  # (1, 1, H, W), 1 where it is painted
    steps: int
    cutouts: Cutouts
    precision: str = "fp32"  # what its models compute in; fp16 asks for a scaled loss

    def shares(self, step: int) -> list[float]:
        """How much each goal counts at a step: as much as the prompts that it stands for."""
        much = weights_at(self.prompts, step)
        return [sum(max(0.0, much[i]) for i in goal.prompts) for goal in self.goals]

    def goal(self, step: int, drafted: str = "") -> Goal | None:
        """The one that counts most at a step, if one does; the draft of ``drafted`` while its prompts still hold."""
        shares, held = self.shares(step), fade([prompt.span for prompt in self.prompts], step)
        for goal in self.goals:
            if goal.drafted and goal.drafted == drafted and max(held[i] for i in goal.prompts) >= 0.5:
                return goal
        return self.goals[shares.index(max(shares))] if any(shares) else None

    @property
    def views(self) -> int:
        """Of a step: in so many passes it can be made."""
        return self.cutouts.cutouts


@dataclass
class Moment:
    """A picture in the making, as objectives see it."""

    image: Tensor  # (1, 3, H, W) in [0, 1]; gradients are collected here and go on to the latent together
    latent: Tensor
    step: int
    recipe: Recipe
    rng: torch.Generator
    passes: int = 1  # so many parts at least, where memory is short
    scores: dict[str, Tensor] = field(default_factory=dict)  # scalars that an objective has to tell beside its loss

    @property
    def progress(self) -> float:
        """How much of the run is done, from 0 to 1."""
        return self.step / self.recipe.steps


class Objective:
    """Something that a picture is asked for. Say ``loss``; or ``terms``, for one that is made in parts."""

    name: str = "objective"

    def loss(self, moment: Moment) -> Tensor:
        """A scalar, the less the better, with a gradient to ``moment.image`` or ``moment.latent``."""
        raise NotImplementedError

    def terms(self, moment: Moment) -> Iterator[Tensor]:
        """Scalars whose sum is the loss. Each is freed after its backward pass, before the next is made."""
        yield self.loss(moment)

    def __add__(self, other: Objective) -> Objective:
        return Sum([*_parts(self), *_parts(other)])

    def __mul__(self, factor: float) -> Objective:
        return Scaled(self, factor)

    __rmul__ = __mul__

    def __repr__(self) -> str:
        return self.name


class Sum(Objective):
    """Several objectives as one: their graphs are held together, and one backward pass goes through all."""

    def __init__(self, objectives: Sequence[Objective]):
        self.objectives = list(objectives)
        self.name = " + ".join(map(repr, self.objectives))

    def terms(self, moment: Moment) -> Iterator[Tensor]:
        terms = [term.reshape(()) for objective in self.objectives for term in objective.terms(moment)]
        if terms:
            yield torch.stack(terms).sum()


class Scaled(Objective):
    """An objective times a number."""

    def __init__(self, objective: Objective, factor: float):
        self.objective, self.factor = objective, factor
        self.name = f"{factor:g} * {f'({objective})' if isinstance(objective, Sum) else objective}"

    def terms(self, moment: Moment) -> Iterator[Tensor]:
        for term in self.objective.terms(moment):
            yield self.factor * term


class Own(Objective):
    """A loss that somebody wrote: a function ``(image, latent, step) -> scalar``."""

    def __init__(self, function: Loss, name: str = ""):
        self.function = function
        self.name = name or getattr(function, "__name__", type(function).__name__)

    def loss(self, moment: Moment) -> Tensor:
        return self.function(moment.image, moment.latent, moment.step)


def _parts(objective: Objective) -> list[Objective]:
    return objective.objectives if isinstance(objective, Sum) else [objective]
