"""Numbers that change over the steps: ``0.2@0-200, 0.02@150-``, in the grammar of prompts and cameras."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache

from clipgen.errors import ClipgenError
from clipgen.optvis.prompt import fading

_TERM = re.compile(r"^([+-]?\d*\.?\d+(?:e[+-]?\d+)?)\s*(?:@\s*(\d{0,9})\s*-\s*(\d{0,9}))?$")


@dataclass(frozen=True)
class Schedule:
    """Numbers, each with the steps from the first to before the last in which it holds."""

    numbers: tuple[float, ...]
    spans: tuple[tuple[int, float], ...]

    def at(self, step: int) -> float:
        """The number at a step. Where two spans overlap, one fades into the other; between spans the last one holds."""
        shares = fading(self.spans, step)
        if total := sum(shares):
            return sum(number * share for number, share in zip(self.numbers, shares, strict=True)) / total
        past = [(end, number) for (_, end), number in zip(self.spans, self.numbers, strict=True) if end <= step]
        return max(past)[1] if past else self.numbers[0]


@lru_cache(maxsize=64)
def schedule(name: str, text: str) -> Schedule:
    """Parse the schedule of a setting. Raises ClipgenError for anything else, and for spans that end as they begin."""
    numbers, spans = [], []
    for part in text.split(","):
        found = _TERM.match(part.strip())
        span = (int(found[2] or 0), int(found[3]) if found[3] else math.inf) if found else (0, 0)
        if not found or span[0] >= span[1]:
            raise ClipgenError(
                f"{name}={text!r}: write a number, or numbers with their steps, as '0.2@0-100, 0.02@80-'"
            )
        numbers.append(float(found[1]))
        spans.append(span)
    return Schedule(tuple(numbers), tuple(spans))
