"""Which models a run uses, as one choice, with what it costs to have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets

from clipgen.generators.catalogue import GENERATORS, entry_of
from clipgen.prompts import parse_weighted


@dataclass(frozen=True)
class Pair:
    """A generator and the perceptor that it goes well with. ``memory``: gigabytes that a usual run has in use."""

    name: str
    generator: str
    perceptor: str
    memory: float


# Memory: the most that a process had in use over three steps of the generator's defaults, with random weights.
PAIRS = (
    Pair("Embedded", "stack", "mini", 1.3),
    Pair("Embedded, with a decoder", "mini-vqgan", "mini", 1.3),
    Pair("VQGAN ImageNet", "vqgan_imagenet_f16_16384", "ViT-B-32/openai", 4),
    Pair("VQGAN ImageNet, two CLIPs", "vqgan_imagenet_f16_16384", "ViT-B-32/openai | ViT-B-16/openai", 6),
    Pair("VQGAN OpenImages", "vqgan_openimages_f8_8192", "ViT-B-32/openai", 4),
    Pair("VQGAN WikiArt", "wikiart_f16_16384", "ViT-B-32/openai", 4),
    Pair("DALL-E's dVAE", "dvae", "ViT-B-32/openai", 4),
    Pair("No decoder: waves", "fft", "ViT-B-32/openai", 2),
)
OWN = Pair("As set below", "", "", 0)
# Megabytes that come with a CLIP: its parameters in 32 bits, as the hub has OpenAI's.
CLIPS = {
    "mini": 0,
    "evaluator": 0,
    "ViT-B-32/openai": 605,
    "RN50/openai": 408,
    "ViT-B-16/openai": 598,
    "ViT-L-14/openai": 1711,
}


class Models(widgets.VBox):
    """Puts a pair into the controls for ``generator`` and ``perceptor``, and says which pair stands there."""

    def __init__(self, generator: widgets.Widget, perceptor: widgets.Widget):
        self._generator, self._perceptor = generator, perceptor
        options = [(_titled(pair), pair) for pair in PAIRS] + [(OWN.name, OWN)]
        self.choice = widgets.Dropdown(options=options, description="Models")
        self.note = widgets.HTML().add_class("clipgen-help")
        super().__init__([self.choice, self.note])
        self.choice.observe(self._choose, "value")
        for part in (generator, perceptor):
            part.observe(self._look, "value")
        self._look()

    def _choose(self, change: Any) -> None:
        if (pair := change["new"]) is not OWN:
            self._generator.value, self._perceptor.value = pair.generator, pair.perceptor

    def _look(self, _: Any = None) -> None:
        stands = self._generator.value, self._perceptor.value
        self.choice.value = next((pair for pair in PAIRS if (pair.generator, pair.perceptor) == stands), OWN)
        self.note.value = f"<small>{_costs(*stands, self.choice.value)}</small>"


def _titled(pair: Pair) -> str:
    megabytes = _megabytes(pair.generator, pair.perceptor)
    return f"{pair.name} ({_said(megabytes)})" if megabytes else pair.name


def _costs(generator: str, perceptor: str, pair: Pair) -> str:
    """What there is to download, and what a run wants of memory, as far as it is known."""
    megabytes = _megabytes(generator, perceptor)
    if megabytes is None:
        said = "How much there is to download is said when it comes."
    elif megabytes:
        said = f"{_said(megabytes)} are downloaded at the first use, and kept."
    else:
        said = "Comes with clipgen: nothing is downloaded."
    if pair is not OWN:
        said += f" A run wants about {pair.memory:g} GB of memory"
        said += ", and a GPU if it is to be a matter of minutes." if megabytes else "; any computer will do."
        if entry_of(generator).notebook_size:
            said += (
                " By default a CPU makes 300 steps at 256x256 (320 TFLOP in all), a GPU with 12 GB 500 steps at "
                "512x512 (1,300 TFLOP), a smaller one at 384x384."
            )
    return said


def _megabytes(generator: str, perceptor: str) -> float | None:
    """What is downloaded for a generator and an ensemble of perceptors; None where that is not known."""
    names = {name for name, _ in parse_weighted(perceptor)}
    if generator not in GENERATORS or not names <= CLIPS.keys():
        return None
    return GENERATORS[generator].megabytes + sum(CLIPS[name] for name in names)


def _said(megabytes: float) -> str:
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 1000 else f"{megabytes:.0f} MB"
