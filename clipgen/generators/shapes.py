"""Filled ellipses, triangles and parallelograms in turn: affine images of a circle and two regular polygons."""

import math
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from clipgen.export.formats import Mark, Point
from clipgen.generators.rasteriser import Marks
from clipgen.generators.vectors import Vectors, to_bytes

SEGMENTS = 24  # of an outline; a multiple of the corners of every polygon
CIRCLE = 24  # corners that stand for a circle
KINDS = (CIRCLE, 3, 4)  # corners


def outline(corners: int) -> Tensor:
    """Return a regular polygon (SEGMENTS + 1, 2) in the unit circle, evenly along its edges, closed."""
    angle = 2 * math.pi * (torch.arange(corners + 1) + 0.5) / corners
    points = torch.stack([angle.sin(), angle.cos()], 1)
    fraction = torch.arange(SEGMENTS // corners)[:, None] / (SEGMENTS // corners)
    edges = torch.cat([begin.lerp(end, fraction) for begin, end in pairwise(points)])
    return torch.cat([edges, points[-1:]])


@lru_cache
def _outlines(device: torch.device) -> Tensor:
    """Return the outlines (3, SEGMENTS + 1, 2) of KINDS."""
    return torch.stack([outline(corners) for corners in KINDS]).to(device)


class Shapes(Vectors):
    """A row: the centre, the ends of two half axes, red, green, blue, opacity."""

    corners = 3
    low = (*6 * (-1.5,), 0.0, 0.0, 0.0, 0.05)
    high = (*6 * (1.5,), 1.0, 1.0, 1.0, 1.0)

    def marks(self, rows: Tensor, size: tuple[int, int]) -> Marks:
        centre, *ends = self.points(rows, size).unbind(1)
        axes = torch.stack([end - centre for end in ends], 1)
        outlines = _outlines(rows.device)
        kind = torch.arange(len(rows), device=rows.device) % len(KINDS)
        return Marks(centre[:, None] + outlines[kind] @ axes, rows.new_zeros(len(rows)), rows[:, 6:10], True)

    def mark(self, number: int, row: list[float], points: tuple[Point, ...], short: float) -> Mark:
        paint = to_bytes(row[6:9]), row[9]
        corners = KINDS[number % len(KINDS)]
        if corners == CIRCLE:
            return Mark("ellipse", points, *paint)
        centre, *ends = (torch.tensor(point, dtype=torch.double) for point in points)
        polygon = outline(corners)[: -1 : SEGMENTS // corners].double() @ (torch.stack(ends) - centre) + centre
        return Mark("polygon", tuple(map(tuple, polygon.tolist())), *paint)

    def random_rows(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        centre = 1.8 * torch.rand(self.count, 1, 2, generator=rng) - 0.9
        angle = 2 * math.pi * torch.rand(self.count, 1, generator=rng)
        width, height = (0.1 + 0.2 * torch.rand(2, self.count, 1, generator=rng)).unbind(0)
        one = torch.cat([angle.cos(), angle.sin()], 1) * width
        other = torch.cat([-angle.sin(), angle.cos()], 1) * height
        paint = torch.rand(self.count, 4, generator=rng)
        paint[:, 3] = 0.5 + 0.5 * paint[:, 3]
        return torch.cat([(centre + torch.stack([torch.zeros_like(one), one, other], 1)).flatten(1), paint], 1)

    def mosaic_rows(self, centres: Tensor, sides: Tensor, colours: Tensor, size: tuple[int, int]) -> Tensor:
        axes = torch.tensor([[0.0, 0.0], [0.7, 0.0], [0.0, 0.7]])
        points = (centres[:, None] + axes * sides[:, None]).flatten(1)
        return torch.cat([points, colours, torch.ones(len(colours), 1)], 1)
