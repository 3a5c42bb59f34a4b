"""The knobs of a run as widgets, made from the fields of Settings: one name and one help text everywhere."""

from __future__ import annotations

import html
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, asdict, fields
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from clipgen.errors import ClipgenError
from clipgen.generators.registry import REGISTRY
from clipgen.run import FIXED
from clipgen.settings import PRESETS, Settings
from clipgen.starts import STARTS
from clipgen.studio.parts import Webcam
from clipgen.studio.pictures import Picker, from_url, hint
from clipgen.studio.rows import Rows

# What is at hand; everything else is an advanced setting.
AT_HAND = (("lr", "cutouts"), ("quality", "steps", "size", "seed", "generator", "perceptor"))
START = ("init", "fit", "near", "near_space", "near_fade")
# Free texts, with something to choose from.
COMMON = {
    "perceptor": ("mini", "ViT-B-32/openai", "RN50/openai", "ViT-B-16/openai", "ViT-B-32/openai | RN50/openai:0.5"),
    "size": ("128x128", "128x96", "256x256", "512x384"),
    "init": ("auto", "random", "collage", "dalle", *STARTS),
    "mask": ("top", "bottom", "left", "right", "centre", "not centre"),
    "relax": ("straight-through", "gumbel"),
    "optimizer": ("Adam", "AdamW", "RAdam", "RMSprop", "SGD"),
}
MOST = 1e9  # of a number without a bound: a browser knows no infinity


class Controls(widgets.VBox):
    """Everything that is asked of a run. ``guard`` shows the errors of a callback."""

    def __init__(self, settings: Settings, folder: Path, guard: Callable, on_enter: Callable[[], None]):
        self.rows = Rows(settings.prompt, folder, guard, on_enter)
        knobs = [knob for knob in fields(Settings) if knob.default is not MISSING]
        self._knobs = {knob.name: _control(knob) for knob in knobs}
        self.put(asdict(settings))
        self._knobs["quality"].observe(self._preset, "value")
        dice = widgets.Button(description="Dice", icon="random", tooltip="Another seed")
        dice.on_click(lambda _: self.put({"seed": random.randrange(10**6)}))
        webcam = Webcam()
        start = Picker(self._knobs["init"], folder, guard, "Start picture")
        self.mask = Picker(self._knobs["mask"], folder, guard, "Mask picture")
        webcam.observe(guard(lambda change: start.put("webcam.png", from_url(change["new"]))), "picture")
        begin = [*self._shown(START), start, webcam, *self._shown(("mask",)), self.mask]
        rest = [name for name in self._knobs if name not in {*sum(AT_HAND, ()), *START, "mask"}]
        folded = widgets.Accordion([widgets.VBox(begin), widgets.VBox(self._shown(rest))], selected_index=None)
        for number, title in enumerate(("Start picture and mask", "Advanced settings")):
            folded.set_title(number, title)
        seed = widgets.HBox([self._knobs["seed"], dice])
        steered, before = ([seed if name == "seed" else self._knobs[name] for name in names] for names in AT_HAND)
        super().__init__([_heading("Steer while it runs"), _grid(steered),
                          _heading("Settle before it runs"), _grid(before), folded])  # fmt: skip

    def _shown(self, names: Any) -> list[widgets.Widget]:
        """The knobs of these names, each with its help below."""
        helps = {knob.name: knob.metadata.get("help", "") for knob in fields(Settings)}
        return [part for name in names for part in (self._knobs[name], _small(helps[name]))]

    def _preset(self, change: Any) -> None:
        self.put(PRESETS[change["new"]])

    def put(self, settings: Mapping[str, Any]) -> None:
        """Show these settings."""
        if "prompt" in settings:
            self.rows.line = settings["prompt"]
        for name, widget in self._knobs.items():
            if name in settings:
                value = settings[name]
                if name == "size":
                    value = f"{value[0]}x{value[1]}" if value else ""
                if isinstance(widget, widgets.Dropdown) and value not in widget.options:
                    widget.options = [*widget.options, value]
                widget.value = value

    @property
    def changeable(self) -> dict[str, Any]:
        """What a run can be asked for while it goes on. Raises ClipgenError for a prompt that cannot be meant."""
        return {"prompt": self.rows.line} | {k: w.value for k, w in self._knobs.items() if k not in FIXED}

    @property
    def asked(self) -> dict[str, Any]:
        """The arguments of a Run. Raises ClipgenError for a size or prompt that cannot be meant."""
        values = {name: widget.value for name, widget in self._knobs.items()}
        return self.changeable | values | {"size": _size(values["size"])}


def _control(knob: Field) -> widgets.Widget:
    """The widget for a field of Settings, by the kind of its default."""
    rules, kind, name = knob.metadata, type(knob.default), knob.name
    low, high = max(rules["low"], -MOST), min(rules["high"], MOST)
    widget: Any
    if rules["choices"]:
        widget = widgets.Dropdown(options=rules["choices"])
    elif name == "generator":
        widget = widgets.Dropdown(options=list(REGISTRY))
    elif kind is int:
        widget = widgets.BoundedIntText(min=math.ceil(low), max=int(high))
    elif kind is float:
        widget = widgets.BoundedFloatText(min=low, max=high, step=0.05)
    elif name in COMMON:
        widget = widgets.Combobox(options=COMMON[name])
    else:
        widget = widgets.Text()
    widget.description = name
    return hint(widget, rules["help"])


def _size(text: str) -> tuple[int, int] | None:
    try:
        width, _, height = text.lower().partition("x")
        return (int(width), int(height or width)) if text.strip() else None
    except ValueError:
        raise ClipgenError(f"size={text!r}: write width x height, such as 128x96; empty for the best") from None


def _grid(children: list[widgets.Widget]) -> widgets.Box:
    return widgets.Box(children).add_class("clipgen-grid")


def _heading(text: str) -> widgets.HTML:
    return widgets.HTML(f"<b>{text}</b>")


def _small(text: str) -> widgets.HTML:
    return widgets.HTML(f"<small>{html.escape(text)}</small>").add_class("clipgen-help")
