"""The prompt grammar: ``a cat:2 | watermark:-0.5``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from clipgen.errors import ClipgenError

_BAR = re.compile(r"(?<!\\)\|")
_WEIGHT = re.compile(r"(?<!\\):\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class Prompt:
    """A text to go towards (positive weight) or away from (negative)."""

    text: str
    weight: float = 1.0


def weighted(text: str) -> list[tuple[str, float]]:
    r"""The parts between ``|``, each with the ``:weight`` at its end or 1; ``\|`` and ``\:`` are plain."""
    parts = []
    for part in _BAR.split(text):
        found = _WEIGHT.search(part)
        words = part[: found.start()] if found else part
        if words := re.sub(r"\\([|:])", r"\1", words).strip():
            parts.append((words, float(found[1]) if found else 1.0))
    return parts


def parse(text: str) -> list[Prompt]:
    r"""Prompts separated by ``|``, each with an optional ``:weight`` at its end.

    A bar or a colon that belongs to the text is written ``\|`` and ``\:``. Raises ClipgenError when nothing
    is left to draw, or when no weight is above zero.
    """
    prompts = [Prompt(words, weight) for words, weight in weighted(text)]
    if not prompts:
        raise ClipgenError(
            f'prompt={text!r}: there is nothing to draw; write what you want to see, such as "a red apple"'
        )
    if not all(math.isfinite(p.weight) for p in prompts) or max(p.weight for p in prompts) <= 0:
        raise ClipgenError(
            f'prompt={text!r}: at least one prompt needs a finite weight above 0, such as "a cat:1 | dog:-0.5"'
        )
    return prompts


def slug(text: str, longest: int = 60) -> str:
    """A file name for a prompt: ``A red apple!`` to ``a-red-apple``."""
    return re.sub(r"[^\w]+", "-", text.lower()).strip("-_")[:longest].strip("-_") or "picture"
