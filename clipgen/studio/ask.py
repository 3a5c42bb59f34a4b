"""What is drawn and with which models: prompt rows, and a choice of a generator and a CLIP together."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import ipywidgets as widgets

from clipgen.generators.catalogue import GENERATORS, entry_of
from clipgen.prompts import Prompt, format_prompt, parse_parts, parse_weighted
from clipgen.studio.parts import ErrorMessage, Upload, add_tooltip, button, close_all, html_widget, on_change, show

MAX_WEIGHT = 5.0  # of the slider of a prompt row


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
OWN = Pair("As set below", "", "", 0)
# Megabytes of a CLIP's download: its parameters in 32 bits, as the hub has OpenAI's.
CLIP_MEGABYTES = {
    "mini": 0,
    "evaluator": 0,
    "ViT-B-32/openai": 605,
    "RN50/openai": 408,
    "ViT-B-16/openai": 598,
    "ViT-L-14/openai": 1711,
}


class PromptRows(widgets.VBox):
    """All prompt rows; ``line`` is the prompt that they make together."""

    def __init__(self, line: str, folder: Path, error: ErrorMessage, on_enter: Callable[[], None]):
        self.folder, self.error, self.on_enter = folder, error, on_enter
        self._rows: list[PromptRow] = []
        self._add = button("Add prompt", lambda: self._show([*self._rows, PromptRow(Prompt(""), self)]), "plus")
        super().__init__()
        self.line = line

    @property
    def line(self) -> str:
        """The prompts in the grammar. Raises ClipgenError for numbers that are no weights."""
        return " | ".join(row.line for row in self._rows if row.text.value.strip())

    @line.setter
    def line(self, line: str) -> None:
        self._show([PromptRow(prompt, self) for prompt in parse_parts(line)])

    def remove(self, row: PromptRow) -> None:
        """Take a row away."""
        self._show([other for other in self._rows if other is not row])

    def _show(self, rows: list[PromptRow]) -> None:
        removed, self._rows = [row for row in self._rows if row not in rows], rows
        for number, row in enumerate(rows, 1):
            row.set_number(number)
        self.children = [*rows, self._add]
        for row in removed:
            close_all(row)


class PromptRow(widgets.VBox):
    """A prompt, its weight and an upload button for a picture in its place."""

    def __init__(self, prompt: Prompt, rows: PromptRows):
        fits_slider = abs(prompt.weight) <= MAX_WEIGHT and round(prompt.weight, 1) == prompt.weight
        text = format_prompt(replace(prompt, weight=1.0) if fits_slider else prompt)
        weight = prompt.weight if fits_slider else 1.0
        self.text = widgets.Text(text, placeholder="what you want to see, or a picture's path or address")
        self.weight = widgets.FloatSlider(weight, min=-MAX_WEIGHT, max=MAX_WEIGHT, step=0.1, readout_format=".1f")
        add_tooltip(self.weight, "how much this prompt counts; below 0 it pushes away")
        self._remove = button("Remove", lambda: rows.remove(self))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the value alone does not say that it was Enter
            self.text.on_submit(lambda _: rows.on_enter())
        upload = Upload("Picture", self.text, rows.folder, rows.error, lambda path: format_prompt(Prompt(path)))
        super().__init__([widgets.HBox([self.text, self._remove]), widgets.HBox([self.weight, upload])])
        self.add_class("clipgen-row")

    @property
    def line(self) -> str:
        """The text, with every weight in it times that of the slider."""
        if self.weight.value == 1:
            return self.text.value.strip()
        prompts = parse_parts(self.text.value)
        return " | ".join(format_prompt(replace(one, weight=one.weight * self.weight.value)) for one in prompts)

    def set_number(self, number: int) -> None:
        """Label the row with its number, from 1; the first cannot be removed."""
        self.text.description, self.weight.description = f"Prompt {number}", f"Weight {number}"
        self._remove.tooltip = f"Remove prompt {number}"
        show(self._remove, number > 1)


class ModelChoice(widgets.VBox):
    """A drop-down that sets the inputs of generator and perceptor, and follows them."""

    def __init__(self, generator: widgets.Widget, perceptor: widgets.Widget):
        self._generator, self._perceptor = generator, perceptor
        options = []
        for pair in PAIRS:
            size = download_size(pair.generator, pair.perceptor)
            options.append((f"{pair.name} ({format_size(size)})" if size else pair.name, pair))
        self.choice = widgets.Dropdown(options=[*options, (OWN.name, OWN)], description="Models")
        self.note = html_widget("help")
        super().__init__([self.choice, self.note])
        self.choice.observe(self._set_models, "value")
        on_change(self._show_pair, generator, perceptor)
        self._show_pair()

    def _set_models(self, change: Any) -> None:
        if (pair := change["new"]) is not OWN:
            self._generator.value, self._perceptor.value = pair.generator, pair.perceptor

    def _show_pair(self) -> None:
        names = self._generator.value, self._perceptor.value
        self.choice.value = next((pair for pair in PAIRS if (pair.generator, pair.perceptor) == names), OWN)
        self.note.value = f"<small>{describe_costs(*names, self.choice.value)}</small>"


def describe_costs(generator: str, perceptor: str, pair: Pair) -> str:
    """Return what is downloaded, and for a known pair how much memory a run uses."""
    size = download_size(generator, perceptor)
    if size is None:
        text = "The size of the download is shown when it begins."
    elif size:
        text = f"{format_size(size)} are downloaded at the first use, and kept."
    else:
        text = "Comes with clipgen: nothing is downloaded."
    if pair is OWN:
        return text
    speed = ", and a GPU to take minutes instead of hours." if size else "; any computer will do."
    text += f" A run uses about {pair.memory:g} GB of memory{speed}"
    if entry_of(generator).uses_notebook_defaults:
        text += (
            " By default a CPU makes 300 steps at 256x256 (320 TFLOP in all), a GPU with 12 GB 500 steps at "
            "512x512 (1,300 TFLOP), a smaller one at 384x384."
        )
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
