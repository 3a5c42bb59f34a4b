"""The declaration of a setting: default, bounds, choices, help, whether it is live, and its section."""

import math
import os
import sys
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import Field, field
from pathlib import Path
from typing import Any, Literal

from clipgen.errors import ClipgenError, suggest

_MAX_NUMBER = sys.float_info.max  # nan is not below it, nor is an int that no float can hold
Section = Literal["basic", "steer", "start", "clip", "look", "cutouts", "optimizer", "speed", "output"]
# Patterns of numbers and of spans of steps. No two parts of a pattern that follow each other can match the same
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
    """Declare a field of a dataclass as a setting: an argument, an option, a widget and a key of the journal.

    Args:
        default: The default; its type is the type of the setting.
        help: What it does, with its unit.
        low: The smallest number, included.
        high: The largest number, included.
        choices: All possible words.
        common: Some possible texts, or a function that returns them.
        live: Whether it can change during a run.
        section: The group of settings that it is listed with.
    """
    facts = {"help": help, "low": low, "high": high, "choices": choices, "common": common}
    return field(default=default, metadata=facts | {"live": live, "section": section})


def to_python(value: Any, whole: bool = False) -> Any:
    """Return a scalar of NumPy or PyTorch as a Python number, any other value unchanged.

    Args:
        value: The value of a setting.
        whole: Whether whole numbers are needed: 1.0 is returned as 1, and the sides of a size as a tuple.
    """
    if getattr(value, "shape", None) == ():
        value = value.item()
    if whole and isinstance(value, Iterable) and not isinstance(value, str):
        return tuple(to_python(side, whole) for side in value)
    return int(value) if whole and isinstance(value, float) and value.is_integer() else value


def check_count(name: str, value: Any, remedy: str = "", low: int = 1, high: float = math.inf) -> int:
    """Return a count as an int. Raises ClipgenError unless it is a whole number from ``low`` to ``high``."""
    number = to_python(value, whole=not isinstance(value, Iterable))
    return _check_kind(name, value, number, int, low, high, remedy)


def check_number(name: str, value: Any, low: float = -math.inf, high: float = math.inf, remedy: str = "") -> float:
    """Return a number within its bounds, included, as Python has it. Raises ClipgenError for anything else."""
    return _check_kind(name, value, to_python(value), (int, float), low, high, remedy)


def _check_kind(name: str, value: Any, number: Any, kind: Any, low: float, high: float, remedy: str) -> Any:
    is_number = isinstance(number, kind) and not isinstance(number, bool) and abs(number) <= _MAX_NUMBER
    if not (is_number and low <= number <= high):
        bounds = f" of at least {low:,}" if high == math.inf else f" from {low:,} to {high:,}"
        noun = "whole number" if kind is int else "number"
        raise ClipgenError(f"{name}={value!r}: must be a {noun}{bounds if low > -math.inf else ''}{remedy}")
    return number


def check_path(name: str, value: Any) -> Path:
    """Return the path of a file or a folder. Raises ClipgenError for anything else."""
    if not isinstance(value, (str, os.PathLike)):
        raise ClipgenError(f"{name}={value!r}: must be a path")
    return Path(value)


def check(field: Field, value: Any) -> None:
    """Raise ClipgenError for a value that a setting cannot have, whatever the models."""
    facts, kind, name = field.metadata, type(field.default), field.name
    if not facts:
        return
    kinds = (int, float) if kind is float else kind
    if field.default is not None and not (isinstance(value, kinds) and isinstance(value, bool) == (kind is bool)):
        nouns = {int: "whole number", float: "number", str: "text", bool: "bool"}
        raise ClipgenError(f"{name}={value!r}: must be a {nouns.get(kind, kind.__name__)}, such as {field.default!r}")
    if facts["choices"] and value not in facts["choices"]:
        nearest, names = suggest(value, facts["choices"]), ", ".join(filter(None, facts["choices"]))
        raise ClipgenError(f"{name}={value!r}: {nearest}{'There are' if nearest else 'choose one of:'} {names}")
    if kind in (int, float) and not (abs(value) <= _MAX_NUMBER and facts["low"] <= value <= facts["high"]):
        bounds = bounds_of(field)
        range_ = f"a number from {bounds}" if facts["high"] < math.inf else bounds or "finite"
        raise ClipgenError(f"{name}={value!r:.40}: must be {range_}; {field.default} is the default")


def bounds_of(field: Field) -> str:
    """Return the bounds of a number as a text, such as ``0 to 1``; empty if there are none."""
    low, high = field.metadata["low"], field.metadata["high"]
    if low == -math.inf:
        return ""
    if high == math.inf:
        return f"at least {low:g}"
    return f"{low:g} to {int(high) if high == int(high) else high:,}"


def describe(field: Field) -> str:
    """Return a paragraph about a setting: ``name* (default; choices; bounds): help``, with a * if it is live."""
    facts, name = field.metadata, field.name + "*" * field.metadata["live"]
    values = [repr(field.default)]
    if facts["choices"]:
        values.append(" | ".join(choice or "''" for choice in facts["choices"]))
    if bounds := bounds_of(field):
        values.append(bounds)
    line = f"{name} ({'; '.join(values)}): {facts['help']}"
    return textwrap.fill(line, 116, initial_indent=" " * 4, subsequent_indent=" " * 8, break_on_hyphens=False)
