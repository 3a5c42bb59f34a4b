"""Latents that are drawings: what strokes and shapes share.

Coordinates are shares of the sheet, so that a drawing can be rendered at any size.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from clipgen.device import constant
from clipgen.export.formats import Drawing, Mark, Point
from clipgen.generators.base import Entry, Generator, Randomness
from clipgen.generators.rasteriser import Marks, rasterise

BITS = 12  # of a side less one


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
    lengths = slice(0)  # which numbers of a mark are lengths
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __init__(self, name: str, entry: Entry, device: torch.device):
        self.name, self.native_size, self.device = name, entry.native_size, device
        self.count = entry.config["marks"]
        self.header = _header_rows(len(self.low))

    def marks(self, rows: Tensor, size: tuple[int, int]) -> Marks:
        """Return what rows (N, C) draw on a sheet of (H, W), for the rasteriser."""
        raise NotImplementedError

    def mark(self, number: int, row: list[float], points: tuple[Point, ...], short: float) -> Mark:
        """Return what one row draws, for a file; ``points`` and the sheet's shorter side are in pixels."""
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
        return torch.stack([rasterise(self.marks(rows, size), size) for rows in latent[:, self.header :]])

    def distance(self, latent: Tensor, other: Tensor) -> Tensor:
        """Return the mean squared difference of the images, divided by that of unrelated ones (deviation 1/4)."""
        return (self.image(latent) - self.image(other)).square().mean() / (2 * 0.25**2)

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
        rows[..., self.lengths] /= rotation.det().sqrt()
        fresh = self.random_rows(size, rng).to(rows)
        fresh[:, coordinates + 3 : coordinates + 4] = 0.0
        # A mark that leaves the sheet in all of them restarts at random, as faint as can be.
        out_of_sight = torch.stack([self._out_of_sight(each, size) for each in rows]).all(0)
        latents = torch.cat([latents[:, : self.header], torch.where(out_of_sight[:, None], fresh, rows)], 1)
        self.project_(latents)
        return latents

    def _out_of_sight(self, rows: Tensor, size: tuple[int, int]) -> Tensor:
        """Return a mask (N,) of the marks, rows (N, C), that are entirely outside the sheet."""
        lines, radius, *_ = self.marks(rows, size)
        margin, sides = radius[:, None, None], torch.tensor([size[1], size[0]]).to(lines)
        return ((lines + margin < 0).all(1) | (lines - margin > sides).all(1)).any(1)

    def drawing(self, latent: Tensor) -> Drawing:
        """Return the marks of a latent of one image."""
        height, width = sheet_size(latent)
        rows = latent[0, self.header :].detach().double().cpu()
        marks = []
        for number, (row, points) in enumerate(zip(rows.tolist(), self.points(rows, (height, width)).tolist())):
            marks.append(self.mark(number, row, tuple(map(tuple, points)), min(height, width)))
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
    bits = (latent[0].flatten()[: 2 * BITS] > 0).long().tolist()
    height, width = (1 + int("".join(map(str, side)), 2) for side in (bits[:BITS], bits[BITS:]))
    return height, width


def _header_rows(columns: int) -> int:
    """Return how many rows of a latent hold the size of the sheet."""
    return -(-2 * BITS // columns)


def _size_rows(size: tuple[int, int], columns: int) -> Tensor:
    """Return the rows (K, C) that hold an (H, W), a number for each bit."""
    bits = "".join(f"{side - 1:0{BITS}b}" for side in size)
    padded = bits.ljust(_header_rows(columns) * columns, "0")
    return torch.tensor([2.0 * int(bit) - 1 for bit in padded]).view(-1, columns)


def to_bytes(colour: list[float]) -> tuple[int, int, int]:
    """Return a colour in [0, 1] as whole numbers up to 255."""
    red, green, blue = (round(255 * min(1.0, max(0.0, part))) for part in colour)
    return red, green, blue
