"""What changes over the steps: numbers, ``0.2@0-200, 0.02@150-``, and sizes, ``128x128@0-60, 256x256@60-``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from clipgen.errors import ClipgenError
from clipgen.prompts import fade
from clipgen.setting import NUMBER, SPAN

_NUMBER = re.compile(rf"({NUMBER})\s*(?:{SPAN})?", re.IGNORECASE)
_SIZE = re.compile(rf"(\d{{1,5}}(?:x\d{{1,5}})?)\s*(?:{SPAN})?", re.IGNORECASE)
_Spans = tuple[tuple[int, float], ...]  # the first step, and the one after the last


@dataclass(frozen=True)
class Schedule:
    """Numbers, each with the steps from the first to before the last in which it holds."""

    numbers: tuple[float, ...]
    spans: _Spans

    def at(self, step: int) -> float:
        """The number at a step. Where two spans overlap, one fades into the other; between spans the last one holds."""
        shares = fade(self.spans, step)
        if total := sum(shares):
            return sum(number * share for number, share in zip(self.numbers, shares, strict=True)) / total
        past = [(end, number) for (_, end), number in zip(self.spans, self.numbers, strict=True) if end <= step]
        return max(past)[1] if past else self.numbers[0]


@dataclass(frozen=True)
class Growth:
    """Sizes (width, height), from small to large, each with the step from which it holds."""

    sizes: tuple[tuple[int, int], ...]
    begins: tuple[int, ...]

    def at(self, step: int) -> tuple[int, int]:
        """The size at a step."""
        return [size for size, begin in zip(self.sizes, self.begins, strict=True) if begin <= step][-1]


@lru_cache(maxsize=64)
def schedule(name: str, text: str) -> Schedule:
    """Parse the schedule of a setting.

    Raises ClipgenError for anything else, for spans that end as they begin, and for several numbers where one's span
    lies within another's: nothing says which of the two holds.
    """
    numbers, spans = _terms(text, _NUMBER)
    ordered = sorted(spans, key=lambda span: (span[0], -span[1]))
    if not numbers or any(end <= before for (_, before), (_, end) in pairwise(ordered)):
        raise ClipgenError(
            f"{name}={text!r}: write one number, with a decimal point, such as 0.05, or several that follow one "
            "another, each with its steps, as '0.2@0-100, 0.02@80-'"
        )
    return Schedule(tuple(map(float, numbers)), spans)


@lru_cache(maxsize=64)
def growth(text: str) -> Growth:
    """Parse a size, ``128x96`` or ``128``, or several that follow one another from step 0 on, each larger.

    Raises ClipgenError for anything else.
    """
    words, spans = _terms(text, _SIZE)
    sizes = tuple((int(sides[0]), int(sides[-1])) for sides in (word.lower().split("x") for word in words))
    grows = all(a != b and a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(sizes))
    if not sizes or not grows or spans[0][0] or any(end > begin for (_, end), (begin, _) in pairwise(spans)):
        raise ClipgenError(
            f"size={text!r}: write width x height, as 128x96, or sizes that grow, one after another from step 0 on, as "
            "'128x128@0-60, 256x256@60-'"
        )
    return Growth(sizes, tuple(begin for begin, _ in spans))


def size_of(text: str) -> tuple[int, int] | str | None:
    """What is meant by a size as text: nothing by none, (width, height) by one; several stay, if they can be meant."""
    if not text.strip():
        return None
    sizes = growth(text).sizes
    return text if len(sizes) > 1 else sizes[0]


def _terms(text: str, term: re.Pattern[str]) -> tuple[list[str], _Spans]:
    """What stands between commas, and the spans behind it; nothing of what cannot be meant."""
    found = [match for part in text.split(",") if (match := term.fullmatch(part.strip()))]
    spans = tuple((int(match[2] or 0), int(match[3]) if match[3] else math.inf) for match in found)
    sound = len(found) == text.count(",") + 1 and all(begin < end for begin, end in spans)
    return ([match[1] for match in found], spans) if sound else ([], ())
