"""Latents that say what to draw: what strokes and shapes share.

Places are shares of the sheet, so that a drawing that was found small can be drawn large.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from clipgen.generators.continuous import Continuous
from clipgen.generators.protocol import Randomness, unpacked
from clipgen.generators.rasteriser import Marks, rasterise
from clipgen.images.drawing import Drawing, Mark

BITS = 12  # of a side less one


class Vectors(Continuous):
    """A latent (B, K + N, C): K rows that say how large the sheet is, then one for each mark, the lowest first.

    A sheet's sides are in the signs of numbers, for no picture depends on these: whatever an optimiser decays, they
    stay, and are exact in 16 bits. The first numbers of a mark are the x and y of its ``corners`` points, from -1 to 1
    across the sheet; ``low`` and ``high`` are the bounds of all C numbers. All are scaled so that one learning rate
    suits them.
    """

    stride = 1
    lr = 0.1
    corners: int
    lengths = slice(0)  # which numbers of a mark are lengths
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __init__(self, name: str, side: int, device: torch.device, count: int):
        self.name, self.side, self.device, self.count = name, side, device, count
        self.before = _sheet_rows(len(self.low))  # the first mark

    def marks(self, rows: Tensor, size: tuple[int, int]) -> Marks:
        """What rows (N, C) draw on a sheet of (H, W)."""
        raise NotImplementedError

    def mark(self, number: int, row: list[float], places: tuple[tuple[float, float], ...], short: float) -> Mark:
        """The same of one row; ``places``: its points in pixels, ``short``: the shorter side."""
        raise NotImplementedError

    def scattered(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        """(N, C): marks to begin with."""
        raise NotImplementedError

    def laid(self, places: Tensor, sides: Tensor, colours: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, C): marks that cover cells of the sheet, from their middles (N, 2), sides (N, 2) and colours (N, 3)."""
        raise NotImplementedError

    # --- the contract ---------------------------------------------------------------------------------

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        return 1, self.before + self.count, len(self.low)

    def start(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        """A few short marks anywhere, each in a colour of its own (Frans et al. 2021)."""
        return self._on(size, self.scattered(size, rng))

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """A mosaic of an image (1, 3, H, W): a mark for each cell of a grid, in the cell's mean colour."""
        size = image.shape[-2], image.shape[-1]
        rows = max(1, min(self.count, round(math.sqrt(self.count * size[0] / size[1]))))
        each = [len(part) for part in torch.arange(self.count).tensor_split(rows)]
        colours = torch.cat([F.adaptive_avg_pool2d(image[0], (rows, n))[:, i].T for i, n in enumerate(each)])
        many = torch.tensor(each).repeat_interleave(torch.tensor(each))
        x = torch.cat([(torch.arange(n) + 0.5) / n for n in each])
        y = (torch.arange(rows) + 0.5).repeat_interleave(torch.tensor(each)) / rows
        sides = torch.stack([1 / many, torch.full_like(y, 1 / rows)], 1)
        return self._on(size, self.laid(torch.stack([x, y], 1) * 2 - 1, sides * 2, colours.cpu(), size))

    def image(self, latent: Tensor, progress: float = 1.0, rng: Randomness | None = None) -> Tensor:
        """A latent to (B, 3, H, W) in [0, 1]."""
        size = sheet(latent)
        return torch.stack([rasterise(self.marks(rows, size), size) for rows in latent[:, self.before :]])

    def distance(self, latent: Tensor, other: Tensor) -> Tensor:
        """Mean squared difference of the pictures, in that of two whose pixels deviate by a quarter."""
        return (self.image(latent) - self.image(other)).square().mean() / (2 * 0.25**2)

    def project_(self, latent: Tensor) -> None:
        """Clamp every number to its bounds; the sheet stays as large as it is."""
        low, high = (torch.tensor(bound, device=latent.device) for bound in (self.low, self.high))
        latent.data[:, self.before :].clamp_(low, high)
        latent.data[:, : self.before] = _written(sheet(latent), len(self.low)).to(latent)

    def unpack(self, saved: Tensor, size: tuple[int, int]) -> Tensor:
        """What ``pack`` kept, as float32, on a sheet of this size: vectors fit any.

        Raises ClipgenError for another number of marks, and for what is not finite.
        """
        return self._on(size, unpacked(self.name, saved, self.shape(size))[0, self.before :])

    def moved(self, latents: Tensor, origin: Tensor, rng: torch.Generator) -> Tensor:
        """Latents as a camera sees them after its move; ``origin``: see ``Camera.origin``.

        A mark that all of them lose from sight comes back anywhere, as faint as can be.
        """
        size, coordinates = sheet(latents), 2 * self.corners
        rows, turn = latents[:, self.before :].clone(), origin[:, :2].to(latents)
        points = rows[..., :coordinates].unflatten(-1, (-1, 2)) - origin[:, 2].to(latents)
        rows[..., :coordinates] = (points @ turn.inverse().T).flatten(-2)
        rows[..., self.lengths] /= turn.det().sqrt()
        new = self.scattered(size, rng).to(rows)
        new[:, coordinates + 3 : coordinates + 4] = 0.0
        gone = torch.stack([self._out_of_sight(each, size) for each in rows]).all(0)
        latents = torch.cat([latents[:, : self.before], torch.where(gone[:, None], new, rows)], 1)
        self.project_(latents)
        return latents

    def _out_of_sight(self, rows: Tensor, size: tuple[int, int]) -> Tensor:
        """(N,): which of some rows (N, C) lie on one side of the sheet."""
        lines, radius, *_ = self.marks(rows, size)
        around, sides = radius[:, None, None], torch.tensor([size[1], size[0]]).to(lines)
        return ((lines + around < 0).all(1) | (lines - around > sides).all(1)).any(1)

    def drawing(self, latent: Tensor) -> Drawing:
        """What a latent of one picture draws."""
        height, width = sheet(latent)
        rows = latent[0, self.before :].detach().double().cpu()
        places = self.places(rows, (height, width)).tolist()
        marks = (
            self.mark(i, row, tuple(map(tuple, points)), min(height, width))
            for i, (row, points) in enumerate(zip(rows.tolist(), places, strict=True))
        )
        return Drawing((width, height), tuple(marks))

    def places(self, rows: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, corners, 2): where the points of rows (N, C) lie, in pixels."""
        sides = torch.tensor([size[1], size[0]], device=rows.device, dtype=rows.dtype)
        return (rows[:, : 2 * self.corners].unflatten(1, (-1, 2)) + 1) / 2 * sides

    def _on(self, size: tuple[int, int], rows: Tensor) -> Tensor:
        """The latent of marks (N, C) on a sheet of (H, W), within bounds."""
        latent = torch.cat([_written(size, len(self.low)), rows.float().cpu()])[None].to(self.device)
        self.project_(latent)
        return latent


def sheet(latent: Tensor) -> tuple[int, int]:
    """The (H, W) that a latent's picture has."""
    bits = (latent[0].flatten()[: 2 * BITS] > 0).long().tolist()
    height, width = (1 + int("".join(map(str, side)), 2) for side in (bits[:BITS], bits[BITS:]))
    return height, width


def _sheet_rows(columns: int) -> int:
    """How many rows of a latent say how large the sheet is."""
    return -(-2 * BITS // columns)


def _written(size: tuple[int, int], columns: int) -> Tensor:
    """(rows, C): a sheet's (H, W), a number for each bit."""
    bits = "".join(f"{side - 1:0{BITS}b}" for side in size)
    padded = bits.ljust(_sheet_rows(columns) * columns, "0")
    return torch.tensor([2.0 * int(bit) - 1 for bit in padded]).view(-1, columns)


def to_bytes(colour: list[float]) -> tuple[int, int, int]:
    """A colour in [0, 1] as whole numbers up to 255."""
    red, green, blue = (round(255 * min(1.0, max(0.0, part))) for part in colour)
    return red, green, blue
