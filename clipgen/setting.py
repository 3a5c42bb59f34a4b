"""The declaration of a setting: its default, bounds, help, whether it can change, and the section it belongs to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import Field, field
from typing import Any, Literal

from clipgen.errors import ClipgenError

Section = Literal["basic", "steer", "start", "clip", "look", "cutouts", "optimizer", "speed", "output"]
# How numbers and spans of steps are written. No two parts of a pattern that follow each other can match the same
# characters, so that a match takes time linear in the length of the text.
UNSIGNED = r"(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?"
NUMBER = rf"[+-]?{UNSIGNED}"
SPAN = r"@\s*(?:(\d{1,9})\s*)?-\s*(\d{1,9})?"


def setting(
    default: Any,
    help: str,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    choices: tuple[str, ...] = (),
    common: Callable[[], Iterable[str]] | tuple[str, ...] = (),
    live: bool = True,
    section: Section = "look",
) -> Any:
    """A field of a dataclass that is a setting: an argument in Python, an option, a widget, a key of the journal.

    ``low``, ``high``: bounds of a number, both included. ``choices``: all that a word can be; ``common``: some of what
    a free text can be, or a function that knows. ``live``: whether it can change while a run goes on. ``section``:
    the group of settings it is listed with.
    """
    facts = {"help": help, "low": low, "high": high, "choices": choices, "common": common}
    return field(default=default, metadata=facts | {"live": live, "section": section})


def plain(value: Any, whole: bool = False) -> Any:
    """Return a scalar of NumPy or PyTorch as a Python number, any other value as it is.

    Args:
        value: The value of a setting.
        whole: Whether whole numbers are needed: 1.0 is returned as 1, and several, the sides of a size, as a tuple.
    """
    if getattr(value, "shape", None) == ():
        value = value.item()
    if whole and isinstance(value, Iterable) and not isinstance(value, str):
        return tuple(plain(side, whole) for side in value)
    return int(value) if whole and isinstance(value, float) and value.is_integer() else value


def check_count(name: str, value: Any, remedy: str = "") -> int:
    """Return a number of things, as an int. Raises ClipgenError for what is no whole number of at least 1."""
    number = plain(value, whole=not isinstance(value, Iterable))
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ClipgenError(f"{name}={value!r}: has to be a whole number of at least 1{remedy}")
    return number


def check(knob: Field, value: Any) -> None:
    """Raise ClipgenError for a value that a setting cannot have, whatever the models."""
    facts, kind, name = knob.metadata, type(knob.default), knob.name
    if not facts:
        return
    kinds = (int, float) if kind is float else kind
    if knob.default is not None and not (isinstance(value, kinds) and isinstance(value, bool) == (kind is bool)):
        raise ClipgenError(f"{name}={value!r}: has to be a {kind.__name__}, such as {knob.default!r}")
    if facts["choices"] and value not in facts["choices"]:
        raise ClipgenError(f"{name}={value!r}: choose one of: {', '.join(facts['choices'])}")
    if kind in (int, float) and not (math.isfinite(value) and facts["low"] <= value <= facts["high"]):
        high = "up" if facts["high"] == math.inf else f"to {facts['high']:,}"
        range_ = "finite" if facts["low"] == -math.inf else f"a number from {facts['low']:g} {high}"
        raise ClipgenError(f"{name}={value}: has to be {range_}; {knob.default} is the default")
