"""All settings of a run, under the one name that each has in Python, on the command line and in the journal.

The run's own settings are declared here, those of its parts (optimiser, cutouts, losses) where the parts are.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields, replace
from functools import cached_property, partial
from typing import Any, TypeVar

from clipgen.clip.catalogue import find_family
from clipgen.cutouts import CutoutConfig
from clipgen.device import PRECISIONS
from clipgen.errors import ClipgenError, suggest
from clipgen.generators.catalogue import GENERATORS, canonical_name, entry_of
from clipgen.images.camera import Camera
from clipgen.images.reading import FITS
from clipgen.losses.prompt_loss import DISTANCES
from clipgen.optimizers import OptimizerConfig
from clipgen.prompts import Prompt, parse, parse_weighted, positive_text_prompts
from clipgen.registry import INITS, LOSSES, RELAXATIONS
from clipgen.runs.presets import PRESETS, canonical_recipe
from clipgen.setting import (
    Growth,
    Schedule,
    check,
    describe,
    parse_growth,
    parse_schedule,
    parse_size,
    setting,
    to_python,
)

Part = TypeVar("Part")
Documented = TypeVar("Documented")
# Factors on the generator's defaults. A draft also has half the side on a CPU, the best 1.5 times the side on a GPU.
QUALITIES: Mapping[str, Mapping[str, float]] = {
    "draft": {"steps": 0.5, "cutouts": 0.5},
    "normal": {},
    "best": {"steps": 2.5, "cutouts": 2},
}
KEEP_CHOICES = ("last", "best")
FILM_STEPS = 24  # the film shows each of these first steps, unless ``every`` was raised
COMMON_PERCEPTORS = "mini", "ViT-B-32/openai", "ViT-B-16/openai", "ViT-B-32/openai | RN50/openai:0.5", "fare2", "clipag"
PARTS: tuple[type, ...] = (OptimizerConfig, CutoutConfig, *LOSSES.values())  # dataclasses whose fields are settings


# By the section that a setting is listed in; those of "basic" cannot change during a run.
_basic = partial(setting, live=False, section="basic")
_start, _clip = partial(setting, section="start"), partial(setting, section="clip")
_output, _speed = partial(setting, section="output"), partial(setting, section="speed")


@dataclass(frozen=True)
class RunSettings:
    """The settings that belong to the run itself."""

    prompt: str
    negative: str = _clip("", "what to avoid; weighs half as much as the prompt, or as given: 'blurry:0.3'")
    quality: str = _basic("normal", "preset for steps, cutouts and size", choices=tuple(QUALITIES))
    steps: int = _basic(120, "optimisation steps", 1, 10**6)
    seed: int = _basic(0, "random seed (repeatable; on a GPU to rounding)", 0, 2**63 - 1)
    size: tuple[int, int] | str | None = _basic(
        None,
        "width x height in pixels (default: the generator's); can grow: 128x128@0-60, 256x256@60-",
        common=("128x128", "128x96", "256x256", "512x384", "128x128@0-60, 256x256@60-"),
    )
    tile: bool = setting(
        False, "make the picture repeat without a seam: cutouts and decoder wrap around", live=False, section="look"
    )
    generator: str = _basic("stack", "what is optimised: the latent of a decoder, or pixels", common=lambda: GENERATORS)
    perceptor: str = _clip(
        "mini", "the CLIP that scores the picture; several as 'a | b:0.5'", common=COMMON_PERCEPTORS, live=False
    )
    judge: str = _clip(
        "",
        "a second CLIP that scores frames without guiding, such as evaluator or ViT-L-14/openai; pickscore and "
        "hps-v2.1 score human preference (only comparable within a prompt); aesthetic rates 1-10 without a prompt",
        common=("evaluator", "ViT-B-16/openai", "ViT-L-14/openai", "pickscore", "hps-v2.1", "aesthetic"),
        live=False,
    )
    recipe: str = _basic("", "settings of a published source, by name; others override them", choices=("", *PRESETS))
    relax: str = setting(
        "straight-through",
        "how tokens get a gradient: straight-through; gumbel (of logits; gumbel:1.9 fixes the temperature); sample "
        "(one token is sampled); none (not quantised; none:6 clamps to 6)",
        common=tuple(RELAXATIONS),
        live=False,
        section="optimizer",
    )
    init: str = _start(
        "auto",
        "start: random (codes), dalle (a transformer's draft; the default with the mini CLIP), dalle-mini, dalle-mega, "
        "noise, perlin, gradient, a colour, an image, a run folder (its last frame), tokens as .npy",
        common=lambda: ("auto", *INITS),
        live=False,
    )
    fit: str = _start("crop", "how pictures are resized", choices=tuple(FITS), live=False)
    mask: str = _start(
        "",
        "area to paint: top, bottom, left, right, centre, x,y,w,h, not ..., or an image (white is painted)",
        common=("top", "bottom", "left", "right", "centre", "not centre"),
    )
    distance: str = _clip("spherical", "how CLIP's embeddings are compared", choices=tuple(DISTANCES))
    combine: str = _clip(
        "losses",
        "how prompts are combined: losses (each pulls), embeddings (one target, their weighted sum)",
        choices=("losses", "embeddings"),
    )
    averaged: float = _clip(
        0.0, "what is minimised: 0 the mean distance of cutouts, 1 the distance of their mean embedding", 0, 1
    )
    passes: int = _speed(1, "passes that cutouts are split into: less memory, same picture (not with levels)", 1, 10**4)
    camera: str = _output("", "camera motion between frames: 'zoom=1.02, x=0.01, angle=1@50-100'")
    every: int = _output(3, "steps between frames", 1, 10**6, live=False)
    patience: int = _output(
        0,
        "stop after this many steps without a change or a better score from the judge (or CLIP); 0: never",
        0,
        10**6,
        live=False,
    )
    settled: float = _output(
        0.0,
        "stop when the picture changes by less than this, in 8-bit levels (0 to 255), over a tenth of the steps; "
        "0: never. Default when steps is not set: 2 (stack), 1 (mini-vqgan)",
        0,
        255,
        live=False,
    )
    keep: str = _output("last", "frame to show and export: the last, or the judge's best", choices=KEEP_CHOICES)
    device: str = _speed("auto", "auto, cpu, cuda or mps", live=False)
    precision: str = _speed(
        "auto",
        "floating-point type of the models: auto (the fastest accurate one), bf16, fp16, fp32",
        choices=("auto", *PRECISIONS),
        live=False,
    )
    deterministic: bool = _speed(
        False, "use torch's deterministic algorithms; it warns of operations without one", live=False
    )


# Dataclasses list the fields of the last base first, so that the settings are in the order of RunSettings, *PARTS.
@dataclass(frozen=True)
class Settings(*reversed(PARTS), RunSettings):  # type: ignore[misc]
    """The settings of a run and its parts. Values are checked by ``build`` and ``check``, not when this is made."""

    def __post_init__(self) -> None:
        """Replace the parts' own checks, which ``check`` makes for each value of a schedule; normalise ``recipe``."""
        if isinstance(self.recipe, str):
            object.__setattr__(self, "recipe", canonical_recipe(self.recipe))

    @classmethod
    def of(cls, saved: Mapping[str, Any]) -> Settings:
        """Return the settings among what a journal has saved."""
        return cls(**{field.name: saved[field.name] for field in fields(cls) if field.name in saved})

    def select(self, part: type[Part]) -> Part:
        """Return a part of the run, made with its settings. Raises ClipgenError for values that it refuses."""
        return part(**{field.name: getattr(self, field.name) for field in fields(part)})  # type: ignore[arg-type]

    @cached_property
    def prompts(self) -> list[Prompt]:
        """The prompts, followed by the negative ones."""
        return parse(self.prompt, self.negative)

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts to go towards."""
        return tuple(prompt.text for prompt in positive_text_prompts(self.prompts))

    @cached_property
    def schedules(self) -> dict[str, Schedule]:
        """The settings that change over the steps, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if scheduled(field)}
        return {name: parse_schedule(name, value) for name, value in values.items() if isinstance(value, str)}

    @cached_property
    def growth(self) -> Growth:
        """The sizes that the picture has, one after another; none if the generator chooses."""
        if isinstance(self.size, str):
            return parse_growth(self.size)
        return Growth((self.size,), (0,)) if self.size else Growth((), ())

    @property
    def span_edges(self) -> set[int]:
        """The steps at which spans begin or end: of prompts, scheduled numbers, sizes and camera moves."""
        spans: list[tuple[int, float]] = [prompt.span for prompt in self.prompts]
        spans += [(first, last) for *_, first, last in Camera.parse(self.camera).moves]
        edges = {int(edge) for span in spans for edge in span if edge < math.inf}
        return edges.union(self.growth.begins, *(schedule.edges for schedule in self.schedules.values()))

    def updated(self, **values: Any) -> Settings:
        """Return a copy with other values. Prompts are parsed again only if they are among them."""
        copy = replace(self, **values)
        if not values.keys() & {"prompt", "negative"}:
            copy.__dict__["prompts"] = self.prompts
        return copy

    def at(self, step: int) -> Settings:
        """Return the settings at a step: each schedule is a number, and a growing size the one of that step."""
        values: dict[str, Any] = {name: schedule.at(step) for name, schedule in self.schedules.items()}
        for name in values:
            if type(getattr(type(self), name)) is int:
                values[name] = round(values[name])
        if isinstance(self.size, str):
            values["size"] = self.growth.at(step)
        return self.updated(**values) if values else self

    def is_frame_step(self, step: int) -> bool:
        """Return whether a step, counted from 1, makes a frame."""
        return step in (1, self.steps) or step % self.every == 0

    def is_film_step(self, step: int) -> bool:
        """Return whether a step makes a picture for the film alone: the picture changes most in the first steps."""
        return step <= FILM_STEPS and self.every <= type(self).every and not self.is_frame_step(step)

    def check(self) -> None:
        """Raise ClipgenError for the first value that is invalid for every model."""
        for step in sorted({0}.union(*(schedule.edges for schedule in self.schedules.values()))):
            self.at(step)._check()

    def _check(self) -> None:
        for field in fields(self)[1:]:  # the prompt has a grammar instead
            check(field, getattr(self, field.name))
        sides = self.size if isinstance(self.size, tuple) else ()
        if self.size is not None and not (len(sides) == 2 and all(isinstance(side, int) for side in sides)):
            raise ClipgenError(f"size={self.size!r}: must be (width, height), such as (128, 96), or '128x96'")
        _ = self.prompts
        Camera.parse(self.camera)
        for part in PARTS:
            self.select(part)


def scheduled(field: Field) -> bool:
    """Return whether a setting is a number that can change over the steps."""
    return type(field.default) in (int, float) and field.metadata.get("live", True)


def default_init(perceptor: str) -> str:
    """Return the default start of a perceptor or an ensemble: ``random`` if theirs differ."""
    starts = {find_family(name).default_init for name, _ in parse_weighted(perceptor)}
    return starts.pop() if len(starts) == 1 else "random"


def defaults_for(
    quality: str, generator: str, recipe: str = "", perceptor: str = "mini", device: str = "auto"
) -> dict[str, Any]:
    """Return the settings of a recipe, or the defaults for a generator, a perceptor and a device, at a quality.

    A GPU makes as many steps as the notebooks of 2021, a CPU fewer. With published CLIPs ``stack`` is as in ``das``.
    """
    recipe = canonical_recipe(recipe)
    has_draft = recipe not in PRESETS and default_init(perceptor) == "dalle"
    if recipe in PRESETS:
        defaults = PRESETS[recipe]
    elif has_draft or generator != Settings.generator:
        defaults = entry_of(generator).defaults_on(device)
    else:
        defaults = {name: value for name, value in PRESETS["das"].items() if name not in ("generator", "perceptor")}
    fringes = 100.0 if has_draft else 0.0  # at 1,500 colours fade
    values = {"steps": 120, "cutouts": 16, "fringes": fringes} | dict(defaults)
    return values | {name: round(values[name] * factor) for name, factor in QUALITIES.get(quality, {}).items()}


def to_numbers(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with NumPy's and PyTorch's scalars as Python numbers, and 1.0 as 1 where an int is needed."""
    whole = {field.name for field in fields(Settings) if type(field.default) is int} | {"size"}
    numbers = {name: value for name, value in options.items() if not isinstance(value, str)}
    return dict(options) | {name: to_python(value, name in whole) for name, value in numbers.items()}


def check_names(options: Mapping[str, Any], only_live: bool = False) -> None:
    """Raise ClipgenError for a name that is not a setting, or with ``only_live`` for one that stays as it began."""
    live = {field.name: field.metadata.get("live", True) for field in fields(Settings)}
    for name in options:
        if name not in live:
            hint = suggest(name, live).strip() or f"there are {', '.join([*live][1:])}"
            raise ClipgenError(f"{name}=...: there is no such setting; {hint}")
        if only_live and not live[name]:
            raise ClipgenError(f"{name}=...: cannot be changed during a run; start another, or branch")


def build(prompt: str, options: Mapping[str, Any]) -> Settings:
    """Return checked settings: the options, and for the rest the defaults of the generator at that quality.

    Raises ClipgenError for an unknown name and for values that cannot work.
    """
    check_names(options)

    def given(name: str) -> str:
        return str(options.get(name, getattr(Settings, name)))

    recipe, perceptor, generator = given("recipe"), given("perceptor"), canonical_name(given("generator"))
    values = defaults_for(given("quality"), generator, recipe, perceptor, given("device"))
    has_draft = options.get("init", "auto") in ("auto", "dalle") and perceptor == "mini"
    if has_draft and not recipe and "steps" not in options:
        values["settled"] = entry_of(generator).settled
    values |= to_numbers(options)
    values["generator"] = canonical_name(str(values.get("generator", generator)))
    values["size"] = parse_size(values.get("size"))
    settings = Settings(prompt, **values)
    if settings.negative and "negative" not in options and any(one.weight < 0 for one in parse(prompt)):
        settings = replace(settings, negative="")  # a recipe has it for prompts without negative weights
    settings.check()
    has_fringes = "fringes" in options or (has_draft and settings.texts)
    return settings if has_fringes else settings.updated(fringes=0.0)


def list_settings(documented: Documented) -> Documented:
    """Append the list of all settings to a docstring, for ``help``. A decorator."""
    lines = [describe(field) for field in fields(Settings) if field.default is not MISSING]
    intro = "Settings, with default and range; those with a * can change during a run:"
    text = inspect.cleandoc(documented.__doc__ or "")
    documented.__doc__ = "\n".join([text, "", intro, *lines])
    return documented
