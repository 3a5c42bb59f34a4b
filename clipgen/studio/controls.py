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
from clipgen.runs.settings import Settings, suited
from clipgen.studio.parts import Fold, Webcam
from clipgen.studio.pictures import Picker, from_url, hint
from clipgen.studio.rows import Rows

KNOBS = {knob.name: knob for knob in fields(Settings) if knob.default is not MISSING}  # the prompt has rows of its own
DEFAULTS = {name: knob.default for name, knob in KNOBS.items()}
SUITING = "quality", "generator"  # a change of these asks for others
MOST = 2.0**53 - 1  # of a number without a bound: a browser knows no infinity, and no whole number above it


class Controls(widgets.VBox):
    """Everything that is asked of a run. ``guard`` shows the errors of a callback."""

    usual = traitlets.Dict()  # every setting as the generator has it at the quality, if nothing else is asked for

    def __init__(self, settings: Settings, folder: Path, guard: Callable, on_enter: Callable[[], None]):
        self.rows = Rows(settings.prompt, folder, guard, on_enter)
        self._knobs = {name: _control(knob) for name, knob in KNOBS.items()}
        self.put(asdict(settings))
        for name in SUITING:
            self._knobs[name].observe(self._suit, "value")
        dice = widgets.Button(description="Dice", icon="random", tooltip="Another seed")
        dice.on_click(lambda _: self.put({"seed": random.randrange(10**6)}))
        webcam = Webcam()
        start = Picker(self._knobs["init"], folder, guard, "Start picture")
        self.mask = Picker(self._knobs["mask"], folder, guard, "Mask picture")
        webcam.observe(guard(lambda change: start.put("webcam.png", from_url(change["new"]))), "picture")
        self._beside = {"seed": [dice], "init": [start, webcam], "mask": [self.mask]}
        super().__init__(
            [
                *self._at_hand("Steer while it runs", "steer"),
                *self._at_hand("Settle before it runs", "settle"),
                self._folded("Start picture and mask", "start"),
                self._folded("Advanced settings", "advanced"),
            ]
        )
        self.usual = _usual(settings.quality, settings.generator)

    def _at_hand(self, heading: str, place: str) -> list[widgets.Widget]:
        """The settings of a place side by side, below a heading."""
        cells = [
            widgets.HBox([self._knobs[name], *self._beside[name]]) if name in self._beside else self._knobs[name]
            for name in _shown(place)
        ]
        return [widgets.HTML(f"<b>{heading}</b>"), widgets.Box(cells).add_class("clipgen-grid")]

    def _folded(self, heading: str, place: str) -> Fold:
        """The settings of a place one below the other, each with its help, behind a button."""
        parts = []
        for name in _shown(place):
            parts += [self._knobs[name], _small(KNOBS[name].metadata["help"]), *self._beside.get(name, [])]
        return Fold(heading, parts)

    def _suit(self, _: Any) -> None:
        """Put what another quality or generator asks for instead of what suited before; the rest stays as it was."""
        with suppress(ClipgenError):  # a checkpoint that is gone: said when it is used
            before, usual = self.usual, _usual(*(self._knobs[name].value for name in SUITING))
            self.put({name: value for name, value in usual.items() if value != before[name]})
            self.usual = usual

    def put(self, settings: Mapping[str, Any]) -> None:
        """Show these settings."""
        if "prompt" in settings:
            self.rows.line = settings["prompt"]
        for name in sorted(KNOBS, key=lambda name: name not in SUITING):  # these first
            if name in settings:
                widget, value = self._knobs[name], settings[name]
                if name == "size":
                    value = f"{value[0]}x{value[1]}" if value else ""
                if isinstance(widget, widgets.Dropdown) and value not in widget.options:
                    widget.options = [*widget.options, value]
                widget.value = value

    @property
    def changeable(self) -> dict[str, Any]:
        """What a run can be asked for while it goes on. Raises ClipgenError for a prompt that cannot be meant."""
        live = {name: self._knobs[name].value for name, knob in KNOBS.items() if knob.metadata["live"]}
        return {"prompt": self.rows.line} | live

    @property
    def asked(self) -> dict[str, Any]:
        """The arguments of a Run. Raises ClipgenError for a size or prompt that cannot be meant."""
        values = {name: widget.value for name, widget in self._knobs.items()}
        return {"prompt": self.rows.line} | values | {"size": _size(values["size"])}


def _control(knob: Field) -> widgets.Widget:
    """The widget for a setting, by what it declares and the kind of its default."""
    facts, kind = knob.metadata, type(knob.default)
    low, high = max(facts["low"], -MOST), min(facts["high"], MOST)
    common = tuple(facts["common"]() if callable(facts["common"]) else facts["common"])
    widget: Any
    # Browsers offer only those of a Combobox that begin like what stands in it: no way to look at all generators.
    if choices := facts["choices"] or (common if knob.name == "generator" else ()):
        widget = widgets.Dropdown(options=choices)
    elif kind is bool:
        widget = widgets.Checkbox(indent=False)
    elif kind is int:
        widget = widgets.BoundedIntText(min=math.ceil(low), max=int(high))
    elif kind is float:
        widget = widgets.BoundedFloatText(min=low, max=high, step=0.05)
    elif common:
        widget = widgets.Combobox(options=common, continuous_update=False)
    else:
        widget = widgets.Text(continuous_update=False)
    widget.description = knob.name
    return hint(widget, facts["help"])


def _usual(quality: str, generator: str) -> dict[str, Any]:
    """Every setting as a generator has it at a quality, if nothing else is asked for."""
    return DEFAULTS | suited(quality, generator)


def _shown(place: str) -> list[str]:
    return [name for name, knob in KNOBS.items() if knob.metadata["shown"] == place]


def _size(text: str) -> tuple[int, int] | None:
    try:
        width, _, height = text.lower().partition("x")
        return (int(width), int(height or width)) if text.strip() else None
    except ValueError:
        raise ClipgenError(f"size={text!r}: write width x height, such as 128x96; empty for the best") from None


def _small(text: str) -> widgets.HTML:
    return widgets.HTML(f"<small>{html.escape(text)}</small>").add_class("clipgen-help")
