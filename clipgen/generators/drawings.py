"""Latents that are drawings: strokes of a brush, lines of one pen (Frans et al. 2021, "CLIPDraw"), and filled shapes.

Coordinates are shares of the sheet, so that a drawing can be rendered at any size.
"""

import math
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from clipgen.device import constant
from clipgen.export.formats import Drawing, Mark, Point
from clipgen.generators import Entry, Generator, Randomness
from clipgen.generators.rasteriser import Marks, rasterise

SIZE_BITS = 12  # that store a side of the sheet, less one
CURVE_SEGMENTS = 16  # of the polyline of a curve
COORD_LIMIT = 1.2  # how far from the middle points of a curve may lie; the sheet ends at 1
WIDTH_UNIT = 0.1  # what 1 in a latent stands for as a width, as a share of the sheet's shorter side
OUTLINE_SEGMENTS = 24  # of a shape's outline; a multiple of the corners of every polygon
CIRCLE = 24  # corners that stand for a circle
KINDS = (CIRCLE, 3, 4)  # corners of shapes, in turn


class Vectors(Generator):
    """A latent (B, K + N, C): K rows with the size of the sheet, then one for each mark, the lowest first.

    The sheet's size is stored in the signs of the first K rows, one bit per number. No image depends on these numbers,
    so an optimiser may shrink them but does not flip their signs, which are exact in float16. The first numbers of a
    mark are the x and y of its ``corners``, from -1 to 1 across the sheet; ``low`` and ``high`` bound all C numbers,
    which are scaled to suit one learning rate.
    """

    is_vector = True
    lr = 0.1
    corners: int
    length_columns = slice(0)  # which numbers of a mark are lengths
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __init__(self, name: str, entry: Entry, device: torch.device):
        self.name, self.native_size, self.device = name, entry.native_size, device
        self.count = entry.config["marks"]
        self.header = _header_rows(len(self.low))

    def raster_marks(self, rows: Tensor, size: tuple[int, int]) -> Marks:
        """Return the marks of rows (N, C) on a sheet of (H, W) as the rasteriser takes them."""
        raise NotImplementedError

    def export_mark(self, number: int, row: list[float], points: tuple[Point, ...], short_side: float) -> Mark:
        """Return the mark of one row as files have it; ``points`` and the sheet's shorter side are in pixels."""
        raise NotImplementedError

    def random_rows(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        """Return random marks (N, C)."""
        raise NotImplementedError

    def mosaic_rows(self, centres: Tensor, sides: Tensor, colours: Tensor, size: tuple[int, int]) -> Tensor:
        """Return marks (N, C) that fill cells of the sheet, from centres (N, 2), sides (N, 2) and colours (N, 3)."""
        raise NotImplementedError

    # --- the interface of a generator -----------------------------------------------------------------

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        return 1, self.header + self.count, len(self.low)

    def start(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        """Return short marks anywhere, each in a colour of its own (Frans et al. 2021)."""
        return self._to_latent(size, self.random_rows(size, rng))

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """Return a mosaic of (1, 3, H, W): a mark for each cell of a grid, in the cell's mean colour."""
        size = image.shape[-2], image.shape[-1]
        rows = max(1, min(self.count, round(math.sqrt(self.count * size[0] / size[1]))))
        columns = [len(part) for part in torch.arange(self.count).tensor_split(rows)]
        colours = [F.adaptive_avg_pool2d(image[0], (rows, n))[:, i].T for i, n in enumerate(columns)]
        counts = torch.tensor(columns)
        x = torch.cat([(torch.arange(n) + 0.5) / n for n in columns])
        y = (torch.arange(rows) + 0.5).repeat_interleave(counts) / rows
        sides = torch.stack([1 / counts.repeat_interleave(counts), torch.full_like(y, 1 / rows)], 1)
        centres = torch.stack([x, y], 1) * 2 - 1
        return self._to_latent(size, self.mosaic_rows(centres, sides * 2, torch.cat(colours).cpu(), size))

    def image(self, latent: Tensor, progress: float = 1.0, rng: Randomness | None = None) -> Tensor:
        size = sheet_size(latent)
        return torch.stack([rasterise(self.raster_marks(rows, size), size) for rows in latent[:, self.header :]])

    def project_(self, latent: Tensor) -> None:
        """Clamp every number to its bounds, in place, and restore the size of the sheet."""
        low, high = (constant(bound, latent.device) for bound in (self.low, self.high))
        latent.data[:, self.header :].clamp_(low, high)
        size_rows = latent.data[:, : self.header]
        size_rows.copy_(2.0 * (size_rows > 0) - 1)

    def unpack(self, saved: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the latent on a sheet of any (H, W)."""
        return self._to_latent(size, super().unpack(saved, size)[0, self.header :])

    # --- of drawings alone ----------------------------------------------------------------------------

    def transform(self, latents: Tensor, inverse_affine: Tensor, rng: torch.Generator) -> Tensor:
        """Return latents as a camera sees them after a move with this ``Camera.inverse_affine``."""
        size, coordinates = sheet_size(latents), 2 * self.corners
        rows, rotation = latents[:, self.header :].clone(), inverse_affine[:, :2].to(latents)
        points = rows[..., :coordinates].unflatten(-1, (-1, 2)) - inverse_affine[:, 2].to(latents)
        rows[..., :coordinates] = (points @ rotation.inverse().T).flatten(-2)
        rows[..., self.length_columns] /= rotation.det().sqrt()
        # A mark that leaves the sheet in all of them restarts at random, with the least opacity if it has one.
        fresh = self.random_rows(size, rng).to(rows)
        fresh[:, coordinates + 3 : coordinates + 4] = 0.0
        out_of_sight = torch.stack([self._out_of_sight(each, size) for each in rows]).all(0)
        latents = torch.cat([latents[:, : self.header], torch.where(out_of_sight[:, None], fresh, rows)], 1)
        self.project_(latents)
        return latents

    def _out_of_sight(self, rows: Tensor, size: tuple[int, int]) -> Tensor:
        """Return a mask (N,) of the marks, rows (N, C), that are entirely outside the sheet."""
        lines, radius, *_ = self.raster_marks(rows, size)
        margin, sides = radius[:, None, None], torch.tensor([size[1], size[0]]).to(lines)
        return ((lines + margin < 0).all(1) | (lines - margin > sides).all(1)).any(1)

    def drawing(self, latent: Tensor) -> Drawing:
        """Return the marks of a latent of one image."""
        height, width = sheet_size(latent)
        rows = latent[0, self.header :].detach().double().cpu()
        marks = []
        for number, (row, points) in enumerate(zip(rows.tolist(), self.points(rows, (height, width)).tolist())):
            marks.append(self.export_mark(number, row, tuple(map(tuple, points)), min(height, width)))
        return Drawing((width, height), tuple(marks))

    def points(self, rows: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the corners (N, corners, 2) of rows (N, C) in pixels."""
        sides = constant((size[1], size[0]), rows.device).to(rows.dtype)
        return (rows[:, : 2 * self.corners].unflatten(1, (-1, 2)) + 1) / 2 * sides

    def _to_latent(self, size: tuple[int, int], rows: Tensor) -> Tensor:
        """Return the latent of marks (N, C) on a sheet of (H, W), within bounds."""
        latent = torch.cat([_size_rows(size, len(self.low)), rows.float().cpu()])[None].to(self.device)
        self.project_(latent)
        return latent


def sheet_size(latent: Tensor) -> tuple[int, int]:
    """Return the (H, W) of a latent's image."""
    bits = (latent[0].flatten()[: 2 * SIZE_BITS] > 0).long().tolist()
    height, width = (1 + int("".join(map(str, side)), 2) for side in (bits[:SIZE_BITS], bits[SIZE_BITS:]))
    return height, width


def _header_rows(columns: int) -> int:
    """Return how many rows of a latent hold the size of the sheet."""
    return -(-2 * SIZE_BITS // columns)


def _size_rows(size: tuple[int, int], columns: int) -> Tensor:
    """Return the rows (K, C) that hold an (H, W), a number for each bit."""
    bits = "".join(f"{side - 1:0{SIZE_BITS}b}" for side in size)
    padded = bits.ljust(_header_rows(columns) * columns, "0")
    return torch.tensor([2.0 * int(bit) - 1 for bit in padded]).view(-1, columns)


def to_bytes(colour: list[float]) -> tuple[int, int, int]:
    """Return a colour in [0, 1] as whole numbers up to 255."""
    red, green, blue = (round(255 * min(1.0, max(0.0, part))) for part in colour)
    return red, green, blue


# --- cubic Bezier curves on white paper -------------------------------------------------------------------


@lru_cache
def bezier(segments: int, device: torch.device) -> Tensor:
    """Return the weights (segments + 1, 4) of the four control points along the curve."""
    t = torch.linspace(0, 1, segments + 1)
    return torch.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], 1).to(device)


class Strokes(Vectors):
    """A row: four points, red, green, blue, opacity, and the width in tenths of the sheet's shorter side."""

    corners = 4
    length_columns = slice(12, 13)
    low = (*8 * (-COORD_LIMIT,), 0.0, 0.0, 0.0, 0.05, 0.1)
    high = (*8 * (COORD_LIMIT,), 1.0, 1.0, 1.0, 1.0, 2.0)

    def raster_marks(self, rows: Tensor, size: tuple[int, int]) -> Marks:
        lines = bezier(CURVE_SEGMENTS, rows.device) @ self.points(rows, size)
        return Marks(lines, rows[:, 12] * (WIDTH_UNIT / 2 * min(size)), rows[:, 8:12])

    def export_mark(self, number: int, row: list[float], points: tuple[Point, ...], short_side: float) -> Mark:
        return Mark("stroke", points, to_bytes(row[8:11]), row[11], row[12] * WIDTH_UNIT * short_side)

    def random_rows(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        paint = torch.rand(self.count, 4, generator=rng)
        paint[:, 3] = 0.5 + 0.5 * paint[:, 3]
        width = 0.2 + 0.6 * torch.rand(self.count, 1, generator=rng)
        return torch.cat([_random_walks(self.count, 0.25, rng), paint, width], 1)

    def mosaic_rows(self, centres: Tensor, sides: Tensor, colours: Tensor, size: tuple[int, int]) -> Tensor:
        width = sides[:, 1:] / 2 * size[0] / (WIDTH_UNIT * min(size))
        lines = _horizontal_lines(centres, sides)
        return torch.cat([lines, colours, torch.ones_like(width), width.clamp(max=self.high[12])], 1)


class Pen(Vectors):
    """A row: four points. All lines are black and of one width, as a plotter draws them."""

    corners = 4
    low, high = 8 * (-COORD_LIMIT,), 8 * (COORD_LIMIT,)
    width = 0.013  # share of the sheet's shorter side

    def raster_marks(self, rows: Tensor, size: tuple[int, int]) -> Marks:
        lines = bezier(CURVE_SEGMENTS, rows.device) @ self.points(rows, size)
        black = constant((0.0, 0.0, 0.0, 1.0), rows.device).expand(len(rows), 4)
        return Marks(lines, rows.new_full((len(rows),), self.width / 2 * min(size)), black)

    def export_mark(self, number: int, row: list[float], points: tuple[Point, ...], short_side: float) -> Mark:
        return Mark("stroke", points, width=self.width * short_side)

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


# --- affine images of a circle and two regular polygons, filled --------------------------------------------


def outline(corners: int) -> Tensor:
    """Return a regular polygon (OUTLINE_SEGMENTS + 1, 2) in the unit circle, evenly along its edges, closed."""
    angle = 2 * math.pi * (torch.arange(corners + 1) + 0.5) / corners
    points = torch.stack([angle.sin(), angle.cos()], 1)
    fraction = torch.arange(OUTLINE_SEGMENTS // corners)[:, None] / (OUTLINE_SEGMENTS // corners)
    edges = torch.cat([begin.lerp(end, fraction) for begin, end in pairwise(points)])
    return torch.cat([edges, points[-1:]])


@lru_cache
def _outlines(device: torch.device) -> Tensor:
    """Return the outlines (3, OUTLINE_SEGMENTS + 1, 2) of KINDS."""
    return torch.stack([outline(corners) for corners in KINDS]).to(device)


class Shapes(Vectors):
    """A row: the centre, the ends of two half axes, red, green, blue, opacity."""

    corners = 3
    low = (*6 * (-1.5,), 0.0, 0.0, 0.0, 0.05)
    high = (*6 * (1.5,), 1.0, 1.0, 1.0, 1.0)

    def raster_marks(self, rows: Tensor, size: tuple[int, int]) -> Marks:
        centre, *ends = self.points(rows, size).unbind(1)
        axes = torch.stack([end - centre for end in ends], 1)
        outlines = _outlines(rows.device)
        kind = torch.arange(len(rows), device=rows.device) % len(KINDS)
        return Marks(centre[:, None] + outlines[kind] @ axes, rows.new_zeros(len(rows)), rows[:, 6:10], True)

    def export_mark(self, number: int, row: list[float], points: tuple[Point, ...], short_side: float) -> Mark:
        paint = to_bytes(row[6:9]), row[9]
        corners = KINDS[number % len(KINDS)]
        if corners == CIRCLE:
            return Mark("ellipse", points, *paint)
        centre, *ends = (torch.tensor(point, dtype=torch.double) for point in points)
        polygon = outline(corners)[: -1 : OUTLINE_SEGMENTS // corners].double() @ (torch.stack(ends) - centre) + centre
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
