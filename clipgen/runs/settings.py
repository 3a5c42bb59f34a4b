"""Everything that a run can be asked for, under the one name that it has in Python, as an option and in the journal.

The run's own settings are declared here; those of its parts (how it moves, how it is shown to CLIP, what else it is
asked for) where the parts are.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from clipgen.errors import ClipgenError
from clipgen.images.camera import Camera
from clipgen.images.reading import FITS
from clipgen.models.parameterisations.catalogue import GENERATORS, entry_of
from clipgen.optvis.cutouts import Cutouts
from clipgen.optvis.descent import Descent
from clipgen.optvis.prompt_loss import DISTANCES
from clipgen.registry import OBJECTIVES, RELAXATIONS, STARTS
from clipgen.runs.prompts import parse
from clipgen.setting import check, setting

Part = TypeVar("Part")
QUALITIES: Mapping[str, Mapping[str, float]] = {
    "draft": {"steps": 0.5, "cutouts": 0.5},
    "normal": {},
    "best": {"steps": 2.5, "cutouts": 2},
}
"""Times what suits the generator; a draft also has half the side on a CPU, the best half again the side on a GPU."""
PERCEPTORS = ("mini", "ViT-B-32/openai", "RN50/openai", "ViT-B-16/openai", "ViT-B-32/openai | RN50/openai:0.5")


@dataclass(frozen=True)
class _Own:
    """The settings that belong to the run itself."""

    prompt: str
    quality: str = setting(
        "normal", "draft, normal or best: steps, cutouts, size", choices=tuple(QUALITIES), live=False, shown="settle"
    )
    steps: int = setting(120, "optimisation steps", 1, 10**6, live=False, shown="settle")
    seed: int = setting(0, "same seed, same machine: same picture", 0, 2**63 - 1, live=False, shown="settle")
    size: tuple[int, int] | None = setting(
        None,
        "width and height in pixels; by default what the generator draws best",
        common=("128x128", "128x96", "256x256", "512x384"),
        live=False,
        shown="settle",
    )
    generator: str = setting(
        "mini-vqgan",
        "what is optimised: the latent of a decoder, or pixels",
        common=lambda: GENERATORS,
        live=False,
        shown="settle",
    )
    perceptor: str = setting(
        "mini",
        "the CLIP that scores the picture; several as 'a | b:0.5'",
        common=PERCEPTORS,
        live=False,
        shown="settle",
    )
    relax: str = setting(
        "straight-through",
        "how tokens get a gradient: straight-through, gumbel (dVAE, GumbelVQ), or none (a latent that is not snapped)",
        choices=tuple(RELAXATIONS),
        live=False,
    )
    init: str = setting(
        "auto",
        "where to start: random (codes), collage (of known drawings; auto with the mini CLIP), dalle (a transformer's "
        "best of 16), dalle-mini, dalle-mega, noise, perlin, gradient, a colour, an image, a run folder (its last "
        "frame), tokens as .npy",
        common=lambda: ("auto", *STARTS),
        live=False,
        shown="start",
    )
    fit: str = setting("crop", "how pictures are brought to size", choices=FITS, shown="start")
    mask: str = setting(
        "",
        "paint only there: top, bottom, left, right, x,y,w,h, not ..., or an image (white: paint)",
        common=("top", "bottom", "left", "right", "centre", "not centre"),
        shown="start",
    )
    distance: str = setting("spherical", "how CLIP's embeddings are compared", choices=tuple(DISTANCES))
    passes: int = setting(1, "cutouts go through CLIP in so many parts: less memory, same picture", 1, 10**4)
    camera: str = setting("", "moves from frame to frame: 'zoom=1.02, x=0.01, angle=1@50-100'")
    every: int = setting(3, "steps from frame to frame", 1, 10**6, live=False)
    device: str = setting("auto", "auto, cpu, cuda or mps", live=False)

    def part(self, kind: type[Part]) -> Part:
        """A part of the run, made from the settings that it declares. Raises ClipgenError for what it refuses."""
        return kind(**{knob.name: getattr(self, knob.name) for knob in fields(kind)})  # type: ignore[arg-type]

    def check(self) -> None:
        """Raise ClipgenError for the first value that cannot work, whatever the models."""
        for knob in fields(self):
            check(knob, getattr(self, knob.name))
        if self.size is not None and not (len(self.size) == 2 and all(isinstance(side, int) for side in self.size)):
            raise ClipgenError(f"size={self.size!r}: has to be (width, height), such as (128, 96)")
        parse(self.prompt)
        Camera.parse(self.camera)
        for kind in _PARTS:
            self.part(kind)


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


def suited(quality: str, generator: str) -> dict[str, Any]:
    """The settings that suit a generator at a quality. Raises ClipgenError for an unknown generator."""
    values = {"steps": 120, "cutouts": 16} | dict(entry_of(generator).defaults)
    return values | {name: round(values[name] * factor) for name, factor in QUALITIES.get(quality, {}).items()}


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
    generator = str(asked.get("generator", _Own.generator))
    settings = Settings(prompt, **(suited(str(asked.get("quality", "normal")), generator) | dict(asked)))
    settings.check()
    return settings


def fixed(names: Mapping[str, Any]) -> list[str]:
    """Those of some settings that cannot change while a run goes on: they make it what it is."""
    return sorted(knob.name for knob in fields(Settings) if knob.name in names and not knob.metadata.get("live", True))
