"""What is drawn and with which models: prompt rows, and a choice of a generator and a CLIP together."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from clipgen.prompts import Prompt, format_prompt, parse_parts
from clipgen.studio.costs import CUSTOM, PAIRS, describe_costs, download_size, format_size
from clipgen.studio.parts import ErrorMessage, Upload, add_tooltip, button, close_all, html_widget, on_change, show

MAX_WEIGHT = 5.0  # of the slider of a prompt row


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
        """The prompts in the grammar. Raises ClipgenError for numbers that are not weights."""
        return " | ".join(row.line for row in self._rows if row.text.value.strip())

    @line.setter
    def line(self, line: str) -> None:
        self._show([PromptRow(prompt, self) for prompt in parse_parts(line)])

    def remove(self, row: "PromptRow") -> None:
        """Take a row away."""
        self._show([other for other in self._rows if other is not row])

    def _show(self, rows: "list[PromptRow]") -> None:
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
        add_tooltip(self.weight, "how much this prompt counts; negative values repel")
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
