"""Parts by name: where each is, loaded when it is first asked for. Adding one is a line here, or in a catalogue."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from clipgen.errors import ClipgenError


def attribute(place: str) -> Any:
    """What stands at ``module:attribute``."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


class Registry(Mapping[str, Any]):
    """The parts of one kind: a name to ``module:attribute``. ``argument`` is what a person calls the kind."""

    def __init__(self, argument: str, places: Mapping[str, str]):
        self.argument, self._places = argument, dict(places)

    def __getitem__(self, name: str) -> Any:
        """The part itself. Raises ClipgenError, with the nearest known name, for an unknown one."""
        self.check(name)
        return attribute(self._places[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def check(self, name: str) -> None:
        """Raise ClipgenError for a name that is not known, before anything is loaded."""
        if name not in self._places:
            raise unknown(self.argument, name, self._places)


def unknown(argument: str, name: str, known: Mapping[str, Any], more: str = "") -> ClipgenError:
    """The error for a name that is not among the ``known``; ``more``: what else could have been meant."""
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    return ClipgenError(f"{argument}={name!r} is unknown; {hint}choose one of: {', '.join(known)}{more}")


WRITERS = Registry(
    "suffix",
    {
        ".png": "clipgen.export.png:Png",
        ".gif": "clipgen.export.gif:Gif",
        ".webp": "clipgen.export.webp:WebP",
        ".mp4": "clipgen.export.mp4:Mp4",
        ".html": "clipgen.export.html:Html",
        ".svg": "clipgen.export.svg:Svg",
    },
)

RELAXATIONS = Registry(
    "relax",
    {
        "straight-through": "clipgen.generators.codebook:Codebook",
        "gumbel": "clipgen.generators.codebook:Gumbel",
        "sample": "clipgen.generators.codebook:Sampled",
        "none": "clipgen.generators.codebook:Unsnapped",
    },
)

# GridPoint in turn whether a name is one of theirs.
PERCEPTORS = Registry(
    "perceptor",
    {
        "mini": "clipgen.mini.clip:EmbeddedCLIP",
        "evaluator": "clipgen.mini.judge:Evaluator",
        "open_clip": "clipgen.clip.openclip:OpenCLIP",
    },
)

PRIORS = Registry(
    "model",
    {
        "mini": "clipgen.mini.prior:EmbeddedPrior",
        "dalle-mini": "clipgen.priors.dalle_mini:DalleMini",
        "dalle-mega": "clipgen.priors.dalle_mini:DalleMini",
    },
)

STARTS = Registry(
    "init",
    {
        "random": "clipgen.inits:Random",
        "noise": "clipgen.inits:Noise",
        "perlin": "clipgen.inits:Perlin",
        "gradient": "clipgen.inits:Gradient",
        "dalle": "clipgen.mini.drafts:Drafts",
        "dalle-mini": "clipgen.inits:DalleMini",
        "dalle-mega": "clipgen.inits:DalleMega",
    },
)

# What makes the rows of a study.
ENGINES = Registry(
    "engine",
    {
        "local": "clipgen.studies.local:ProcessExecutor",
        "ray": "clipgen.studies.ray:RayExecutor",
    },
)

# Losses beside that of the prompts: dataclasses whose fields are their settings.
LOSSES = Registry(
    "loss",
    {
        "tv": "clipgen.losses.regularisers:TotalVariation",
        "saturation": "clipgen.losses.regularisers:Saturation",
        "symmetry": "clipgen.losses.regularisers:Symmetry",
        "sharpness": "clipgen.losses.regularisers:Sharpness",
        "palette": "clipgen.losses.regularisers:Palette",
        "near": "clipgen.losses.init_loss:InitLoss",
    },
)

# What a picture is described with, and the pictures whose mean embedding it is compared with.
VOCABULARIES = Registry(
    "vocabulary",
    {
        "common": "clipgen.mini.vocabulary:common",
        "emoji": "clipgen.mini.vocabulary:emoji",
    },
)
PICTURES = Registry("pictures", {"drawings": "clipgen.mini.vocabulary:drawings"})
