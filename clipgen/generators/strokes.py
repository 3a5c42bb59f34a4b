"""Strokes of a brush, and lines of one pen (Frans et al. 2021, "CLIPDraw"): cubic Bezier curves on white paper."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipgen.generators.rasteriser import Marks
from clipgen.generators.vectors import Vectors, to_bytes
from clipgen.images.drawing import Mark

if TYPE_CHECKING:
    from clipgen.generators.catalogue import Entry

SEGMENTS = 16  # of the polyline that stands for a curve
OUT = 1.2  # how far beyond the sheet points may lie
WIDTH = 0.1  # the width that a 1 in a latent stands for, as a share of the shorter side


def bezier(segments: int) -> Tensor:
    """(segments + 1, 4): how much each of four control points counts, along the curve."""
    t = torch.linspace(0, 1, segments + 1)
    return torch.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], 1)


class Strokes(Vectors):
    """A row: four points, red, green, blue, opacity, and the width in tenths of the sheet's shorter side."""

    corners = 4
    lengths = slice(12, 13)
    low = (*8 * (-OUT,), 0.0, 0.0, 0.0, 0.05, 0.1)
    high = (*8 * (OUT,), 1.0, 1.0, 1.0, 1.0, 2.0)

    def marks(self, rows: Tensor, size: tuple[int, int]) -> Marks:
        lines = bezier(SEGMENTS).to(rows) @ self.places(rows, size)
        return Marks(lines, rows[:, 12] * (WIDTH / 2 * min(size)), rows[:, 8:12])

    def mark(self, number: int, row: list[float], places: tuple[tuple[float, float], ...], short: float) -> Mark:
        return Mark("stroke", places, to_bytes(row[8:11]), row[11], row[12] * WIDTH * short)

    def scattered(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        colour = torch.rand(self.count, 4, generator=rng)
        colour[:, 3] = 0.5 + 0.5 * colour[:, 3]
        width = 0.2 + 0.6 * torch.rand(self.count, 1, generator=rng)
        return torch.cat([_wandering(self.count, 0.25, rng), colour, width], 1)

    def laid(self, places: Tensor, sides: Tensor, colours: Tensor, size: tuple[int, int]) -> Tensor:
        width = sides[:, 1:] / 2 * size[0] / (WIDTH * min(size))
        return torch.cat([_level(places, sides), colours, torch.ones_like(width), width.clamp(max=self.high[12])], 1)


class Pen(Vectors):
    """A row: four points. All lines are black and of one width, as a plotter draws them."""

    corners = 4
    low, high = 8 * (-OUT,), 8 * (OUT,)
    width = 0.013  # of the shorter side

    def marks(self, rows: Tensor, size: tuple[int, int]) -> Marks:
        lines = bezier(SEGMENTS).to(rows) @ self.places(rows, size)
        black = torch.tensor([0.0, 0.0, 0.0, 1.0]).to(rows).expand(len(rows), 4)
        return Marks(lines, rows.new_full((len(rows),), self.width / 2 * min(size)), black)

    def mark(self, number: int, row: list[float], places: tuple[tuple[float, float], ...], short: float) -> Mark:
        return Mark("stroke", places, width=self.width * short)

    def scattered(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        return _wandering(self.count, 0.25, rng)

    def laid(self, places: Tensor, sides: Tensor, colours: Tensor, size: tuple[int, int]) -> Tensor:
        """A dash in each cell, the darker the longer."""
        return _level(places, sides * (1 - colours.mean(1, keepdim=True)))


def _wandering(count: int, pace: float, rng: torch.Generator) -> Tensor:
    """(count, 8): lines from anywhere on the sheet, whose next points are up to so far away in x and y."""
    first = 1.8 * torch.rand(count, 1, 2, generator=rng) - 0.9
    paces = pace * (2 * torch.rand(count, 3, 2, generator=rng) - 1)
    return torch.cat([first, first + paces.cumsum(1)], 1).flatten(1)


def _level(places: Tensor, sides: Tensor) -> Tensor:
    """(N, 8): straight lines from left to right through cells."""
    along = torch.tensor([-0.5, -0.17, 0.17, 0.5])[:, None] * torch.tensor([1.0, 0.0])
    return (places[:, None] + along * sides[:, None]).flatten(1)


def load(name: str, entry: Entry, device: torch.device) -> Strokes:
    """Needs no files. ``entry.config``: how many ``marks``."""
    return Strokes(name, entry.side, device, entry.config["marks"])


def load_pen(name: str, entry: Entry, device: torch.device) -> Pen:
    """Needs no files. ``entry.config``: how many ``marks``."""
    return Pen(name, entry.side, device, entry.config["marks"])
