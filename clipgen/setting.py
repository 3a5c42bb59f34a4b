"""A setting: its declaration (default, bounds, choices, help), and values of it that change over the steps.

Such values are numbers, ``0.2@0-200, 0.02@150-``, and sizes, ``128x128@0-60, 256x256@60-``.
"""

import math
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import Field, dataclass, field
from itertools import pairwise
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
_NUMBER = re.compile(rf"({NUMBER})\s*(?:{SPAN})?", re.IGNORECASE)
_SIZE = re.compile(rf"(\d{{1,5}}(?:x\d{{1,5}})?)\s*(?:{SPAN})?", re.IGNORECASE)
_Spans = tuple[tuple[int, float], ...]  # the first step, and the one after the last


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


def check_count(name: str, value: Any, low: int = 1, high: float = math.inf, remedy: str = "") -> int:
    """Return a count as an int. Raises ClipgenError unless it is a whole number from ``low`` to ``high``."""
    number = to_python(value, whole=not isinstance(value, Iterable))
    return _check_number(name, value, number, int, low, high, remedy)


def check_number(name: str, value: Any, low: float = -math.inf, high: float = math.inf, remedy: str = "") -> float:
    """Return a number within its bounds, included, as Python has it. Raises ClipgenError for anything else."""
    return _check_number(name, value, to_python(value), float, low, high, remedy)


def _check_number(name: str, value: Any, number: Any, kind: Any, low: float, high: float, remedy: str) -> Any:
    is_number = isinstance(number, (int, kind)) and not isinstance(number, bool) and abs(number) <= _MAX_NUMBER
    if not (is_number and low <= number <= high):
        noun, bounds = "whole number" if kind is int else "number", bounds_of(low, high)
        if bounds:
            bounds = f" of {bounds}" if high == math.inf else f" from {bounds}"
        raise ClipgenError(f"{name}={value!r:.40}: must be a {noun}{bounds}{remedy}")
    return number


def check_path(name: str, value: Any) -> Path:
    """Return the path of a file or a folder. Raises ClipgenError for anything else."""
    if not isinstance(value, (str, os.PathLike)):
        raise ClipgenError(f"{name}={value!r}: must be a path")
    return Path(value)


def check(field: Field, value: Any) -> None:
    """Raise ClipgenError for a value that a setting cannot have, whatever the models."""
    facts, kind, name = field.metadata, type(field.default), field.name
    if kind in (int, float):
        _check_number(name, value, value, kind, facts["low"], facts["high"], f"; {field.default} is the default")
    elif field.default is not None and not isinstance(value, kind):
        raise ClipgenError(
            f"{name}={value!r}: must be a {'text' if kind is str else 'bool'}, such as {field.default!r}"
        )
    if facts["choices"] and value not in facts["choices"]:
        nearest, names = suggest(value, facts["choices"]), ", ".join(filter(None, facts["choices"]))
        raise ClipgenError(f"{name}={value!r}: {nearest}{'There are' if nearest else 'choose one of:'} {names}")


def bounds_of(low: float, high: float) -> str:
    """Return the bounds of a number as a text, such as ``0 to 1``; empty if there are none."""
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
    if bounds := bounds_of(facts["low"], facts["high"]):
        values.append(bounds)
    line = f"{name} ({'; '.join(values)}): {facts['help']}"
    return textwrap.fill(line, 116, initial_indent=" " * 4, subsequent_indent=" " * 8, break_on_hyphens=False)


def fade_factors(spans: Sequence[tuple[int, float]], step: int) -> list[float]:
    """Return the factor of each span at a step: 1 within it, 0 outside, and linear where one runs into the next."""
    factors = []
    for start, end in spans:
        factor = 1.0 if start <= step < end else 0.0
        for other_start, other_end in spans:
            if other_start < start < other_end < end and step < other_end:  # fade in, over the end of the other
                factor *= (step - start + 0.5) / (other_end - start)
            elif start < other_start < end < other_end and other_start <= step:  # fade out, into the other
                factor *= 1 - (step - other_start + 0.5) / (end - other_start)
        factors.append(factor)
    return factors


@dataclass(frozen=True)
class Schedule:
    """Numbers, and the span of steps in which each is active."""

    numbers: tuple[float, ...]
    spans: _Spans

    @property
    def edges(self) -> set[int]:
        """The steps at which its spans begin or end."""
        return {int(edge) for span in self.spans for edge in span if edge < math.inf}

    def at(self, step: int) -> float:
        """Return the number at a step. Overlapping spans are cross-faded; in a gap the last number stays."""
        factors = fade_factors(self.spans, step)
        if total := sum(factors):
            return sum(number * factor for number, factor in zip(self.numbers, factors, strict=True)) / total
        past = [(end, number) for (_, end), number in zip(self.spans, self.numbers, strict=True) if end <= step]
        return max(past)[1] if past else self.numbers[0]


@dataclass(frozen=True)
class Growth:
    """Sizes (width, height) from small to large, and the step from which each is used."""

    sizes: tuple[tuple[int, int], ...]
    begins: tuple[int, ...]

    def at(self, step: int) -> tuple[int, int]:
        """Return the size at a step."""
        return [size for size, begin in zip(self.sizes, self.begins, strict=True) if begin <= step][-1]


def parse_schedule(name: str, text: str) -> Schedule:
    """Parse the schedule of a setting.

    Raises ClipgenError for anything else, for an empty span, and for a span within another: it would be unclear which
    of the two numbers holds.
    """
    numbers, spans = _parse_terms(text, _NUMBER)
    ordered = sorted(spans, key=lambda span: (span[0], -span[1]))
    finite = all(math.isfinite(float(number)) for number in numbers)
    if not (numbers and finite) or any(end <= before for (_, before), (_, end) in pairwise(ordered)):
        raise ClipgenError(
            f"{name}={text!r}: write one number, with a decimal point, such as 0.05, or several numbers, each with a "
            "span of steps, such as '0.2@0-100, 0.02@80-'"
        )
    return Schedule(tuple(map(float, numbers)), spans)


def parse_growth(text: str) -> Growth:
    """Parse a size, ``128x96`` or ``128``, or several of growing size that follow one another from step 0.

    Raises ClipgenError for anything else.
    """
    words, spans = _parse_terms(text, _SIZE)
    sides = [word.lower().split("x") for word in words]
    sizes = tuple((int(side[0]), int(side[-1])) for side in sides)
    grows = all(a != b and a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(sizes))
    is_cut = len(sizes) == 1 and spans[0][1] < math.inf  # there is no size after the only one
    if not sizes or not grows or is_cut or spans[0][0] or any(end > begin for (_, end), (begin, _) in pairwise(spans)):
        raise ClipgenError(
            f"size={text!r}: write width x height, such as 128x96, or several growing sizes, each with its steps, "
            "one after another from step 0 on, such as '128x128@0-60, 256x256@60-'"
        )
    return Growth(sizes, tuple(begin for begin, _ in spans))


def parse_size(size: Any) -> Any:
    """Return the value of ``size`` for a text or a side: None if empty, (width, height), or the text of several."""
    if not isinstance(size, (str, int)):
        return size
    text = str(size)
    if not text.strip():
        return None
    sizes = parse_growth(text).sizes
    return text if len(sizes) > 1 else sizes[0]


def _parse_terms(text: str, pattern: re.Pattern[str]) -> tuple[list[str], _Spans]:
    """Return the values between commas and their spans, or nothing if one of them is malformed."""
    matches = [match for part in text.split(",") if (match := pattern.fullmatch(part.strip()))]
    spans = tuple((int(match[2] or 0), int(match[3]) if match[3] else math.inf) for match in matches)
    if len(matches) != text.count(",") + 1 or any(begin >= end for begin, end in spans):
        return [], ()
    return [match[1] for match in matches], spans
