"""The choice of models, and what they cost: their download, their memory, and on a CPU the time of a run."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import ipywidgets as widgets

from clipgen import device as devices
from clipgen.errors import ClipgenError
from clipgen.generators.catalogue import GENERATORS, entry_of
from clipgen.prompts import parse_weighted
from clipgen.runs.settings import Settings
from clipgen.runs.spec import default_size
from clipgen.studio.parts import html_widget, on_change


class Pair(NamedTuple):
    """A generator and a perceptor that go well together. ``memory``: gigabytes that a usual run uses."""

    name: str
    generator: str
    perceptor: str
    memory: float


# Memory: the most that a process used over three steps of the generator's defaults, with random weights.
PAIRS = (
    Pair("Built-in", "stack", "mini", 1.3),
    Pair("Built-in, with a decoder", "mini-vqgan", "mini", 1.3),
    Pair("VQGAN ImageNet", "vqgan_imagenet_f16_16384", "ViT-B-32/openai", 4),
    Pair("VQGAN ImageNet, two CLIPs", "vqgan_imagenet_f16_16384", "ViT-B-32/openai | ViT-B-16/openai", 6),
    Pair("VQGAN OpenImages", "vqgan_openimages_f8_8192", "ViT-B-32/openai", 4),
    Pair("VQGAN WikiArt", "wikiart_f16_16384", "ViT-B-32/openai", 4),
    Pair("DALL-E's dVAE", "dvae", "ViT-B-32/openai", 4),
    Pair("No decoder: waves", "fft", "ViT-B-32/openai", 2),
)
CUSTOM = Pair("As set below", "", "", 0)
# Megabytes of a CLIP's download: its parameters in 32 bits, as the hub has OpenAI's.
CLIP_MEGABYTES = {
    "mini": 0,
    "evaluator": 0,
    "ViT-B-32/openai": 605,
    "RN50/openai": 408,
    "ViT-B-16/openai": 598,
    "ViT-L-14/openai": 1711,
}
# GFLOP of a step, forward and backward to the picture, as torch's FlopCounterMode has them: of a generator for 256x256
# pixels, and of a CLIP for a cutout.
GENERATOR_GFLOP = {
    "vqgan_imagenet_f16_16384": 505,
    "vqgan_openimages_f8_8192": 624,
    "wikiart_f16_16384": 505,
    "dvae": 515,
    "fft": 0,
    "maco": 0,
    "sd-turbo": 1578,
    "sd-turbo-taesd": 409,
    "titok_s128": 414,
    "titok_b64": 485,
    "titok_bl128": 466,
    "titok_l32": 727,
}
CLIP_GFLOP = {"ViT-B-32/openai": 17.6, "RN50/openai": 24.4, "ViT-B-16/openai": 70.3, "ViT-L-14/openai": 324}
PEAK_SHARE = 0.33  # of the rate of a matrix product that a step reaches; measured: see tests/benchmarks/README.md


class ModelChoice(widgets.VBox):
    """A drop-down that sets the inputs of generator and perceptor, and follows them."""

    def __init__(self, generator: widgets.Widget, perceptor: widgets.Widget):
        self._generator, self._perceptor = generator, perceptor
        options = []
        for pair in PAIRS:
            size = download_size(pair.generator, pair.perceptor)
            options.append((f"{pair.name} ({format_size(size)})" if size else pair.name, pair))
        self.choice = widgets.Dropdown(options=[*options, (CUSTOM.name, CUSTOM)], description="Models")
        self.note = html_widget("help")
        super().__init__([self.choice, self.note])
        self.choice.observe(self._set_models, "value")
        on_change(self._show_pair, generator, perceptor)
        self._show_pair()

    def _set_models(self, change: Any) -> None:
        if (pair := change["new"]) is not CUSTOM:
            self._generator.value, self._perceptor.value = pair.generator, pair.perceptor

    def _show_pair(self) -> None:
        names = self._generator.value, self._perceptor.value
        self.choice.value = next((pair for pair in PAIRS if (pair.generator, pair.perceptor) == names), CUSTOM)
        self.note.value = f"<small>{describe_costs(*names, self.choice.value)}</small>"


def describe_costs(generator: str, perceptor: str, pair: Pair) -> str:
    """Return what is downloaded, and for a known pair how much memory a run uses."""
    size = download_size(generator, perceptor)
    if size is None:
        text = "The size of the download is shown when it begins."
    elif size:
        text = f"Downloads {format_size(size)} on first use (cached)."
    else:
        text = "Comes with clipgen: nothing is downloaded."
    entry = GENERATORS.get(generator)
    if pair is not CUSTOM:
        text += f" A run uses about {pair.memory:g} GB of memory."
    elif entry and entry.memory:
        text += f" The generator takes about {entry.memory:g} GB in fp32 (computed), half of it in fp16."
    return text


def download_size(generator: str, perceptor: str) -> float | None:
    """Return the megabytes that a generator and an ensemble of perceptors download; None if unknown."""
    names = {name for name, _ in parse_weighted(perceptor)}
    if generator not in GENERATORS or not names <= CLIP_MEGABYTES.keys():
        return None
    return GENERATORS[generator].megabytes + sum(CLIP_MEGABYTES[name] for name in names)


def format_size(megabytes: float) -> str:
    """Return megabytes as a text such as ``982 MB`` or ``1.2 GB``."""
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 1000 else f"{megabytes:.0f} MB"


def describe_device(values: Mapping[str, Any]) -> str:
    """Return where a run with these settings computes; on a CPU with published models, also how long it may take."""
    try:
        where = devices.resolve_device(values["device"])
        text = f"Runs on: {devices.describe(where)}."
        if where.type != "cpu" or download_size(values["generator"], values["perceptor"]) == 0:
            return text
        gflop, precision = run_gflop(values, where), devices.resolve_precision(where, values["precision"])
    except ClipgenError as error:
        return str(error)
    text += " Published models take minutes to hours on a CPU"
    if gflop:
        rate = devices.matmul_rate(where, precision)
        seconds = gflop / (PEAK_SHARE * rate)
        text += f": about {format_time(seconds)} with these settings (an estimate: {gflop / 1000:,.0f} TFLOP"
        text += f" at a third of this CPU's {rate:,.0f} GFLOP/s in a matrix product)"
    return f"{text}. A GPU is much faster; in Colab: Runtime > Change runtime type."


def run_gflop(values: Mapping[str, Any], where: Any) -> float | None:
    """Return the GFLOP of all steps of a run; None for models whose cost is not known."""
    names = [name for name, _ in parse_weighted(values["perceptor"])]
    if values["generator"] not in GENERATOR_GFLOP or not {*names} <= CLIP_GFLOP.keys():
        return None
    first = Settings(**values).at(0)
    size = first.size or default_size(entry_of(first.generator), first.quality, where)
    assert not isinstance(size, str)  # at one step
    width, height = size
    picture = GENERATOR_GFLOP[first.generator] * width * height / 256**2
    return first.steps * (picture + first.cutouts * sum(CLIP_GFLOP[name] for name in names))


def format_time(seconds: float) -> str:
    """Return a duration in words, such as ``20 minutes`` or ``3 hours``."""
    minutes = max(1, round(seconds / 60))
    if minutes < 90:
        return f"{minutes} minute{'s' * (minutes > 1)}"
    return f"{round(minutes / 60)} hours"
