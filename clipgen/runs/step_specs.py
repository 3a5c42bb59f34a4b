"""From the settings of a run to the specification of its next step."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from clipgen.cutouts import CutoutConfig
from clipgen.generators import wrap_edges
from clipgen.generators.catalogue import entry_of
from clipgen.images import masks
from clipgen.images.camera import Camera
from clipgen.inits import InitContext
from clipgen.inspect import FrameJudge, StepReport, inspect_step
from clipgen.losses import InitTarget, Loss, StepSpec, SumLoss
from clipgen.losses.prompt_loss import DISTANCES, PromptLoss, Region, embed_prompts, embed_sources, find_regions
from clipgen.optimize import Optimization
from clipgen.optimizers import OptimizerConfig
from clipgen.precision import share_weights
from clipgen.priors import release_models
from clipgen.progress import check_stopped
from clipgen.registry import INITS, LOSSES
from clipgen.runs.settings import Settings, default_init
from clipgen.runs.spec import Models, RunSpec


class StepSpecBuilder:
    """Builds the step specs of one run. Results that a settings change does not affect are cached.

    ``show_draft`` is called with the draft of the start (1, 3, H, W) after each row of tokens.
    """

    def __init__(self, spec: RunSpec, models: Models, show_draft: Callable[[Tensor], None] | None = None):
        settings, generator = spec.settings, share_weights(models.generator)  # its state is this run's own
        if settings.tile:
            generator = wrap_edges(generator)
        self._run_spec, self._models, self._settings = spec, models, settings
        self._results: dict[str, tuple[Any, Any]] = {}  # for each name the last key and the result for it
        generator.condition(settings.texts)
        size, rng = _size_of(settings), torch.Generator().manual_seed(settings.seed)
        latent, fallback = generator.start(size, rng), INITS[default_init(settings.perceptor)]()
        context = InitContext(
            generator=generator,
            perceptor=models.perceptors[0][0],
            size=size,
            seed=settings.seed,
            rng=rng,
            latent=latent,
            prompts=settings.prompts,
            fallback=fallback,
            show=show_draft,
        )
        self._init_latent = spec.init.latent(context)
        self._context = self._first_context = replace(
            context, background=spec.init.background(context, self._init_latent)
        )

    def create_optimization(self, settings: Settings) -> Optimization:
        """Return a new optimisation at the settings' size. To resume a run, restore its saved state into it."""
        self._settings, self._context = settings, self._context_at(_size_of(settings))
        context, spec, latent = self._context, self._build(settings), self._init_latent
        if context is not self._first_context:
            latent = context.generator.start(context.size, context.rng)
        elif self._run_spec.init.starts_mask_from_draft and settings.mask:
            target = spec.init_target(0)  # otherwise the original under the mask would remain visible
            latent = target.latent if target and target.draft_key else latent
        assert context.background is not None
        return Optimization(spec, latent, context.background, context.rng, settings.passes)

    def update(self, optimization: Optimization, settings: Settings) -> None:
        """Prepare an optimisation for its next step, which has these settings, schedules resolved."""
        if settings != self._settings:
            self._settings = settings
            if _size_of(settings) == self._context.size:
                optimization.spec = self._build(settings)
            else:
                self._grow(optimization, settings)
            optimization.memory.set_passes(settings.passes, optimization.spec, optimization.latent)
        optimization.restart_from_draft()

    def judge(self) -> FrameJudge | None:
        """Return the judge of a frame with the settings of the last step, if the run has one."""
        judge, prompts = self._models.judge, self._settings.prompts
        if judge is None:
            return None
        embeddings = self._cached(
            "judge", lambda: embed_prompts(judge, prompts, self._run_spec.inputs.pictures), prompts
        )
        return FrameJudge(judge, prompts, embeddings, self._regions())

    def _grow(self, optimization: Optimization, settings: Settings) -> None:
        """Continue at a new size: vectors fit any size, other pictures are enlarged and encoded again."""
        generator, size = self._context.generator, _size_of(settings)
        if entry_of(settings.generator).is_vector:
            latent = generator.unpack(generator.pack(optimization.output_latent), size)
        else:
            latent = generator.encode(_enlarge(optimization.render_frame(), size))
        self._context = self._context_at(size)
        assert self._context.background is not None
        optimization.restart(self._build(settings), latent, self._context.background)

    def _context_at(self, size: tuple[int, int]) -> InitContext:
        """Return what the start can use at a size (H, W). A given picture is read again at that size."""
        first = self._first_context
        if size == first.size:
            return first
        assert first.background is not None
        context = replace(first, size=size, background=_enlarge(first.background, size))
        return replace(context, background=self._run_spec.init.background(context, self._init_latent))

    def _build(self, settings: Settings) -> StepSpec:
        prompts, perceptors, size = settings.prompts, self._models.perceptors, self._context.size
        pictures = self._run_spec.inputs.pictures
        if self._context.generator.texts != settings.texts:
            self._context.generator.condition(settings.texts)
        mask = None
        if settings.mask:
            mask = self._cached("mask", lambda: self._load_mask(settings.mask), settings.mask, size)
        embeddings = self._cached(
            "embeddings", lambda: [embed_prompts(clip, prompts, pictures) for clip, _ in perceptors], prompts
        )
        sources = self._cached("sources", lambda: [embed_sources(clip, prompts) for clip, _ in perceptors], prompts)
        context = replace(self._context, prompts=prompts, mask=mask)
        targets: list[InitTarget] = []
        if settings.near:
            targets = self._cached(
                "targets", lambda: self._run_spec.init.targets(context), prompts, settings.mask, size
            )
        if self._context.generator.device.type != "cpu":
            release_models()  # of a prior that has drawn its drafts: the GPU's memory is for the steps
        cutouts = settings.select(CutoutConfig)
        if settings.tile:
            cutouts = replace(cutouts, padding="wrap")
        distance, combined = DISTANCES[settings.distance], settings.combine == "embeddings"
        prompt_loss = PromptLoss(
            prompts, perceptors, embeddings, self._regions(), cutouts, distance, settings.averaged, combined, sources
        )
        others: list[Loss] = [settings.select(kind) for kind in LOSSES.values()]
        return StepSpec(
            generator=self._context.generator,
            perceptors=perceptors,
            prompts=prompts,
            losses=[prompt_loss, SumLoss([*others, *self._run_spec.losses])],
            init_targets=targets,
            optimizer=settings.select(OptimizerConfig),
            camera=Camera.parse(settings.camera),
            mask=mask,
            steps=settings.steps,
            cutouts=cutouts,
            precision=self._run_spec.precision,
            deterministic=settings.deterministic,
        )

    def _regions(self) -> list[Region]:
        prompts = self._settings.prompts
        return self._cached("regions", lambda: find_regions(prompts, self._load_mask), prompts, self._context.size)

    def _load_mask(self, text: str) -> Tensor:
        mask = masks.load_mask(text, self._context.size, self._run_spec.inputs.pictures)
        return mask.to(self._models.generator.device)

    def _cached(self, name: str, compute: Callable[[], Any], *key: Any) -> Any:
        """Return ``compute()``, or its last result if ``key`` is the same."""
        if name not in self._results or self._results[name][0] != key:
            self._results[name] = key, compute()
        return self._results[name][1]


class StepInspector:
    """Repeats the steps of a run, to report what CLIP was shown; a later step continues from an earlier one."""

    def __init__(self, spec: RunSpec, models: Models, changes: Sequence[Mapping[str, Any]]):
        self._spec, self._models, self._changes = spec, models, changes
        self._repeated: tuple[Iterator[Optimization], Optimization] | None = None
        self._lock = threading.Lock()

    def inspect(self, step: int, progress: bool) -> StepReport:
        """Return the report of a step, counted from 1."""
        with self._lock:
            steps, optimization = self._repeated or (None, None)
            self._repeated = None  # discarded if interrupted within a step
            if steps is None or optimization is None or optimization.step >= step:
                steps = repeat_steps(self._spec, self._models, self._changes)
                optimization = next(steps)
            bar = tqdm(total=step, initial=optimization.step, disable=not progress, leave=False, unit="step", delay=1)
            with closing(optimization.memory), bar:
                while optimization.step < step - 1:
                    check_stopped()
                    next(steps)
                    bar.update()
                report = inspect_step(optimization)
            self._repeated = steps, optimization
        return report


def repeat_steps(spec: RunSpec, models: Models, changes: Sequence[Mapping[str, Any]]) -> Iterator[Optimization]:
    """Make a run again from its seed and its ``changes``, which may grow; yield its optimisation before each step."""
    settings, builder = spec.settings, StepSpecBuilder(spec, models)
    optimization = builder.create_optimization(settings.at(0))
    while True:
        due = [change for change in changes if change["step"] == optimization.step]
        settings = spec.apply_changes(settings, due)
        builder.update(optimization, settings.at(optimization.step))
        yield optimization
        optimization.advance()
        if optimization.spec.camera and settings.is_frame_step(optimization.step):
            optimization.move_camera(optimization.render_frame())


def _size_of(settings: Settings) -> tuple[int, int]:
    """Return the size of settings, the first if it grows, as (H, W)."""
    width, height = settings.growth.sizes[0]
    return height, width


def _enlarge(image: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)
