"""Lines and filled outlines as a picture with a gradient, in plain torch.

How much of a pixel a mark covers is taken from the pixel's distance to the mark's polyline. Pictures are drawn in
tiles, each with those marks only that come near it; tiles with about as many marks are drawn together, as many as
``WORK`` allows, and again on the way back instead of being remembered. So memory does not grow with the picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

TILE = 8  # pixels of a side
WORK = 2**20  # numbers at once: pixels times the segments of all marks near them
EDGE = 0.16  # pixels: the sigmoid of this scale is as wide as a pixel, by its deviation (of its slope)
FAINTEST = -16.0  # beyond it nothing is left but numbers so small that processors are slow with them
REACH = 6 * EDGE  # beyond it a mark covers less than half an 8-bit level


class Marks(NamedTuple):
    """What is drawn, the first at the bottom."""

    lines: Tensor  # (N, S + 1, 2): the x and y of S segments, in pixels
    radius: Tensor  # (N,) half of a line's width; 0 for outlines
    paint: Tensor  # (N, 4): red, green, blue and opacity, all in [0, 1]
    filled: bool = False  # whether lines are the outlines of convex shapes, the last point being the first


def rasterise(marks: Marks, size: tuple[int, int], paper: float = 1.0) -> Tensor:
    """A picture (3, H, W) of marks, painted one over another on a plain grey, with a gradient to all that they are."""
    height, width = size
    down, across = -(-height // TILE), -(-width // TILE)
    y, x = torch.meshgrid(*(TILE * torch.arange(n, device=marks.lines.device) for n in (down, across)), indexing="ij")
    corners = torch.stack([x, y], -1).view(-1, 1, 2).to(marks.lines.dtype)
    tiles = marks.lines.new_full((len(corners), 3, TILE**2), paper)
    parts = list(_parts(marks, corners))
    drawn = [
        _drawn(*marks, corners[which], tiles[which], index, there)
        if len(parts) == 1
        else checkpoint(
            _drawn,
            *marks,
            corners[which],
            tiles[which],
            index,
            there,
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for which, index, there in parts
    ]
    if parts:
        tiles = tiles.index_copy(0, torch.cat([which for which, _, _ in parts]), torch.cat(drawn))
    picture = tiles.view(down, across, 3, TILE, TILE).permute(2, 0, 3, 1, 4).reshape(3, down * TILE, across * TILE)
    return picture[:, :height, :width]


@torch.no_grad()
def _parts(marks: Marks, corners: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Tiles (t,), their marks (t, M) from the bottom up, and which of these are there at all (t, M).

    Tiles without any mark are left out.
    """
    centres, room = corners[:, 0] + TILE / 2, TILE / 2**0.5 + REACH
    some = max(1, WORK // (marks.lines[..., 0].numel() or 1))
    near = torch.cat(
        [_inside(part[None], marks.lines, marks.radius, marks.filled).T + room > 0 for part in centres.split(some)]
    )
    counts, order = near.sum(1).sort(descending=True, stable=True)
    segments, left = TILE**2 * (marks.lines.shape[1] - 1), int((counts > 0).sum())
    tiles = order[:left]
    while len(tiles):
        most = int(near[tiles[0]].sum())
        which, tiles = tiles.split([n := min(len(tiles), max(1, WORK // (segments * most))), len(tiles) - n])
        there, index = near[which].to(torch.uint8).sort(dim=1, descending=True, stable=True)
        yield which, index[:, :most], there[:, :most].bool()


def _drawn(
    lines: Tensor,
    radius: Tensor,
    paint: Tensor,
    filled: bool,
    corners: Tensor,
    tiles: Tensor,
    index: Tensor,
    there: Tensor,
) -> Tensor:
    """Tiles (t, 3, P) with the marks ``index`` (t, M) on them."""
    row = torch.arange(TILE, device=lines.device) + 0.5
    y, x = torch.meshgrid(row, row, indexing="ij")
    places = torch.stack([x, y], -1).view(1, -1, 2).to(lines)
    which, most = index.flatten(), index.shape[1]
    # Selected, not indexed: the gradient of an index is added up by several threads, in any order.
    lines, radius, paint = (numbers.index_select(0, which) for numbers in (lines, radius, paint))
    moved = lines - corners.repeat_interleave(most, 0)  # small numbers are exact
    inside = _inside(places, moved, radius, filled)
    colour, opacity = paint.unflatten(0, index.shape).split([3, 1], -1)
    cover = (inside / EDGE).clamp(min=FAINTEST).sigmoid().unflatten(0, index.shape) * (opacity * there[..., None])
    seen, left = [], torch.ones_like(cover[:, 0])
    for one in reversed(cover.unbind(1)):  # from the top down: what of each is seen, and what is left for those below
        seen.append(left * one)
        left = left - seen[-1]
    return torch.baddbmm(left[:, None] * tiles, colour.mT, torch.stack(seen[::-1], 1))


def _inside(places: Tensor, lines: Tensor, radius: Tensor, filled: bool) -> Tensor:
    """(K, P): how far inside the edges of K marks each of their places (K or 1, P, 2) is; negative outside.

    Which point of a line is nearest is found without a gradient: to first order it does not matter that it slides
    along the line, for there the distance is least.
    """
    with torch.no_grad():
        places = places.expand(len(lines), -1, -1)
        begin, along = lines[:, :-1], lines.diff(dim=1)
        length = along.square().sum(-1)[:, None].clamp(min=1e-12)
        ahead = torch.baddbmm(-(begin * along).sum(-1)[:, None], places, along.mT)  # (p - a)·e, for every segment
        share = (ahead / length).clamp_(0, 1)
        away = torch.baddbmm(begin.square().sum(-1)[:, None], places, begin.mT, alpha=-2)  # |p - a|², less |p|²
        segment = (away - 2 * share * ahead + share.square() * length).argmin(-1, keepdim=True)
        share = share.gather(-1, segment)
        if filled:
            across = torch.stack([-along[..., 1], along[..., 0]], -1)
            side = torch.baddbmm(-(begin * across).sum(-1)[:, None], places, across.mT)
            sign = ((side.amin(-1) > 0) | (side.amax(-1) < 0)).to(lines) * 2 - 1
        else:
            sign = -torch.ones_like(share[..., 0])
    segment = segment.expand(-1, -1, 2)
    nearest = lines.gather(1, segment).lerp(lines.gather(1, segment + 1), share.expand(-1, -1, 2))
    return radius[:, None] + sign * ((places - nearest).square().sum(-1) + 1e-12).sqrt()
