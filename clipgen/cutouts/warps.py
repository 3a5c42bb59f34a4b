"""What moves places and colours, as matrices, one for each view."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

CORNERS = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


def affine(across: Tensor, down: Tensor, mirror: Tensor, turn: Tensor, shear: Tensor, move: Tensor) -> Tensor:
    """(n, 3, 3): from places in a view to places in the picture, both from -1 to 1.

    ``across``, ``down``: (n,) the view's sides as shares of the picture's; ``mirror``: 1, or -1 for left and right
    changed; ``turn``, ``shear``: degrees; ``move``: (n, 2) where its middle lies.
    """
    angle, slant = turn.deg2rad(), shear.deg2rad().tan()
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(turn), torch.ones_like(turn)
    rows = [
        [across * cos * mirror, across * (cos * mirror * slant - sin), move[:, 0]],
        [down * sin * mirror, down * (sin * mirror * slant + cos), move[:, 1]],
        [zero, zero, one],
    ]
    return torch.stack([torch.stack(row, 1) for row in rows], 1)


def perspective(inwards: Tensor) -> Tensor:
    """(n, 3, 3): the picture's corners are drawn towards the middle by ``inwards`` (n, 4, 2), shares of half the side.

    Corners go round from the one at the top left. Solves the eight equations of the plane that leans so.
    """
    x, y = (CORNERS * (1 - inwards)).unbind(-1)  # in the view, where the corner (u, v) of the picture shows
    u, v = CORNERS.expand_as(inwards).unbind(-1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    left = torch.cat(
        [
            torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], -1),
            torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], -1),
        ],
        1,
    )
    solved = torch.linalg.solve(left, torch.cat([u, v], 1))
    return torch.cat([solved, torch.ones(len(solved), 1)], 1).view(-1, 3, 3)


def reductions(warp: Tensor, size: int, shape: Sequence[int]) -> Tensor:
    """Return how a picture is made smaller before a view is sampled from it, by how far the view's pixels are apart.

    Args:
        warp: (n, 3, 3), as ``grid`` takes it.
        size: Pixels of a view's side.
        shape: The picture's (H, W).

    Returns:
        (n,) int64: twice the number of halvings, which bring the pixels of a view to less than 3 of the picture's
        apart, and 1 more where they are then more than 1.5 apart: for means of 2 x 2 pixels. The distance is that in
        the middle of the view, the larger of those to the right and down.
    """
    slope = warp[:, :2, :2] - warp[:, :2, 2:] * warp[:, 2:, :2]  # of the projection, where its divisor is 1
    steps = (slope * torch.tensor([[shape[1]], [shape[0]]]) / size).norm(dim=1).amax(1)
    halvings = (steps / 3).log2().floor().add(1).clamp(min=0).long()
    return 2 * halvings + (steps / 2**halvings > 1.5)


def grid(warp: Tensor, size: int) -> Tensor:
    """(n, size, size, 2): where in the picture each pixel of the views lies, for ``grid_sample``."""
    place = (torch.arange(size, dtype=warp.dtype, device=warp.device) * 2 + 1) / size - 1
    x, y = place.expand(size, size), place[:, None].expand(size, size)
    places = torch.stack([x, y, torch.ones_like(x)], -1)
    found = torch.einsum("nij,hwj->nhwi", warp, places)
    return found[..., :2] / found[..., 2:].clamp(min=1e-3)  # what lies behind the eye is far away


def seen(images: Tensor, grid: Tensor, padding: str) -> Tensor:
    """What stands in images (B, 3, H, W) at the places of ``grid`` (B·n, size, size, 2): (B·n, 3, size, size).

    ``grid_sample`` asks for as many images as there are grids, and its backward pass makes a gradient for each. So all
    views of an image are one tall grid here; on a CPU cut into pieces, since its threads share out images.
    """
    size, height = grid.shape[1], len(grid) // len(images) * grid.shape[1]
    threads = torch.get_num_threads() if images.device.type == "cpu" else 1
    pieces = next(count for count in range(threads, 0, -1) if height % count == 0)
    tall = grid.reshape(len(images) * pieces, height // pieces, size, 2)
    found = F.grid_sample(images.repeat_interleave(pieces, 0), tall, padding_mode=padding, align_corners=False)
    channels = found.unflatten(0, (len(images), pieces)).transpose(1, 2).flatten(2, 3)  # (B, 3, n·size, size)
    return channels.unflatten(2, (-1, size)).transpose(1, 2).flatten(0, 1)


def wrapped(images: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Images with a pixel of their other side around them, and where in these the places of a grid lie, wrapped."""
    sides = torch.tensor([images.shape[-1], images.shape[-2]], device=grid.device)
    return F.pad(images, (1, 1, 1, 1), "circular"), ((grid + 1).remainder(2) - 1) * (sides / (sides + 2))


def tint(light: Tensor, contrast: Tensor, colour: Tensor, hue: Tensor) -> Tensor:
    """(n, 3, 4): from red, green, blue and one to what they become.

    ``light`` is added; ``contrast`` and ``colour`` (saturation) are factors; ``hue`` turns about the axis of greys, as
    a share of a full turn.
    """
    angle = 2 * math.pi * hue[:, None, None]
    grey, unit = torch.full((3, 3), 1 / 3), torch.eye(3)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    turned = angle.cos() * (unit - grey) + angle.sin() * cross  # what differs from grey, turned (Rodrigues)
    matrix = contrast[:, None, None] * (grey + colour[:, None, None] * turned)
    return torch.cat([matrix, (0.5 * (1 - contrast) + light)[:, None, None].expand(-1, 3, 1)], -1)
