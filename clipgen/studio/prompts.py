"""Prompt rows: a text, a weight and a picture each; together they are a line in the grammar of prompts."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ipywidgets as widgets

from clipgen.errors import ClipgenError
from clipgen.prompts import Prompt, format_prompt, parse
from clipgen.studio.parts import ErrorMessage, Picker, add_tooltip, button, close_all, show

MAX_WEIGHT = 5.0  # of the slider


class PromptRows(widgets.VBox):
    """All prompt rows; ``line`` is the prompt that they make together."""

    def __init__(self, line: str, folder: Path, error: ErrorMessage, on_enter: Callable[[], None]):
        self.folder, self.error, self.on_enter = folder, error, on_enter
        self._rows: list[PromptRow] = []
        self._add = button("Add prompt", lambda: self._show([*self._rows, PromptRow("", 1.0, self)]), "plus")
        super().__init__()
        self.line = line

    @property
    def line(self) -> str:
        """The prompts in the grammar. Raises ClipgenError for numbers that are no weights."""
        texts = [(row.text.value, row.weight.value) for row in self._rows]
        return " | ".join(multiply_weights(text, weight) for text, weight in texts if text.strip())

    @line.setter
    def line(self, line: str) -> None:
        self._show([PromptRow(text, weight, self) for text, weight in split_line(line)])

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

    def __init__(self, text: str, weight: float, rows: PromptRows):
        self.text = widgets.Text(text, placeholder="what you want to see, or a picture's path or address")
        self.weight = widgets.FloatSlider(weight, min=-MAX_WEIGHT, max=MAX_WEIGHT, step=0.1, readout_format=".1f")
        add_tooltip(self.weight, "how much this prompt counts; below 0 it pushes away")
        self._remove = button("Remove", lambda: rows.remove(self))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the value alone does not say that it was Enter
            self.text.on_submit(lambda _: rows.on_enter())
        picker = Picker(
            self.text, rows.folder, rows.error, "Picture", lambda path: format_prompt(Prompt(path)), find_picture
        )
        super().__init__([widgets.HBox([self.text, self._remove]), widgets.HBox([self.weight, picker])])
        self.add_class("clipgen-row")

    def set_number(self, number: int) -> None:
        """Label the row with its number, from 1; the first cannot be removed."""
        self.text.description, self.weight.description = f"Prompt {number}", f"Weight {number}"
        self._remove.tooltip = f"Remove prompt {number}"
        show(self._remove, number > 1)


def parse_part(text: str) -> list[Prompt]:
    """Return the prompts of a part of a line. Raises ClipgenError for numbers that are no weights."""
    return parse(f"x | {text}")[1:]  # a part may have negative weights alone, a line may not


def multiply_weights(text: str, weight: float) -> str:
    """Return a part of a line with every weight in it times ``weight``."""
    if weight == 1:
        return text.strip()
    return " | ".join(format_prompt(replace(prompt, weight=prompt.weight * weight)) for prompt in parse_part(text))


def split_line(line: str) -> list[tuple[str, float]]:
    """Return the text of each row of a line, and the value of its slider."""
    rows = []
    for prompt in parse_part(line):
        fits_slider = abs(prompt.weight) <= MAX_WEIGHT and round(prompt.weight, 1) == prompt.weight
        weight = prompt.weight if fits_slider else 1.0
        rows.append((format_prompt(replace(prompt, weight=prompt.weight / weight if weight else 1.0)), weight))
    return rows


def find_picture(text: str) -> str:
    """Return the path of the first picture in a part of a line, or an empty text."""
    try:
        return next((prompt.text for prompt in parse_part(text) if prompt.is_image), "")
    except ClipgenError:
        return ""
