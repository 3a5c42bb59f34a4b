"""From settings to the recipe of a render, again and again while a run is steered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from clipgen.images import masks
from clipgen.images.camera import Camera
from clipgen.models.parameterisations.protocol import Parameterisation
from clipgen.models.parameterisations.seamless import Seamless
from clipgen.optvis.cutouts import Cutouts
from clipgen.optvis.descent import Descent
from clipgen.optvis.judging import Judging
from clipgen.optvis.objectives import Goal, Objective, Recipe, Sum
from clipgen.optvis.prompt import Prompt
from clipgen.optvis.prompt_loss import DISTANCES, PromptLoss, embedded, spots
from clipgen.optvis.render import Render
from clipgen.optvis.starts import Scene
from clipgen.optvis.window import Window
from clipgen.registry import OBJECTIVES, STARTS
from clipgen.runs.plan import Models, Plan
from clipgen.runs.prompts import parse
from clipgen.runs.settings import Settings


class Recipes:
    """The recipes of one run. What a change of the settings leaves as it was is not made again."""

    def __init__(self, plan: Plan, models: Models):
        s, perceptor = plan.settings, models.perceptors[0][0]
        param = cast(Parameterisation, Seamless(models.generator)) if s.tile else models.generator
        assert s.size is not None
        self._plan, self._models, self._made = plan, models, dict[str, tuple[Any, Any]]()
        size, rng = (s.size[1], s.size[0]), torch.Generator().manual_seed(s.seed)
        fallback = STARTS[perceptor.default_start]()
        scene = Scene(param, perceptor, size, s.seed, rng, param.start(size, rng), parse(s.prompt), fallback=fallback)
        self._latent = plan.start.latent(scene)
        self._scene = replace(scene, base=plan.start.base(scene, self._latent))

    def begin(self, settings: Settings) -> Render:
        """The render at its first step."""
        assert self._scene.base is not None
        return Render(self.of(settings), self._latent, self._scene.base, self._scene.rng, settings.passes)

    def of(self, settings: Settings) -> Recipe:
        """The recipe for these settings, schedules resolved."""
        s, models = settings, self._models
        prompts = self._once("prompts", s.prompt, lambda: parse(s.prompt))
        mask = self._once("mask", s.mask, lambda: self._mask(s.mask) if s.mask else None)
        cutouts = replace(s.part(Cutouts), padding="wrap") if s.tile else s.part(Cutouts)
        extras: list[Objective] = [s.part(kind) for kind in OBJECTIVES.values()]
        return Recipe(
            param=self._scene.param,
            perceptors=models.perceptors,
            prompts=prompts,
            objectives=[self._prompt_loss(s, prompts, cutouts), Sum([*extras, *self._plan.losses])],
            goals=self._once("goals", (s.prompt, s.mask, s.near > 0), lambda: self._goals(prompts, mask, s.near)),
            descent=s.part(Descent),
            camera=Camera.parse(s.camera),
            mask=mask,
            steps=s.steps,
            cutouts=cutouts,
            window=s.part(Window),
            precision=models.precision,
        )

    def judging(self, settings: Settings) -> Judging | None:
        """Who scores the frames, and by what, if somebody does."""
        s, judge = settings, self._models.judge
        if judge is None:
            return None
        prompts = self._once("prompts", s.prompt, lambda: parse(s.prompt))
        targets = self._once("judged", s.prompt, lambda: embedded(judge, prompts, self._plan.inputs.pictures))
        return Judging(judge, prompts, targets, self._once("spots", s.prompt, lambda: spots(prompts, self._mask)))

    def _prompt_loss(self, s: Settings, prompts: list[Prompt], cutouts: Cutouts) -> PromptLoss:
        perceptors, pictures = self._models.perceptors, self._plan.inputs.pictures
        targets = self._once(
            "targets", s.prompt, lambda: [embedded(perceptor, prompts, pictures) for perceptor, _ in perceptors]
        )
        places = self._once("spots", s.prompt, lambda: spots(prompts, self._mask))
        ways = DISTANCES[s.distance], s.averaged, s.combine == "embeddings"
        return PromptLoss(prompts, perceptors, targets, places, cutouts, *ways)

    def _goals(self, prompts: list[Prompt], mask: Tensor | None, near: float) -> list[Goal]:
        return self._plan.start.goals(replace(self._scene, prompts=prompts, mask=mask)) if near else []

    def _mask(self, spec: str) -> Tensor:
        return masks.load(spec, self._scene.size, self._plan.inputs.pictures).to(self._models.generator.device)

    def _once(self, name: str, key: Any, make: Callable[[], Any]) -> Any:
        """What ``make`` made, the last time or now: again only when what it depends on is another."""
        if name not in self._made or self._made[name][0] != key:
            self._made[name] = key, make()
        return self._made[name][1]
