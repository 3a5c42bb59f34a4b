"""Lines and filled outlines as an image with a gradient, in plain torch.

A mark's share of a pixel follows from the pixel's distance to the mark's polyline. Images are drawn in tiles, each with
those marks only that come near it. Tiles with about as many marks are drawn together, as many as ``WORK`` allows, and
recomputed in the backward pass: memory does not grow with the image.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

TILE = 8  # pixels of a side
WORK = 2**20  # numbers at once: pixels times the segments of all marks near them
EDGE_SCALE = 0.16  # scale of an edge's sigmoid, in pixels: its slope has the standard deviation of a pixel-wide box
FAINTEST = -16.0  # of the sigmoid's argument: below it come denormal numbers, which processors are slow with
REACH = 6 * EDGE_SCALE  # beyond it a mark covers less than half an 8-bit level


class Marks(NamedTuple):
    """What is drawn, the first at the bottom."""

    lines: Tensor  # (N, S + 1, 2): the x and y of S segments, in pixels
    radius: Tensor  # (N,) half of a line's width; 0 for outlines
    paint: Tensor  # (N, 4): red, green, blue and opacity, all in [0, 1]
    filled: bool = False  # whether lines are the outlines of convex shapes, the last point being the first


def rasterise(marks: Marks, size: tuple[int, int]) -> Tensor:
    """Return an image (3, H, W) of marks on white paper, differentiable with respect to all of them."""
    height, width = size
    down, across = -(-height // TILE), -(-width // TILE)
    y, x = torch.meshgrid(*(TILE * torch.arange(n, device=marks.lines.device) for n in (down, across)), indexing="ij")
    corners = torch.stack([x, y], -1).view(-1, 1, 2).to(marks.lines.dtype)
    tiles = marks.lines.new_ones((len(corners), 3, TILE**2))
    groups = list(_group_tiles(marks, corners))
    painted = []
    for tile, index, present in groups:
        arguments = *marks, corners[tile], tiles[tile], index, present
        if len(groups) == 1:
            painted.append(_paint(*arguments))
        else:
            painted.append(checkpoint(_paint, *arguments, use_reentrant=False, preserve_rng_state=False))
    if groups:
        tiles = tiles.index_copy(0, torch.cat([tile for tile, _, _ in groups]), torch.cat(painted))
    image = tiles.view(down, across, 3, TILE, TILE).permute(2, 0, 3, 1, 4).reshape(3, down * TILE, across * TILE)
    return image[:, :height, :width]


@torch.no_grad()
def _group_tiles(marks: Marks, corners: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield indices (t,) of tiles, of the marks on each (t, M), lowest first, and a mask (t, M), False for padding."""
    centres, reach = corners[:, 0] + TILE / 2, TILE / 2**0.5 + REACH
    at_once = max(1, WORK // (marks.lines[..., 0].numel() or 1))
    depths = [_depth(part[None], marks.lines, marks.radius, marks.filled).T for part in centres.split(at_once)]
    near = torch.cat([depth + reach > 0 for depth in depths])
    sorted_counts, order = near.sum(1).sort(descending=True, stable=True)
    counts = [count for count in sorted_counts.tolist() if count]  # the only wait for the device
    tiles = order[: len(counts)]
    while len(tiles):
        most = counts[-len(tiles)]
        n = max(1, WORK // (TILE**2 * (marks.lines.shape[1] - 1) * most))
        group, tiles = tiles[:n], tiles[n:]
        present, index = near[group].to(torch.uint8).sort(dim=1, descending=True, stable=True)
        yield group, index[:, :most], present[:, :most].bool()


def _paint(
    lines: Tensor,
    radius: Tensor,
    paint: Tensor,
    filled: bool,
    corners: Tensor,
    tiles: Tensor,
    index: Tensor,
    present: Tensor,
) -> Tensor:
    """Return tiles (t, 3, P) with the marks ``index`` (t, M) on them."""
    row = torch.arange(TILE, device=lines.device) + 0.5
    y, x = torch.meshgrid(row, row, indexing="ij")
    pixels = torch.stack([x, y], -1).view(1, -1, 2).to(lines)
    flat, most = index.flatten(), index.shape[1]
    # index_select, because several threads add up the gradient of indexing in any order.
    lines, radius, paint = (numbers.index_select(0, flat) for numbers in (lines, radius, paint))
    local = lines - corners.repeat_interleave(most, 0)  # small numbers are exact
    depth = _depth(pixels, local, radius, filled)
    colour, opacity = paint.unflatten(0, index.shape).split([3, 1], -1)
    cover = (depth / EDGE_SCALE).clamp(min=FAINTEST).sigmoid().unflatten(0, index.shape) * (
        opacity * present[..., None]
    )
    visible, remaining = [], torch.ones_like(cover[:, 0])
    for mark in reversed(cover.unbind(1)):  # from the top down
        visible.append(remaining * mark)
        remaining = remaining - visible[-1]
    return torch.baddbmm(remaining[:, None] * tiles, colour.mT, torch.stack(visible[::-1], 1))


def _depth(points: Tensor, lines: Tensor, radius: Tensor, filled: bool) -> Tensor:
    """Return signed distances (K, P) of points (K or 1, P, 2) to the edges of K marks, positive inside."""
    with torch.no_grad():  # the nearest point of a line slides along it, which does not change the least distance
        points = points.expand(len(lines), -1, -1)
        begin, along = lines[:, :-1], lines.diff(dim=1)
        length = along.square().sum(-1)[:, None].clamp(min=1e-12)
        ahead = torch.baddbmm(-(begin * along).sum(-1)[:, None], points, along.mT)  # (p - a)·e, for every segment
        fraction = (ahead / length).clamp_(0, 1)
        away = torch.baddbmm(begin.square().sum(-1)[:, None], points, begin.mT, alpha=-2)  # |p - a|², less |p|²
        segment = (away - 2 * fraction * ahead + fraction.square() * length).argmin(-1, keepdim=True)
        fraction = fraction.gather(-1, segment)
        if filled:
            across = torch.stack([-along[..., 1], along[..., 0]], -1)
            side = torch.baddbmm(-(begin * across).sum(-1)[:, None], points, across.mT)
            sign = ((side.amin(-1) > 0) | (side.amax(-1) < 0)).to(lines) * 2 - 1
        else:
            sign = -torch.ones_like(fraction[..., 0])
    segment = segment.expand(-1, -1, 2)
    nearest = lines.gather(1, segment).lerp(lines.gather(1, segment + 1), fraction.expand(-1, -1, 2))
    return radius[:, None] + sign * ((points - nearest).square().sum(-1) + 1e-12).sqrt()
