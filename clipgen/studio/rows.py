"""Prompt rows and the prompt grammar: what stands in a row, times the weight of its slider."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ipywidgets as widgets

from clipgen.errors import ClipgenError
from clipgen.prompts import Prompt, format_prompt, parse
from clipgen.studio.parts import close_all, hint
from clipgen.studio.pictures import Picker

HEAVIEST = 5.0


def prompts_in(text: str) -> list[Prompt]:
    """The prompts of a part of a line. Raises ClipgenError for numbers that cannot be meant."""
    return parse(f"x | {text}")[1:]  # a part may push away; a line needs something to go towards


def scaled(text: str, weight: float) -> str:
    """A part of a line with every weight in it times ``weight``."""
    if weight == 1:
        return text.strip()
    return " | ".join(format_prompt(replace(prompt, weight=prompt.weight * weight)) for prompt in prompts_in(text))


def parted(line: str) -> list[tuple[str, float]]:
    """The rows of a line: each prompt, and the weight that its slider can say."""
    rows = []
    for prompt in prompts_in(line):
        on_slider = abs(prompt.weight) <= HEAVIEST and round(prompt.weight, 1) == prompt.weight
        weight = prompt.weight if on_slider else 1.0
        rows.append((format_prompt(replace(prompt, weight=prompt.weight / weight if weight else 1.0)), weight))
    return rows


def _picture_in(text: str) -> str:
    try:
        return next((prompt.text for prompt in prompts_in(text) if prompt.is_image), "")
    except ClipgenError:
        return ""


class Row(widgets.VBox):
    """A prompt, its weight and a picture in its place."""

    def __init__(
        self,
        text: str,
        weight: float,
        folder: Path,
        guard: Callable,
        on_enter: Callable[[], None],
        on_remove: Callable[[Row], None],
    ):
        self.text = widgets.Text(text, placeholder="what you want to see, or a picture's path or address")
        self.weight = widgets.FloatSlider(weight, min=-HEAVIEST, max=HEAVIEST, step=0.1, readout_format=".1f")
        hint(self.weight, "how much this prompt counts; below 0 it pushes away")
        self.remove = widgets.Button(description="Remove")
        self.remove.on_click(lambda _: on_remove(self))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the value alone does not say that it was Enter
            self.text.on_submit(lambda _: on_enter())
        picker = Picker(self.text, folder, guard, "Picture", lambda path: format_prompt(Prompt(path)), _picture_in)
        super().__init__([widgets.HBox([self.text, self.remove]), widgets.HBox([self.weight, picker])])
        self.add_class("clipgen-row")

    def number(self, number: int) -> None:
        """Be the row of this number, from 1 on."""
        self.text.description, self.weight.description = f"Prompt {number}", f"Weight {number}"
        self.remove.tooltip = f"Remove prompt {number}"
        self.remove.layout.display = "none" if number == 1 else ""


class Rows(widgets.VBox):
    """All prompt rows; ``line`` is what they say together."""

    def __init__(self, line: str, folder: Path, guard: Callable, on_enter: Callable[[], None]):
        self._make = lambda text, weight: Row(text, weight, folder, guard, on_enter, self._remove)
        self._rows: list[Row] = []
        self._add = widgets.Button(description="Add prompt", icon="plus")
        self._add.on_click(lambda _: self._show([*self._rows, self._make("", 1.0)]))
        super().__init__()
        self.line = line

    @property
    def line(self) -> str:
        """The prompts in the grammar. Raises ClipgenError for numbers that cannot be meant."""
        return " | ".join(scaled(row.text.value, row.weight.value) for row in self._rows if row.text.value.strip())

    @line.setter
    def line(self, line: str) -> None:
        self._show([self._make(text, weight) for text, weight in parted(line)])

    def _remove(self, row: Row) -> None:
        self._show([other for other in self._rows if other is not row])

    def _show(self, rows: list[Row]) -> None:
        gone, self._rows = [row for row in self._rows if row not in rows], rows
        for number, row in enumerate(rows, 1):
            row.number(number)
        self.children = [*rows, self._add]
        for row in gone:
            close_all(row)
