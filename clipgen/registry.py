"""Parts by name: where each one is, imported when it is first used. Adding a part is a line here, or in a catalogue."""

from collections import UserDict
from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any

from clipgen.errors import ClipgenError, suggest


class Registry(UserDict[str, Any]):
    """The parts of one kind, each at ``module:attribute``; ``argument`` is the setting that names them."""

    def __init__(self, argument: str, paths: Mapping[str, str]):
        super().__init__(paths)
        self.argument = argument

    def __getitem__(self, name: str) -> Any:
        self.check(name)
        return resolve_name(self.data[name])

    def check(self, name: str) -> None:
        """Raise ClipgenError for an unknown name; nothing is imported."""
        if name not in self.data:
            raise unknown_name(self.argument, name, self.data)


def unknown_name(argument: str, name: str, names: Mapping[str, Any], others: str = "") -> ClipgenError:
    """Return the error for a name that is not among ``names``, with the nearest of them."""
    return ClipgenError(
        f"{argument}={name!r} is unknown; {suggest(name, names)}choose one of: {', '.join(names)}{others}"
    )


WRITERS = Registry(
    "suffix",
    {
        ".png": "clipgen.export.formats:Png",
        ".gif": "clipgen.export.formats:Gif",
        ".webp": "clipgen.export.formats:WebP",
        ".mp4": "clipgen.export.formats:Mp4",
        ".html": "clipgen.export.html:Html",
        ".svg": "clipgen.export.formats:Svg",
    },
)

RELAXATIONS = Registry(
    "relax",
    {
        "straight-through": "clipgen.generators.codebook:Codebook",
        "gumbel": "clipgen.generators.codebook:Gumbel",
        "sample": "clipgen.generators.codebook:Sampled",
        "none": "clipgen.generators.codebook:Unquantized",
    },
)

# The first class whose ``knows(name)`` is true loads a perceptor.
PERCEPTOR_FAMILIES = Registry(
    "perceptor",
    {
        "mini": "clipgen.mini.clip:BuiltinPerceptor",
        "open_clip": "clipgen.clip.openclip:OpenCLIP",
    },
)

PRIORS = Registry(
    "model",
    {
        "mini": "clipgen.mini.prior:BuiltinPrior",
        "dalle-mini": "clipgen.priors.dalle_mini:DalleMini",
        "dalle-mega": "clipgen.priors.dalle_mini:DalleMini",
    },
)

INITS = Registry(
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
    "engine", {"local": "clipgen.studies.executor:ProcessExecutor", "ray": "clipgen.studies.executor:RayExecutor"}
)

# Losses beside that of the prompts: dataclasses whose fields are their settings.
LOSSES = Registry(
    "loss",
    {
        "tv": "clipgen.losses.regularisers:TotalVariation",
        "saturation": "clipgen.losses.regularisers:Saturation",
        "symmetry": "clipgen.losses.regularisers:Symmetry",
        "sharpness": "clipgen.losses.regularisers:Sharpness",
        "fringes": "clipgen.losses.regularisers:Fringes",
        "palette": "clipgen.losses.regularisers:Palette",
        "aesthetic": "clipgen.losses.image_tower:Aesthetic",
        "neuron": "clipgen.losses.image_tower:Neuron",
        "noise_norm": "clipgen.losses.regularisers:NoiseNorm",
        "near": "clipgen.losses.regularisers:InitLoss",
    },
)

# For ``describe``: the words to choose from, and pictures whose mean embedding is the baseline.
VOCABULARIES = Registry("vocabulary", {"common": "clipgen.mini:common", "emoji": "clipgen.mini:emoji"})
PICTURES = Registry("pictures", {"drawings": "clipgen.mini:drawings"})
