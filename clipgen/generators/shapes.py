"""Filled ellipses, triangles and parallelograms in turn: a circle and two regular polygons, moved and leaned."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipgen.generators.rasteriser import Marks
from clipgen.generators.vectors import Vectors, to_bytes
from clipgen.images.drawing import Mark

if TYPE_CHECKING:
    from clipgen.generators.catalogue import Entry

SEGMENTS = 24  # of an outline; a multiple of the corners of every polygon
ROUND, *POLYGONS = 24, 3, 4  # corners; the first stands for a circle
KINDS = (ROUND, *POLYGONS)


def outline(corners: int) -> Tensor:
    """(SEGMENTS + 1, 2): a regular polygon in the unit circle, evenly along its edges, back to its first corner."""
    angle = 2 * math.pi * (torch.arange(corners + 1) + 0.5) / corners
    points = torch.stack([angle.sin(), angle.cos()], 1)
    share = torch.arange(SEGMENTS // corners)[:, None] / (SEGMENTS // corners)
    edges = torch.cat([begin.lerp(end, share) for begin, end in pairwise(points)])
    return torch.cat([edges, points[-1:]])


class Shapes(Vectors):
    """A row: the middle, the ends of two half axes, red, green, blue, opacity.

    An affine image of a circle is an ellipse, of a square any parallelogram, and of a regular triangle any triangle.
    """

    corners = 3
    low = (*6 * (-1.5,), 0.0, 0.0, 0.0, 0.05)
    high = (*6 * (1.5,), 1.0, 1.0, 1.0, 1.0)

    def marks(self, rows: Tensor, size: tuple[int, int]) -> Marks:
        middle, *ends = self.places(rows, size).unbind(1)
        axes = torch.stack([end - middle for end in ends], 1)
        kinds = torch.stack([outline(KINDS[i % len(KINDS)]) for i in range(len(KINDS))]).to(rows)
        which = torch.arange(len(rows), device=rows.device) % len(KINDS)
        return Marks(middle[:, None] + kinds[which] @ axes, rows.new_zeros(len(rows)), rows[:, 6:10], True)

    def mark(self, number: int, row: list[float], places: tuple[tuple[float, float], ...], short: float) -> Mark:
        paint = to_bytes(row[6:9]), row[9]
        if (corners := KINDS[number % len(KINDS)]) == ROUND:
            return Mark("ellipse", places, *paint)
        (x, y), *ends = places
        axes = torch.tensor(ends, dtype=torch.double) - torch.tensor([x, y], dtype=torch.double)
        points = outline(corners)[: -1 : SEGMENTS // corners].double() @ axes + torch.tensor([x, y])
        return Mark("polygon", tuple(map(tuple, points.tolist())), *paint)

    def scattered(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        middle = 1.8 * torch.rand(self.count, 1, 2, generator=rng) - 0.9
        turn = 2 * math.pi * torch.rand(self.count, 1, generator=rng)
        wide, tall = (0.1 + 0.2 * torch.rand(2, self.count, 1, generator=rng)).unbind(0)
        one = torch.cat([turn.cos(), turn.sin()], 1) * wide
        other = torch.cat([-turn.sin(), turn.cos()], 1) * tall
        paint = torch.rand(self.count, 4, generator=rng)
        paint[:, 3] = 0.5 + 0.5 * paint[:, 3]
        return torch.cat([(middle + torch.stack([torch.zeros_like(one), one, other], 1)).flatten(1), paint], 1)

    def laid(self, places: Tensor, sides: Tensor, colours: Tensor, size: tuple[int, int]) -> Tensor:
        axes = torch.tensor([[0.0, 0.0], [0.7, 0.0], [0.0, 0.7]])
        points = (places[:, None] + axes * sides[:, None]).flatten(1)
        return torch.cat([points, colours, torch.ones(len(colours), 1)], 1)


def load(name: str, entry: Entry, device: torch.device) -> Shapes:
    """Needs no files. ``entry.config``: how many ``marks``."""
    return Shapes(name, entry.side, device, entry.config["marks"])
