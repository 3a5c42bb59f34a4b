"""The settings of a run as widgets, made from what each setting declares, and how changes reach a live run."""

import html
import math
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import MISSING, Field, asdict, fields
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from clipgen.errors import ClipgenError
from clipgen.runs.run import Run
from clipgen.runs.settings import Settings, defaults_for, scheduled
from clipgen.setting import parse_size
from clipgen.studies.tables import parse_number
from clipgen.studio import parts
from clipgen.studio.models import ModelChoice, describe_device

FIELDS = {field.name: field for field in fields(Settings) if field.default is not MISSING}  # all but the prompt
DEFAULTS = {name: field.default for name, field in FIELDS.items()}
CHOICES = "recipe", "quality", "generator", "perceptor", "device"  # the defaults of all others depend on these
SECTIONS = {
    "steer": "Steer while it runs",
    "basic": "Set before starting",
    "start": "Start",
    "clip": "CLIP and judge",
    "look": "Look",
    "cutouts": "Cutouts",
    "optimizer": "Optimiser",
    "speed": "Speed and memory",
    "output": "Output",
}
LABELS = {  # of the settings whose own names are not plain words
    "negative": "Avoid",
    "perceptor": "CLIP",
    "init": "Start from",
    "tile": "Seamless",
    "relax": "Token gradient",
    "averaged": "Mean embedding",
    "combine": "Combination",
    "every": "Steps per frame",
    "settled": "Stop if settled",
    "keep": "Keep frame",
    "optimizer": "Algorithm",
    "lr": "Learning rate",
    "lr_unit": "Rate unit",
    "beta2": "Beta 2",
    "eps": "Epsilon",
    "clip_grad": "Gradient limit",
    "ema": "Averaging",
    "cutouts": "Cutouts per step",
    "cut_min": "Smallest",
    "cut_max": "Largest",
    "cut_sizes": "Sizes",
    "cut_pad": "Beyond edge",
    "padding": "Edge filled by",
    "lift": "Black level",
    "overview": "Overviews",
    "augment": "Augmentations",
    "tv": "Smoothness",
    "near": "Nearness",
    "near_space": "Nearness space",
    "near_fade": "Nearness fade",
}
COST_INPUTS = "generator", "perceptor", "device", "precision", "quality", "steps", "size", "cutouts"
DIAL_END = 4.0
MAX_NUMBER = 2.0**53 - 1  # a browser knows no infinity, and no whole number above it
DEBOUNCE_SECONDS = 0.15  # without a change before changes are sent: about the time between two keys


class Controls(widgets.VBox):
    """All settings of a run; uploaded pictures are written below ``folder``."""

    _sent: dict[str, Any]  # the values that the live run has

    def __init__(self, settings: Settings, folder: Path, error: parts.ErrorMessage, on_enter: Callable[[], None]):
        self._error = error
        self.rows = parts.PromptRows(settings.prompt, folder, error, on_enter)
        self.inputs = {name: make_input(field) for name, field in FIELDS.items()}
        self.models = ModelChoice(self.inputs["generator"], self.inputs["perceptor"])
        self.device = parts.html_widget("device")
        self.put(asdict(settings))
        self.defaults = self._current_defaults()
        self._is_applying = False
        parts.on_change(self._apply_defaults, *(self.inputs[name] for name in CHOICES))

        start = parts.Upload("Start picture", self.inputs["init"], folder, error)
        webcam = parts.Webcam().add_class("clipgen-webcam")
        webcam.observe(error.guard(lambda change: start.put("webcam.png", change["new"])), "picture")
        self.mask = parts.Upload("Mask picture", self.inputs["mask"], folder, error)
        random_seed = parts.button("Random seed", lambda: self.put({"seed": random.randrange(10**6)}), "random")
        below = {"seed": [random_seed], "init": [start, webcam], "mask": [self.mask]}
        self._cells = {}
        for name in FIELDS:
            help = parts.html_widget("help", f"<small>{help_of(name)}</small>")
            self._cells[name] = widgets.VBox([self.inputs[name], help, *below.get(name, [])])
        cells = {section: [self._cells[name] for name in names_of(section)] for section in SECTIONS}
        self._folds = {section: parts.Fold(SECTIONS[section], cells[section]) for section in [*SECTIONS][2:]}
        self.search = widgets.Text(description="Find a setting", placeholder="a word of its name or help")
        parts.on_change(self._filter, self.search)
        parts.on_change(self._count_changes, *self.inputs.values())
        self._count_changes()
        parts.on_change(self._show_device, *(self.inputs[name] for name in COST_INPUTS))
        self._show_device()
        steer = "<br><small>The prompts above and their weights (negative values repel), and:</small>"
        super().__init__(
            [
                parts.html_widget("heading", f"<b>{SECTIONS['steer']}</b>{steer}"),
                *cells["steer"],
                parts.html_widget("heading", f"<b>{SECTIONS['basic']}</b>"),
                widgets.Box(cells["basic"]).add_class("clipgen-grid"),
                self.search,
                *self._folds.values(),
            ]
        )
        self.begin_steering()

    # --- values ---------------------------------------------------------------------------------------

    def put(self, settings: Mapping[str, Any]) -> None:
        """Show these settings."""
        if "prompt" in settings:
            self.rows.line = settings["prompt"]
        for name in dict.fromkeys([*CHOICES, *FIELDS]):
            if name in settings:
                widget, value = self.inputs[name], to_input(FIELDS[name], settings[name])
                if isinstance(widget, widgets.Dropdown) and value not in widget.options:
                    widget.options = [*widget.options, value]
                widget.value = value

    @property
    def values(self) -> dict[str, Any]:
        """The arguments of a Run. Raises ClipgenError for a size or prompt that cannot be read."""
        return {"prompt": self.rows.line} | {name: self._value(name) for name in FIELDS}

    @property
    def live_values(self) -> dict[str, Any]:
        """Those of the values that can change during a run. Raises ClipgenError as ``values``."""
        live = {name: self._value(name) for name, field in FIELDS.items() if field.metadata["live"]}
        return {"prompt": self.rows.line} | live

    def _value(self, name: str) -> Any:
        return from_input(FIELDS[name], self.inputs[name].value)

    def _current_defaults(self) -> dict[str, Any]:
        return DEFAULTS | defaults_for(**{name: self.inputs[name].value for name in CHOICES})

    def _apply_defaults(self) -> None:
        """Replace the defaults of the recipe, quality and models before by those of the new ones; keep the rest."""
        if self._is_applying:
            return
        self._is_applying = True
        with suppress(ClipgenError):  # a missing checkpoint is reported by the run
            while (defaults := self._current_defaults()) != self.defaults:
                changed = {name: value for name, value in defaults.items() if value != self.defaults[name]}
                self.defaults = defaults
                # The live run keeps its own: these are for the next one.
                self._sent = self._sent | {name: value for name, value in changed.items() if name in self._sent}
                self.put(changed)
        self._is_applying = False
        self._count_changes()
        self._show_device()

    # --- steering -------------------------------------------------------------------------------------

    def begin_steering(self) -> None:
        """Take the values as those that a run starts with."""
        self._sent = self._latest = self.live_values
        self._send_at = math.inf

    def steer(self, run: Run) -> None:
        """Send changed values to a run, once they have not changed for a moment. To be called again and again."""
        if run.control.has_ended:  # changes are for the next run
            return
        try:
            latest, self._latest = self._latest, {}
            self._latest = values = self.live_values
            if values != latest:
                self._send_at = time.monotonic() + DEBOUNCE_SECONDS
            if time.monotonic() < self._send_at:
                return
            self._send_at = math.inf
            if changes := {name: value for name, value in values.items() if value != self._sent[name]}:
                run.change(**changes)
            self._sent = values
            self._error.show(None)
        except ClipgenError as error:
            self._error.show(error)

    # --- sections -------------------------------------------------------------------------------------

    def _filter(self) -> None:
        """Show only settings whose name or help contains the searched words, with their folds open."""
        text = self.search.value.strip().lower()
        for name, cell in self._cells.items():
            parts.show(cell, text in f"{name} {label_of(name)} {FIELDS[name].metadata['help']}".lower())
        for section, fold in self._folds.items():
            has_matches = any(self._cells[name].layout.display == "" for name in names_of(section))
            parts.show(fold, has_matches)
            fold.button.value = bool(text) and has_matches

    def _show_device(self) -> None:
        """Show where the next run computes, and if that is slow how long it may take."""
        if self._is_applying:
            return
        with suppress(ClipgenError):  # such as a size that is being typed
            values = {"prompt": ""} | {name: self._value(name) for name in COST_INPUTS}
            self.device.value = parts.note(describe_device(values))

    def _count_changes(self) -> None:
        """Show on each fold how many of its settings differ from the defaults."""
        for section, fold in self._folds.items():
            count = sum(self._value(name) != self.defaults[name] for name in names_of(section))
            fold.button.description = SECTIONS[section] + (f" ({count} changed)" if count else "")


def names_of(section: str) -> list[str]:
    """Return the names of the settings of a section."""
    return [name for name, field in FIELDS.items() if field.metadata["section"] == section]


def label_of(name: str) -> str:
    """Return the label of a setting in words."""
    return LABELS.get(name, name.replace("_", " ").capitalize())


def help_of(name: str) -> str:
    """Return the name of a setting as HTML, which opens its help."""
    help = html.escape(FIELDS[name].metadata["help"])
    return f"<details><summary><code>{name}</code></summary>{help}</details>"


def make_input(field: Field) -> widgets.Widget:
    """Return the widget for a setting, by what it declares and the type of its default."""
    facts, kind = field.metadata, type(field.default)
    low, high = max(facts["low"], -MAX_NUMBER), min(facts["high"], MAX_NUMBER)
    common = tuple(facts["common"]() if callable(facts["common"]) else facts["common"])

    def make(kind: Any, **options: Any) -> widgets.Widget:
        return parts.add_tooltip(kind(description=label_of(field.name), **options), facts["help"])

    # Browsers offer only those values of a Combobox that begin like its text, so that generators need a Dropdown.
    if choices := facts["choices"] or (common if field.name == "generator" else ()):
        return make(widgets.Dropdown, options=choices)
    if kind is bool:
        return make(widgets.Checkbox, indent=False)
    if scheduled(field) and facts["section"] == "steer":
        return parts.Dial(label_of(field.name), facts["help"], max(low, -DIAL_END), DIAL_END)
    if kind is int and not scheduled(field):
        return make(widgets.BoundedIntText, min=math.ceil(low), max=int(high))
    if kind is float and not scheduled(field):
        return make(widgets.BoundedFloatText, min=low, max=high, step=0.05)
    if common:
        return make(widgets.Combobox, options=common, continuous_update=False)
    return make(widgets.Text, continuous_update=False)


def to_input(field: Field, value: Any) -> Any:
    """Return the value of a setting as its widget shows it. Raises ClipgenError for a number that none can show."""
    if isinstance(value, int) and value > MAX_NUMBER:
        raise ClipgenError(f"{field.name}={value}: the Studio shows whole numbers to {MAX_NUMBER:.0f}; use clipgen.Run")
    if field.name == "size":
        return value if isinstance(value, str) else "x".join(map(str, value or ()))
    return str(value) if scheduled(field) and field.metadata["section"] != "steer" else value


def from_input(field: Field, value: Any) -> Any:
    """Return the value of a setting from its widget's. Raises ClipgenError for a size that cannot be read."""
    if field.name == "size":
        return parse_size(value)
    return parse_number(type(field.default), value) if scheduled(field) and isinstance(value, str) else value
