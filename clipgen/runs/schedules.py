"""Values that change over the steps: numbers, ``0.2@0-200, 0.02@150-``, and sizes, ``128x128@0-60, 256x256@60-``."""

import math
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from clipgen.errors import ClipgenError
from clipgen.prompts import fade_factors
from clipgen.setting import NUMBER, SPAN

_NUMBER = re.compile(rf"({NUMBER})\s*(?:{SPAN})?", re.IGNORECASE)
_SIZE = re.compile(rf"(\d{{1,5}}(?:x\d{{1,5}})?)\s*(?:{SPAN})?", re.IGNORECASE)
_Spans = tuple[tuple[int, float], ...]  # the first step, and the one after the last


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
