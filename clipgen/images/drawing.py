"""A picture as vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Point = tuple[float, float]


class Mark(NamedTuple):
    """A stroke, ellipse or polygon, in pixels from the upper left corner.

    ``points`` are the four of a cubic Bezier curve; the centre of an ellipse and the ends of two conjugate half axes,
    which need not be at right angles; or the corners of a polygon.
    """

    kind: Literal["stroke", "ellipse", "polygon"]
    points: tuple[Point, ...]
    colour: tuple[int, int, int] = (0, 0, 0)  # red, green, blue, from 0 to 255
    opacity: float = 1.0
    width: float = 0.0  # of a stroke; its ends are round


@dataclass(frozen=True)
class Drawing:
    """Marks on white paper, each painted over those before it."""

    size: tuple[int, int]  # (width, height)
    marks: tuple[Mark, ...]
