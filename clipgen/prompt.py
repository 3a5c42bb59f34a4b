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
    stop: float = -math.inf  # nearer than this distance it does not pull; with a weight below 0: further, and push
    span: tuple[int, float] = (0, math.inf)  # the first step, and the one after the last
    where: str = ""  # the part of the picture that it is about; empty for all of it
    is_image: bool = False  # whether ``text`` names a picture


def texts(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Those that say what is wanted, in words."""
    return [prompt for prompt in prompts if prompt.weight > 0 and not prompt.is_image]


def strengths(prompts: Sequence[Prompt], step: int) -> list[float]:
    """The weight of each prompt at a step, faded where spans overlap."""
    shares = fading([prompt.span for prompt in prompts], step)
    return [prompt.weight * share for prompt, share in zip(prompts, shares, strict=True)]


def fading(spans: Sequence[tuple[int, float]], step: int) -> list[float]:
    """How much each of some spans holds at a step: 1 within it, and a linear fade where one runs into the next."""
    faded = []
    for start, end in spans:
        share = 1.0 if start <= step < end else 0.0
        for first, last in spans:
            if first < start < last < end and step < last:  # it follows the other
                share *= (step - start + 0.5) / (last - start)
            elif start < first < end < last and first <= step:  # the other follows it
                share *= 1 - (step - first + 0.5) / (end - first)
        faded.append(share)
    return faded
