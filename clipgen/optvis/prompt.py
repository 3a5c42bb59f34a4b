"""What a picture is asked to show, and when: prompts as types. How they are written is the runs' business."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """A text or an image to go towards (positive weight) or away from (negative)."""

    text: str
    weight: float = 1.0
    stop: float = -math.inf  # nearer than this distance it does not pull any more
    span: tuple[int, float] = (0, math.inf)  # the first step, and the one after the last
    where: str = ""  # the part of the picture that it is about; empty for all of it
    is_image: bool = False  # whether ``text`` names a picture


def strengths(prompts: Sequence[Prompt], step: int) -> list[float]:
    """The weight of each prompt at a step; where one span runs into the next, the two are faded linearly."""
    faded = []
    for prompt in prompts:
        (start, end), strength = prompt.span, prompt.weight
        if not start <= step < end:
            strength = 0.0
        for other in prompts:
            first, last = other.span
            if first < start < last < end and step < last:  # it follows the other
                strength *= (step - start + 0.5) / (last - start)
            elif start < first < end < last and first <= step:  # the other follows it
                strength *= 1 - (step - first + 0.5) / (end - first)
        faded.append(strength)
    return faded
