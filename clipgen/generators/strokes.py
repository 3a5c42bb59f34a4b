"""Strokes of a brush, and lines of one pen (Frans et al. 2021, "CLIPDraw"): cubic Bezier curves on white paper."""

from functools import lru_cache

import torch
from torch import Tensor

from clipgen.device import constant
from clipgen.export.formats import Mark, Point
from clipgen.generators.rasteriser import Marks
from clipgen.generators.vectors import Vectors, to_bytes

SEGMENTS = 16  # of the polyline of a curve
COORD_LIMIT = 1.2  # how far from the middle points may lie; the sheet ends at 1
WIDTH = 0.1  # share of the sheet's shorter side that a width of 1 in a latent is


@lru_cache
def bezier(segments: int, device: torch.device) -> Tensor:
    """Return the weights (segments + 1, 4) of the four control points along the curve."""
    t = torch.linspace(0, 1, segments + 1)
    return torch.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], 1).to(device)


class Strokes(Vectors):
    """A row: four points, red, green, blue, opacity, and the width in tenths of the sheet's shorter side."""

    corners = 4
    lengths = slice(12, 13)
    low = (*8 * (-COORD_LIMIT,), 0.0, 0.0, 0.0, 0.05, 0.1)
    high = (*8 * (COORD_LIMIT,), 1.0, 1.0, 1.0, 1.0, 2.0)

    def marks(self, rows: Tensor, size: tuple[int, int]) -> Marks:
        lines = bezier(SEGMENTS, rows.device) @ self.points(rows, size)
        return Marks(lines, rows[:, 12] * (WIDTH / 2 * min(size)), rows[:, 8:12])

    def mark(self, number: int, row: list[float], points: tuple[Point, ...], short: float) -> Mark:
        return Mark("stroke", points, to_bytes(row[8:11]), row[11], row[12] * WIDTH * short)

    def random_rows(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        paint = torch.rand(self.count, 4, generator=rng)
        paint[:, 3] = 0.5 + 0.5 * paint[:, 3]
        width = 0.2 + 0.6 * torch.rand(self.count, 1, generator=rng)
        return torch.cat([_random_walks(self.count, 0.25, rng), paint, width], 1)

    def mosaic_rows(self, centres: Tensor, sides: Tensor, colours: Tensor, size: tuple[int, int]) -> Tensor:
        width = sides[:, 1:] / 2 * size[0] / (WIDTH * min(size))
        lines = _horizontal_lines(centres, sides)
        return torch.cat([lines, colours, torch.ones_like(width), width.clamp(max=self.high[12])], 1)


class Pen(Vectors):
    """A row: four points. All lines are black and of one width, as a plotter draws them."""

    corners = 4
    low, high = 8 * (-COORD_LIMIT,), 8 * (COORD_LIMIT,)
    width = 0.013  # share of the sheet's shorter side

    def marks(self, rows: Tensor, size: tuple[int, int]) -> Marks:
        lines = bezier(SEGMENTS, rows.device) @ self.points(rows, size)
        black = constant((0.0, 0.0, 0.0, 1.0), rows.device).expand(len(rows), 4)
        return Marks(lines, rows.new_full((len(rows),), self.width / 2 * min(size)), black)

    def mark(self, number: int, row: list[float], points: tuple[Point, ...], short: float) -> Mark:
        return Mark("stroke", points, width=self.width * short)

    def random_rows(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        return _random_walks(self.count, 0.25, rng)

    def mosaic_rows(self, centres: Tensor, sides: Tensor, colours: Tensor, size: tuple[int, int]) -> Tensor:
        """Return a dash in each cell, the darker the longer."""
        return _horizontal_lines(centres, sides * (1 - colours.mean(1, keepdim=True)))


def _random_walks(count: int, stride: float, rng: torch.Generator) -> Tensor:
    """Return lines (count, 8) from anywhere on the sheet, each point up to ``stride`` from the last in x and y."""
    first = 1.8 * torch.rand(count, 1, 2, generator=rng) - 0.9
    strides = stride * (2 * torch.rand(count, 3, 2, generator=rng) - 1)
    return torch.cat([first, first + strides.cumsum(1)], 1).flatten(1)


def _horizontal_lines(centres: Tensor, sides: Tensor) -> Tensor:
    """Return lines (N, 8) through cells."""
    along = torch.tensor([-0.5, -0.17, 0.17, 0.5])[:, None] * torch.tensor([1.0, 0.0])
    return (centres[:, None] + along * sides[:, None]).flatten(1)
