"""Everything that a run can be asked for, under the one name that it has in Python, as an option and in the journal.

The run's own settings are declared here; those of its parts (how it moves, how it is shown to CLIP, what else it is
asked for) where the parts are.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, make_dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from clipgen.clip.catalogue import family
from clipgen.cutouts.sampling import Cutouts
from clipgen.device import PRECISIONS
from clipgen.errors import ClipgenError
from clipgen.generators.catalogue import GENERATORS, canonical_name, entry_of
from clipgen.images.camera import Camera
from clipgen.images.reading import FITS
from clipgen.losses.prompt_loss import DISTANCES
from clipgen.optimizers import Descent
from clipgen.prompts import Prompt, parse, parse_weighted
from clipgen.registry import OBJECTIVES, RELAXATIONS, STARTS
from clipgen.runs.presets import PRESETS
from clipgen.runs.schedules import Schedule, growth, schedule, size_of
from clipgen.setting import check, plain, setting

KEPT = ("last", "best")
Part = TypeVar("Part")
Own = TypeVar("Own", bound="_Own")
QUALITIES: Mapping[str, Mapping[str, float]] = {
    "draft": {"steps": 0.5, "cutouts": 0.5},
    "normal": {},
    "best": {"steps": 2.5, "cutouts": 2},
}
"""Times what suits the generator; a draft also has half the side on a CPU, the best half again the side on a GPU."""
KEPT = ("last", "best")
PERCEPTORS = ("mini", "ViT-B-32/openai", "RN50/openai", "ViT-B-16/openai", "ViT-B-32/openai | RN50/openai:0.5")


@dataclass(frozen=True)
class _Own:
    """The settings that belong to the run itself."""

    prompt: str
    negative: str = setting(
        "", "what to stay away from: texts that push half as strongly, or as 'blurry:0.3' says", section="clip"
    )
    quality: str = setting(
        "normal", "draft, normal or best: steps, cutouts, size", choices=tuple(QUALITIES), live=False, section="basic"
    )
    steps: int = setting(120, "optimisation steps", 1, 10**6, live=False, section="basic")
    seed: int = setting(0, "same seed, same machine: same picture", 0, 2**63 - 1, live=False, section="basic")
    size: tuple[int, int] | str | None = setting(
        None,
        "in pixels, by default what the generator draws best; it may grow: 128x128@0-60, 256x256@60-",
        common=("128x128", "128x96", "256x256", "512x384", "128x128@0-60, 256x256@60-"),
        live=False,
        section="basic",
    )
    tile: bool = setting(
        False, "a picture that repeats without a seam: views and decoder see it wrapped", live=False, section="look"
    )
    generator: str = setting(
        "stack",
        "what is optimised: the latent of a decoder, or pixels",
        common=lambda: GENERATORS,
        live=False,
        section="basic",
    )
    perceptor: str = setting(
        "mini",
        "the CLIP that scores the picture; several as 'a | b:0.5'",
        common=PERCEPTORS,
        live=False,
        section="clip",
    )
    judge: str = setting(
        "",
        "a second CLIP, which guides nothing and scores every frame, such as evaluator or ViT-L-14/openai",
        common=("evaluator", "ViT-B-16/openai", "ViT-L-14/openai"),
        live=False,
        section="clip",
    )
    recipe: str = setting(
        "",
        "the settings of a famous notebook, by name; what else is asked for wins",
        choices=("", *PRESETS),
        live=False,
        section="basic",
    )
    relax: str = setting(
        "straight-through",
        "how tokens get a gradient: straight-through; gumbel (of token logits; gumbel:1.9 at one temperature, mixed to "
        "the end); sample (a token is drawn); none (a latent that is not snapped; none:6 within 6)",
        common=tuple(RELAXATIONS),
        live=False,
        section="optimizer",
    )
    init: str = setting(
        "auto",
        "where to start: random (codes), dalle (what a transformer draws; auto with the mini CLIP), "
        "dalle-mini, dalle-mega, noise, perlin, gradient, a colour, an image, a run "
        "folder (its last frame), tokens as .npy",
        common=lambda: ("auto", *STARTS),
        live=False,
        section="start",
    )
    fit: str = setting("crop", "how pictures are brought to size", choices=FITS, section="start")
    mask: str = setting(
        "",
        "paint only there: top, bottom, left, right, x,y,w,h, not ..., or an image (white: paint)",
        common=("top", "bottom", "left", "right", "centre", "not centre"),
        section="start",
    )
    distance: str = setting("spherical", "how CLIP's embeddings are compared", choices=tuple(DISTANCES), section="clip")
    combine: str = setting(
        "losses",
        "how prompts come together: losses (each pulls), embeddings (one target, their weighted sum)",
        choices=("losses", "embeddings"),
        section="clip",
    )
    averaged: float = setting(
        0.0, "weight of the distance of the cutouts' mean embedding, beside the mean of distances", 0, 1, section="clip"
    )
    passes: int = setting(
        1, "parts that cutouts go through CLIP in: less memory, same picture", 1, 10**4, section="speed"
    )
    camera: str = setting("", "moves from frame to frame: 'zoom=1.02, x=0.01, angle=1@50-100'", section="output")
    every: int = setting(3, "steps from frame to frame", 1, 10**6, live=False, section="output")
    patience: int = setting(
        0,
        "ends when for so many steps no frame was better, says the judge (or CLIP); 0: never",
        0,
        10**6,
        live=False,
        section="output",
    )
    settled: float = setting(
        0.0,
        "ends when in a tenth of its steps the picture changes by less than this, in levels of 255; 0: never. Unless "
        "steps are asked for, 2 with stack and 1 with mini-vqgan",
        0,
        255,
        live=False,
        section="output",
    )
    keep: str = setting(
        "last", "what is shown and exported: the last frame, or the judge's favourite", choices=KEPT, section="output"
    )
    device: str = setting("auto", "auto, cpu, cuda or mps", live=False, section="speed")
    precision: str = setting(
        "auto",
        "what the models compute in: auto (what the device is fast and right in), bf16, fp16, fp32",
        choices=("auto", *PRECISIONS),
        live=False,
        section="speed",
    )

    def part(self, kind: type[Part]) -> Part:
        """A part of the run, made from the settings that it declares. Raises ClipgenError for what it refuses."""
        return kind(**{knob.name: getattr(self, knob.name) for knob in fields(kind)})  # type: ignore[arg-type]

    @property
    def schedules(self) -> dict[str, Schedule]:
        """The numbers that change over the steps."""
        return {
            knob.name: schedule(knob.name, value)
            for knob in fields(self)
            if isinstance(value := getattr(self, knob.name), str) and scheduled(knob)
        }

    @property
    def prompts(self) -> list[Prompt]:
        """The prompts, and behind them what is ``negative``."""
        return parse(self.prompt, self.negative)

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """The sizes that the picture has, one after another; none where it is up to the generator."""
        return growth(self.size).sizes if isinstance(self.size, str) else (self.size,) if self.size else ()

    def at(self: Own, step: int) -> Own:
        """The settings at a step, every schedule a number, and the size that of then."""
        kinds = {knob.name: type(knob.default) for knob in fields(self)}
        values = {name: _rounded(kinds[name], plan.at(step)) for name, plan in self.schedules.items()}
        if isinstance(self.size, str):
            values["size"] = growth(self.size).at(step)
        return replace(self, **values) if values else self

    def is_frame_step(self, step: int) -> bool:
        """Whether a frame is made of a step, counted from 1."""
        return step in (1, self.steps) or step % self.every == 0

    def check(self) -> None:
        """Raise ClipgenError for the first value that cannot work, whatever the models and the step."""
        edges = {
            0,
            *(int(edge) for plan in self.schedules.values() for span in plan.spans for edge in span if edge < 1e9),
        }
        for edge in sorted(edges):
            self.at(edge)._check()

    def _check(self) -> None:
        for knob in fields(self):
            check(knob, getattr(self, knob.name))
        sides = self.size if isinstance(self.size, tuple) else ()
        if self.size is not None and not (len(sides) == 2 and all(isinstance(side, int) for side in sides)):
            raise ClipgenError(f"size={self.size!r}: has to be (width, height), such as (128, 96), or '128x96'")
        _ = self.prompts
        Camera.parse(self.camera)
        for kind in _PARTS:
            self.part(kind)


def scheduled(knob: Field) -> bool:
    """Whether a setting is a number that can change over the steps."""
    return type(knob.default) in (int, float) and knob.metadata.get("live", True)


def _rounded(kind: type, number: float) -> Any:
    return round(number) if kind is int else number


_PARTS: tuple[type, ...] = (Descent, Cutouts, *OBJECTIVES.values())

if TYPE_CHECKING:

    class Settings(_Own):
        """Also has the settings of its parts."""

        def __init__(self, prompt: str, **values: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...

else:
    Settings = make_dataclass(
        "Settings",
        [(k.name, k.type, field(default=k.default, metadata=k.metadata)) for part in _PARTS for k in fields(part)],
        bases=(_Own,),
        frozen=True,
        namespace={"__doc__": "What a run is asked for, whole: see ``clipgen.setting`` for what is known of each."},
    )
    Settings.__module__ = __name__


def default_start(perceptor: str) -> str:
    """Return the start that suits an ensemble of perceptors, in whatever order: that of all of them, or ``random``.

    Raises:
        ClipgenError: A perceptor of no family.
    """
    starts = {family(name).default_start for name, _ in parse_weighted(perceptor)}
    return starts.pop() if len(starts) == 1 else "random"


def defaults_for(
    quality: str, generator: str, recipe: str = "", perceptor: str = "mini", device: str = "auto"
) -> dict[str, Any]:
    """Return the settings of a recipe, or those that suit a generator and who looks at it, at a quality.

    With the published decoders of 2021 a card makes as many steps as their notebooks did, a CPU fewer. The defaults of
    ``stack`` are tuned on drawings for the embedded perceptors; published ones have those of ``das``.

    Raises:
        ClipgenError: An unknown generator, perceptor or device.
    """
    own = PRESETS[recipe].settings if recipe in PRESETS else entry_of(generator).defaults_on(device)
    if recipe not in PRESETS and generator == _Own.generator and default_start(perceptor) == "random":
        own = {k: v for k, v in PRESETS["das"].settings.items() if k not in ("generator", "perceptor")}
    values = {"steps": 120, "cutouts": 16} | dict(own)
    return values | {name: round(values[name] * factor) for name, factor in QUALITIES.get(quality, {}).items()}


def plain_settings(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with Python's own numbers: of NumPy's and PyTorch's, and of 1.0 where a whole one is needed."""
    whole = {knob.name for knob in fields(Settings) if type(knob.default) is int} | {"size"}
    return {name: plain(value, name in whole) for name, value in asked.items()}


def build(prompt: str, asked: Mapping[str, Any]) -> Settings:
    """Settings from what was asked for, on top of what suits the generator at that quality.

    Raises ClipgenError for an unknown name, with the nearest known one, and for values that cannot work.
    """
    known = [knob.name for knob in fields(Settings)]
    for name in asked:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known[1:])}"
            raise ClipgenError(f"{name}=...: there is no such setting; {hint}")
    recipe = str(asked.get("recipe", ""))
    generator = canonical_name(str(asked.get("generator", _Own.generator)))
    perceptor = str(asked.get("perceptor", _Own.perceptor))
    drafted = asked.get("init", "auto") in ("auto", "dalle") and perceptor == "mini"
    ends = {"settled": entry_of(generator).settled} if drafted and not recipe and "steps" not in asked else {}
    quality, device = str(asked.get("quality", "normal")), str(asked.get("device", "auto"))
    values = defaults_for(quality, generator, recipe, perceptor, device) | ends | plain_settings(asked)
    values["generator"] = canonical_name(str(values.get("generator", generator)))
    if "negative" not in asked and any(said.weight < 0 for said in parse(prompt)):
        values["negative"] = ""  # a recipe's is for those who say nothing of it
    if isinstance(size := values.get("size"), (str, int)):
        values["size"] = size_of(str(size))
    settings = Settings(prompt, **values)
    settings.check()
    return settings


def immutable(names: Mapping[str, Any]) -> list[str]:
    """Those of some settings that cannot change while a run goes on: they make it what it is."""
    return sorted(knob.name for knob in fields(Settings) if knob.name in names and not knob.metadata.get("live", True))
