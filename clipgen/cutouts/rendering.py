"""Cutouts rendered from sampled parameters: coordinates and colours are transformed by one matrix per cutout."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from clipgen.device import constant, copy_to

CORNERS = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


def affine(x_side: Tensor, y_side: Tensor, mirror: Tensor, angle: Tensor, shear: Tensor, offset: Tensor) -> Tensor:
    """Return matrices (n, 3, 3) from coordinates in a cutout to those in the picture, both in [-1, 1].

    ``x_side`` and ``y_side`` are the cutout's sides as shares of the picture's, ``mirror`` is 1 or -1, angles are in
    degrees, ``offset`` (n, 2) is the cutout's centre.
    """
    radians, slant = angle.deg2rad(), shear.deg2rad().tan()
    cos, sin, zero, one = radians.cos(), radians.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    rows = [
        [x_side * cos * mirror, x_side * (cos * mirror * slant - sin), offset[:, 0]],
        [y_side * sin * mirror, y_side * (sin * mirror * slant + cos), offset[:, 1]],
        [zero, zero, one],
    ]
    return torch.stack([torch.stack(row, 1) for row in rows], 1)


def perspective(inwards: Tensor) -> Tensor:
    """Return matrices (n, 3, 3) that draw the corners inwards by (n, 4, 2), shares of half the side.

    Corners go clockwise from the top left. The eight equations of the projection are solved.
    """
    x, y = (CORNERS * (1 - inwards)).unbind(-1)  # in the cutout, of the picture's corner (u, v)
    u, v = CORNERS.expand_as(inwards).unbind(-1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    x_equations = torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], -1)
    y_equations = torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], -1)
    solved = torch.linalg.solve(torch.cat([x_equations, y_equations], 1), torch.cat([u, v], 1))
    return torch.cat([solved, torch.ones(len(solved), 1)], 1).view(-1, 3, 3)


def pooling_levels(warp: Tensor, size: int, shape: Sequence[int]) -> Tensor:
    """Return the level (n,) to which a picture (H, W) is pooled before each cutout is sampled, against aliasing.

    A level is ``2 * halvings + mean``. The picture is halved until neighbouring pixels in the cutout's centre are less
    than 3 of its pixels apart; if they are still more than 1.5 apart, ``mean`` is 1 and 2 x 2 pixels are averaged.
    """
    slope = warp[:, :2, :2] - warp[:, :2, 2:] * warp[:, 2:, :2]  # of the projection, where its divisor is 1
    steps = (slope * torch.tensor([[shape[1]], [shape[0]]]) / size).norm(dim=1).amax(1)
    halvings = (steps / 3).log2().floor().add(1).clamp(min=0).long()
    return 2 * halvings + (steps / 2**halvings > 1.5)


def sampling_coords(warp: Tensor, size: int) -> Tensor:
    """Return the coordinates (n, size, size, 2) of the cutouts' pixels in the picture, for ``grid_sample``."""
    coords = torch.einsum("nij,hwj->nhwi", warp, _pixel_coords(size, warp.dtype, warp.device))
    return coords[..., :2] / coords[..., 2:].clamp(min=1e-3)  # points behind the camera are far away


@lru_cache(maxsize=4)
def _pixel_coords(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the coordinates x, y and 1 (size, size, 3) of the centres of pixels."""
    axis = (torch.arange(size, dtype=dtype, device=device) * 2 + 1) / size - 1
    x, y = axis.expand(size, size), axis[:, None].expand(size, size)
    return torch.stack([x, y, torch.ones_like(x)], -1)


def sample_grid(images: Tensor, grid: Tensor, padding: str) -> Tensor:
    """Sample images (B, 3, H, W) at a grid (B·n, size, size, 2); return (B·n, 3, size, size).

    ``grid_sample`` needs an image for each grid, and its backward pass a gradient for each. So all cutouts of an image
    are one tall grid; on a CPU it is cut into pieces, because threads share out images.
    """
    count, size = len(images), grid.shape[1]
    height = len(grid) // count * size
    threads = torch.get_num_threads() if images.device.type == "cpu" else 1
    pieces = next(count for count in range(threads, 0, -1) if height % count == 0)
    tall = grid.reshape(count * pieces, height // pieces, size, 2)
    images = images.repeat_interleave(pieces, 0) if pieces > 1 else images
    sampled = F.grid_sample(images, tall, padding_mode=padding, align_corners=False)
    channels = sampled.unflatten(0, (count, pieces)).transpose(1, 2).flatten(2, 3)  # (B, 3, n·size, size)
    return channels.unflatten(2, (-1, size)).transpose(1, 2).flatten(0, 1)


def wrap(images: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Return images with a circular border of one pixel, and the grid wrapped into their coordinates."""
    sides = constant((images.shape[-1], images.shape[-2]), grid.device)
    return F.pad(images, (1, 1, 1, 1), "circular"), ((grid + 1).remainder(2) - 1) * (sides / (sides + 2))


def colour_matrix(brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """Return matrices (n, 3, 4) from (red, green, blue, 1) to new colours.

    ``brightness`` is added; ``contrast`` and ``saturation`` are factors; ``hue`` rotates about the grey axis, as a
    share of a full turn.
    """
    angle = 2 * math.pi * hue[:, None, None]
    grey, unit = torch.full((3, 3), 1 / 3), torch.eye(3)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    rotation = angle.cos() * (unit - grey) + angle.sin() * cross  # of the difference from grey (Rodrigues)
    matrix = contrast[:, None, None] * (grey + saturation[:, None, None] * rotation)
    return torch.cat([matrix, (0.5 * (1 - contrast) + brightness)[:, None, None].expand(-1, 3, 1)], -1)


@dataclass(frozen=True)
class CutoutParams:
    """Sampled parameters of ``count`` cutouts of each picture.

    They are sampled before the rendering, so that cutouts rendered in several passes are the same.
    """

    count: int
    size: int
    warp: Tensor  # (B·count, 3, 3) from coordinates in the cutout to those in the picture
    pooling_levels: Tensor  # (B·count,) how the picture is pooled for each, see the function of that name
    padding: str = "border"  # of grid_sample, or wrap
    lift: float = 0.0  # black becomes this grey, and white stays; the padding is not lifted
    padding_grey: float = 0.0  # where ``padding`` is zeros
    colour_matrix: Tensor | None = None  # (B·count, 3, 4) from colour to colour
    noise: Tensor | None = None  # (B·count, 3, size, size)
    hole: Tensor | None = None  # (B·count, 4) x, y, width, height as shares
    blur: Tensor | None = None  # (B·count,) 0 or 1
    patch_indices: Tensor | None = None  # (B·count, k) of the patches that a ViT encodes; None: all
    levels: bool = False  # whether a picture's cutouts are stretched together to the whole range

    def render(self, images: Tensor, part: slice = slice(None)) -> Tensor:
        """Render cutouts ``part`` of images (B, 3, H, W) in [0, 1], in one differentiable resampling.

        Returns (B·n, 3, size, size), the cutouts of an image adjacent.
        """
        if self.lift:
            images = self.lift + (1 - self.lift) * images

        def select(tensor: Tensor) -> Tensor:
            return self._select(tensor, part, images.device)

        cutouts = self._sample(images, part)
        if self.colour_matrix is not None:
            matrix = select(self.colour_matrix)
            cutouts = torch.einsum("nij,njhw->nihw", matrix[:, :, :3], cutouts) + matrix[:, :, 3, None, None]
        if self.blur is not None:
            soft = F.avg_pool2d(cutouts, 3, 1, 1, count_include_pad=False)
            cutouts = cutouts.lerp(soft, select(self.blur)[:, None, None, None])
        if self.hole is not None:
            axis = torch.linspace(0, 1, self.size, device=images.device)
            x, y, w, h = (select(self.hole)[:, i, None] for i in range(4))
            inside = ((axis >= y) & (axis < y + h))[:, :, None] & ((axis >= x) & (axis < x + w))[:, None]
            cutouts = cutouts.masked_fill(inside[:, None], 0.0)
        if self.noise is not None:
            cutouts = cutouts + select(self.noise)
        if self.levels:  # the range is that of the cutouts rendered together: each pass has its own
            batch = cutouts.unflatten(0, (len(images), -1))
            least, most = batch.amin((1, 2, 3, 4), keepdim=True), batch.amax((1, 2, 3, 4), keepdim=True)
            cutouts = ((batch - least) / (most - least).clamp(min=1e-6)).flatten(0, 1)
        return cutouts

    def _sample(self, images: Tensor, part: slice) -> Tensor:
        """Sample cutouts ``part`` of images (B, 3, H, W) as (B·n, 3, size, size), without other augmentations."""
        cutouts = []
        for image, warp, pool_levels in zip(
            images.split(1), self.warp.split(self.count), self.pooling_levels.split(self.count)
        ):
            warp, pool_levels = warp[part], pool_levels[part]
            for level in pool_levels.unique_consecutive().tolist():
                cutouts.append(self._sample_pooled(image, warp[pool_levels == level], level))
        return cutouts[0] if len(cutouts) == 1 else torch.cat(cutouts)

    def _sample_pooled(self, image: Tensor, warp: Tensor, pooling_level: int) -> Tensor:
        """Sample the cutouts of ``warp`` (n, 3, 3) from an image (1, 3, H, W), pooled first against aliasing."""
        halvings, averaged = divmod(pooling_level, 2)
        for _ in range(halvings):
            image = F.avg_pool2d(image, _pool_sides(image))
        coords = sampling_coords(copy_to(warp, image.device), self.size)
        if self.padding == "wrap":
            image, coords = wrap(image, coords)
        if averaged:  # the mean of four pixels lies between them
            height, width = image.shape[-2:]
            coords = coords * constant((width / max(1, width - 1), height / max(1, height - 1)), coords.device)
            image = F.avg_pool2d(image, _pool_sides(image), 1)
        padding = "border" if self.padding == "wrap" else self.padding
        if not self.padding_grey:
            return sample_grid(image, coords, padding)
        return sample_grid(image - self.padding_grey, coords, padding) + self.padding_grey

    def select_patches(self, part: slice, device: torch.device) -> Tensor | None:
        """Return the patch indices of cutouts ``part``, as ``Perceptor.encode_image`` takes them."""
        return None if self.patch_indices is None else self._select(self.patch_indices, part, device)

    def _select(self, tensor: Tensor, part: slice, device: torch.device) -> Tensor:
        return copy_to(tensor.unflatten(0, (-1, self.count))[:, part].flatten(0, 1), device)


def _pool_sides(image: Tensor) -> list[int]:
    """Return the sides (height, width) of the squares that are averaged, 1 along a side of one pixel."""
    return [min(2, side) for side in image.shape[-2:]]
