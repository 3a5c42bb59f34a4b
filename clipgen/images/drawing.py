"""A picture as what it is drawn of: what a file of vectors holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Point = tuple[float, float]


class Mark(NamedTuple):
    """One stroke, ellipse or polygon. Places are in pixels, from the upper left corner.

    ``points``: of a stroke, the four of a cubic Bezier curve; of an ellipse, its centre and the ends of two half axes
    (conjugate ones, which need not be at right angles); of a polygon, its corners.
    """

    kind: Literal["stroke", "ellipse", "polygon"]
    points: tuple[Point, ...]
    colour: tuple[int, int, int] = (0, 0, 0)  # red, green, blue, from 0 to 255
    opacity: float = 1.0
    width: float = 0.0  # of a stroke, whose ends are round


@dataclass(frozen=True)
class Drawing:
    """Marks on white paper, each painted over those before it."""

    size: tuple[int, int]  # (width, height)
    marks: tuple[Mark, ...]
