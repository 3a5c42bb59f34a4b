"""From settings to the recipe of a render, again and again while a run is steered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from clipgen.cutouts.sampling import Cutouts
from clipgen.generators.catalogue import entry_of
from clipgen.generators.protocol import Parameterisation
from clipgen.generators.seamless import Seamless
from clipgen.images import masks
from clipgen.images.camera import Camera
from clipgen.inits import Scene
from clipgen.inspect.judging import Judging
from clipgen.losses.objectives import Goal, Objective, Recipe, Sum
from clipgen.losses.prompt_loss import DISTANCES, PromptLoss, embedded, spots
from clipgen.optimize import Render
from clipgen.optimizers import Descent
from clipgen.precision import share_weights
from clipgen.prompts import Prompt
from clipgen.registry import OBJECTIVES, STARTS
from clipgen.runs.settings import Settings, default_start
from clipgen.runs.spec import Models, RunSpec


class Recipes:
    """The recipes of one run. What a change of the settings leaves as it was is not made again."""

    def __init__(self, spec: RunSpec, models: Models):
        s, perceptor = spec.settings, models.perceptors[0][0]
        generator = share_weights(models.generator)  # whose state is this run's alone
        param = cast(Parameterisation, Seamless(generator)) if s.tile else generator
        self._spec, self._models, self._made = spec, models, dict[str, tuple[Any, Any]]()
        size, rng = _inside(s), torch.Generator().manual_seed(s.seed)
        fallback = STARTS[default_start(s.perceptor)]()
        scene = Scene(param, perceptor, size, s.seed, rng, param.start(size, rng), s.prompts, fallback=fallback)
        self._latent = spec.start.latent(scene)
        self._scene = self._first = replace(scene, base=spec.start.base(scene, self._latent))

    def begin(self, settings: Settings) -> Render:
        """The render at its first step; at another size only a place for what it is restored from.

        A masked part of a picture begins with its draft, or what was there would show through.
        """
        base, scene = self._turn_to(_inside(settings)), self._scene
        latent, recipe = self._latent, self._of(settings)
        if scene is not self._first:
            latent = scene.param.start(scene.size, scene.rng)
        elif self._spec.start.redrafted and settings.mask and (goal := recipe.goal(0)) and goal.drafted:
            latent = goal.latent
        return Render(recipe, latent, base, scene.rng, settings.passes)

    def follow(self, render: Render, settings: Settings) -> None:
        """Let a render go on with these settings, schedules resolved; where their size is another, its picture grows.

        Vectors fit any size, any other picture is enlarged and encoded again. Pictures that the settings name, and what
        the run is drawn to, come from where they came from, at the new size.
        """
        if (size := _inside(settings)) == self._scene.size:
            render.recipe = self._of(settings)
            render.memory.part(settings.passes, render.recipe, render.latent)
            return
        param = self._scene.param
        if entry_of(settings.generator).vectors:
            latent = param.unpack(param.pack(render.shown), size)
        else:
            latent = param.encode(_enlarged(render.picture(), size))
        base = self._turn_to(size)
        render.grow(self._of(settings), latent, base)
        render.memory.part(settings.passes, render.recipe, render.latent)

    def _turn_to(self, size: tuple[int, int]) -> Tensor:
        """Have what depends on the size, (H, W), made for this one from now on; returns the base."""
        assert self._first.base is not None and self._scene.base is not None
        if size == self._scene.size:
            return self._scene.base
        scene = replace(self._first, size=size, base=_enlarged(self._first.base, size))
        self._scene = replace(scene, base=(base := self._spec.start.base(scene, self._latent)))
        for name in ("mask", "spots", "goals"):
            self._made.pop(name, None)
        return base

    def _of(self, settings: Settings) -> Recipe:
        s, models, prompts = settings, self._models, settings.prompts
        mask = self._once("mask", s.mask, lambda: self._mask(s.mask) if s.mask else None)
        cutouts = replace(s.select(Cutouts), padding="wrap") if s.tile else s.select(Cutouts)
        extras: list[Objective] = [s.select(kind) for kind in OBJECTIVES.values()]
        return Recipe(
            param=self._scene.param,
            perceptors=models.perceptors,
            prompts=prompts,
            objectives=[self._prompt_loss(s, prompts, cutouts), Sum([*extras, *self._spec.losses])],
            goals=self._once("goals", (prompts, s.mask, s.near > 0), lambda: self._goals(prompts, mask, s.near)),
            descent=s.select(Descent),
            camera=Camera.parse(s.camera),
            mask=mask,
            steps=s.steps,
            cutouts=cutouts,
            precision=models.precision,
        )

    def judging(self, settings: Settings) -> Judging | None:
        """Who scores the frames, and by what, if somebody does."""
        s, judge = settings, self._models.judge
        if judge is None:
            return None
        prompts = s.prompts
        targets = self._once("judged", prompts, lambda: embedded(judge, prompts, self._spec.inputs.pictures))
        return Judging(judge, prompts, targets, self._once("spots", prompts, lambda: spots(prompts, self._mask)))

    def _prompt_loss(self, s: Settings, prompts: list[Prompt], cutouts: Cutouts) -> PromptLoss:
        perceptors, pictures = self._models.perceptors, self._spec.inputs.pictures
        targets = self._once(
            "targets", prompts, lambda: [embedded(perceptor, prompts, pictures) for perceptor, _ in perceptors]
        )
        places = self._once("spots", prompts, lambda: spots(prompts, self._mask))
        ways = DISTANCES[s.distance], s.averaged, s.combine == "embeddings"
        return PromptLoss(prompts, perceptors, targets, places, cutouts, *ways)

    def _goals(self, prompts: list[Prompt], mask: Tensor | None, near: float) -> list[Goal]:
        return self._spec.start.goals(replace(self._scene, prompts=prompts, mask=mask)) if near else []

    def _mask(self, spec: str) -> Tensor:
        return masks.load(spec, self._scene.size, self._spec.inputs.pictures).to(self._models.generator.device)

    def _once(self, name: str, key: Any, make: Callable[[], Any]) -> Any:
        """What ``make`` made, the last time or now: again only when what it depends on is another."""
        if name not in self._made or self._made[name][0] != key:
            self._made[name] = key, make()
        return self._made[name][1]


def _inside(settings: Settings) -> tuple[int, int]:
    """The size (H, W) that settings begin with."""
    width, height = settings.sizes[0]
    return height, width


def _enlarged(picture: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(picture, size, mode="bicubic", antialias=True).clamp(0, 1)
