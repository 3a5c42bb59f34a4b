"""What is declared of a setting, in one place: its default, its bounds, its help, whether it can change, its place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import Field, field
from typing import Any, Literal

from clipgen.errors import ClipgenError

Place = Literal["steer", "settle", "start", "advanced"]


def setting(
    default: Any,
    help: str,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    choices: tuple[str, ...] = (),
    common: Callable[[], Iterable[str]] | tuple[str, ...] = (),
    live: bool = True,
    shown: Place = "advanced",
) -> Any:
    """A field of a dataclass that is a setting: an argument in Python, an option, a widget, a key of the journal.

    ``low``, ``high``: bounds of a number, both included. ``choices``: all that a word can be; ``common``: some of what
    a free text can be, or a function that knows. ``live``: whether it can change while a run goes on. ``shown``: where
    the Studio has it.
    """
    facts = {"help": help, "low": low, "high": high, "choices": choices, "common": common, "live": live, "shown": shown}
    return field(default=default, metadata=facts)


def check(knob: Field, value: Any) -> None:
    """Raise ClipgenError for a value that a setting cannot have, whatever the models."""
    facts, kind, name = knob.metadata, type(knob.default), knob.name
    if not facts:
        return
    if knob.default is not None and not isinstance(value, (int, float) if kind is float else kind):
        raise ClipgenError(f"{name}={value!r}: has to be a {kind.__name__}, such as {knob.default!r}")
    if facts["choices"] and value not in facts["choices"]:
        raise ClipgenError(f"{name}={value!r}: choose one of: {', '.join(facts['choices'])}")
    if kind in (int, float) and not (math.isfinite(value) and facts["low"] <= value <= facts["high"]):
        high = "up" if facts["high"] == math.inf else f"to {facts['high']:,}"
        range_ = "finite" if facts["low"] == -math.inf else f"a number from {facts['low']:g} {high}"
        raise ClipgenError(f"{name}={value}: has to be {range_}; {knob.default} is the default")
