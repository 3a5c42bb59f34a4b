"""Every setting of a run as a widget, made from what the setting declares: one name and one help text everywhere."""

from __future__ import annotations

import html
import math
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import MISSING, Field, asdict, fields
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import traitlets

from clipgen.errors import ClipgenError
from clipgen.runs.schedules import parse_size
from clipgen.runs.settings import Settings, defaults_for, scheduled
from clipgen.studio.models import Models
from clipgen.studio.parts import Dial, Fold, Webcam, hint
from clipgen.studio.pictures import Picker, from_url
from clipgen.studio.rows import Rows

KNOBS = {knob.name: knob for knob in fields(Settings) if knob.default is not MISSING}  # the prompt has rows of its own
DEFAULTS = {name: knob.default for name, knob in KNOBS.items()}
SUITING = "recipe", "quality", "generator", "perceptor", "device"  # a change of these asks for others
# What people steer, in words: the name on its dial, how far that goes, and what it does.
STEERED = {
    "near": ("Nearness", 4.0, "0: free of the drawing or photograph it started from; more: true to it"),
    "tv": ("Smoothness", 2.0, "more: calm areas and few lines"),
}
SECTIONS = {
    "steer": "Steer while it runs",
    "basic": "Set before starting",
    "start": "Start picture and mask",
    "clip": "CLIP and judge",
    "look": "Look",
    "cutouts": "Cutouts",
    "optimizer": "Optimiser",
    "speed": "Speed and memory",
    "output": "Frames and end",
}
MOST = 2.0**53 - 1  # of a number without a bound: a browser knows no infinity, and no whole number above it


class Controls(widgets.VBox):
    """Everything that is asked of a run. ``guard`` shows the errors of a callback."""

    usual = traitlets.Dict()  # every setting as the generator has it at the quality, if nothing else is asked for

    def __init__(self, settings: Settings, folder: Path, guard: Callable, on_enter: Callable[[], None]):
        self.rows = Rows(settings.prompt, folder, guard, on_enter)
        self._knobs = {name: _control(knob) for name, knob in KNOBS.items()}
        self.models = Models(self._knobs["generator"], self._knobs["perceptor"])
        self._suiting = False
        self.put(asdict(settings))
        for name in SUITING:
            self._knobs[name].observe(self._suit, "value")
        dice = widgets.Button(description="Dice", icon="random", tooltip="Another seed")
        dice.on_click(lambda _: self.put({"seed": random.randrange(10**6)}))
        webcam = Webcam().add_class("clipgen-webcam")
        start = Picker(self._knobs["init"], folder, guard, "Start picture")
        self.mask = Picker(self._knobs["mask"], folder, guard, "Mask picture")
        webcam.observe(guard(lambda change: start.put("webcam.png", from_url(change["new"]))), "picture")
        self._beside = {"seed": [dice], "init": [start, webcam], "mask": [self.mask]}
        super().__init__(
            [
                _heading(SECTIONS["steer"], "The prompts above and their weights (below 0 they push away), and:"),
                *self._explained("steer"),
                _heading(SECTIONS["basic"]),
                widgets.Box([self._cell(name) for name in _placed("basic")]).add_class("clipgen-grid"),
                *(Fold(SECTIONS[section], self._explained(section)) for section in [*SECTIONS][2:]),
            ]
        )
        self.usual = usual_of(*(getattr(settings, name) for name in SUITING))

    def _cell(self, name: str) -> widgets.Widget:
        """A setting with what belongs to it, and with what it does below it."""
        return widgets.VBox([widgets.HBox([self._knobs[name], *self._beside.get(name, [])]), _help(name)])

    def _explained(self, place: str) -> list[widgets.Widget]:
        """The settings of a place one below the other, each with what it does, and with what belongs to it below it."""
        parts = []
        for name in _placed(place):
            parts += [self._knobs[name], _help(name), *self._beside.get(name, [])]
        return parts

    def _suit(self, _: Any) -> None:
        """Put what another recipe, quality or generator asks for instead of the defaults before; the rest stays."""
        if self._suiting:
            return
        self._suiting = True
        with suppress(ClipgenError):  # a checkpoint that is gone: said when it is used
            while (usual := usual_of(*(self._knobs[name].value for name in SUITING))) != self.usual:
                before, self.usual = self.usual, usual
                self.put({name: value for name, value in usual.items() if value != before[name]})
        self._suiting = False

    def put(self, settings: Mapping[str, Any]) -> None:
        """Show these settings."""
        if "prompt" in settings:
            self.rows.line = settings["prompt"]
        for name in [*SUITING, *(name for name in KNOBS if name not in SUITING)]:
            if name in settings:
                widget, value = self._knobs[name], _said(KNOBS[name], settings[name])
                if isinstance(widget, widgets.Dropdown) and value not in widget.options:
                    widget.options = [*widget.options, value]
                widget.value = value

    @property
    def changeable(self) -> dict[str, Any]:
        """What a run can be asked for while it goes on. Raises ClipgenError for a prompt that cannot be meant."""
        live = {name: self._meant(name) for name, knob in KNOBS.items() if knob.metadata["live"]}
        return {"prompt": self.rows.line} | live

    @property
    def asked(self) -> dict[str, Any]:
        """The arguments of a Run. Raises ClipgenError for a size or prompt that cannot be meant."""
        return {"prompt": self.rows.line} | {name: self._meant(name) for name in KNOBS}

    def _meant(self, name: str) -> Any:
        """The value of a setting."""
        return _meant(KNOBS[name], self._knobs[name].value)


def _control(knob: Field) -> widgets.Widget:
    """The widget for a setting, by what it declares and the kind of its default."""
    facts, kind = knob.metadata, type(knob.default)
    low, high = max(facts["low"], -MOST), min(facts["high"], MOST)
    common = tuple(facts["common"]() if callable(facts["common"]) else facts["common"])

    def made(kind: Any, **options: Any) -> widgets.Widget:
        return hint(kind(description=knob.name, **options), facts["help"])

    # Browsers offer only those of a Combobox that begin like what stands in it: no way to look at all generators.
    if choices := facts["choices"] or (common if knob.name == "generator" else ()):
        return made(widgets.Dropdown, options=choices)
    if kind is bool:
        return made(widgets.Checkbox, indent=False)
    if _steered(knob):
        word, top, _ = STEERED.get(knob.name, (knob.name, 4.0, ""))
        return Dial(word, facts["help"], max(low, -top), top)
    if scheduled(knob):
        return made(widgets.Text, continuous_update=False)
    if kind is int:
        return made(widgets.BoundedIntText, min=math.ceil(low), max=int(high))
    if kind is float:
        return made(widgets.BoundedFloatText, min=low, max=high, step=0.05)
    if common:
        return made(widgets.Combobox, options=common, continuous_update=False)
    return made(widgets.Text, continuous_update=False)


def _steered(knob: Field) -> bool:
    """Whether a setting is a number that people turn while they look."""
    return scheduled(knob) and knob.metadata["section"] == "steer"


def _said(knob: Field, value: Any) -> Any:
    """A value of a setting as its widget shows it."""
    if knob.name == "size":
        return value if isinstance(value, str) else "x".join(map(str, value or ()))
    if scheduled(knob):
        return float(value) if _steered(knob) and not isinstance(value, str) else str(value)
    return value


def _meant(knob: Field, shown: Any) -> Any:
    """What is meant by what a widget shows. Raises ClipgenError for a size that cannot be meant."""
    if knob.name == "size":
        return parse_size(shown)
    kind: Any = type(knob.default)
    if scheduled(knob) and isinstance(shown, str):
        with suppress(ValueError):  # else a schedule over the steps
            return kind(shown)
    return shown


def usual_of(recipe: str, quality: str, generator: str, perceptor: str, device: str) -> dict[str, Any]:
    """Return every setting as a recipe, or a generator and a perceptor, have it at a quality, if nothing is asked."""
    return DEFAULTS | defaults_for(quality, generator, recipe, perceptor, device)


def _placed(place: str) -> list[str]:
    """The settings of a place; first what people steer."""
    names = [name for name, knob in KNOBS.items() if knob.metadata["section"] == place]
    return [name for name in STEERED if name in names] + [name for name in names if name not in STEERED]


def _heading(words: str, more: str = "") -> widgets.HTML:
    return widgets.HTML(f"<b>{words}</b><br><small>{more}</small>" if more else f"<b>{words}</b>").add_class(
        "clipgen-heading"
    )


def _help(name: str) -> widgets.HTML:
    text = STEERED[name][-1] if name in STEERED else KNOBS[name].metadata["help"]
    return widgets.HTML(f"<small>{html.escape(text)}</small>").add_class("clipgen-help")
