"""A sum of pictures at many resolutions (Fort and Whitaker 2025, "Direct Ascent Synthesis").

The optimiser moves the same shape at every resolution that shows it, so that what several agree on comes first: form
before grain. Where single pixels follow a CLIP into noise that only it can read, this draws outlines.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from clipgen.generators.pixels import Pixels

if TYPE_CHECKING:
    from clipgen.generators.catalogue import Entry


class Stack(Pixels):
    """A latent (B, 3, H + K, W): the picture's size, and below it all its halvings down to one pixel, row after row.

    Each is enlarged bicubically, and the sum goes through a sigmoid (the paper's tanh, from 0 to 1). Below the
    finest, they fill K rows but for the last few places; a latent so tells its picture's size.
    """

    lr = 0.4

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        return 1, 3, size[0] + _rows(*size), size[1]

    def levels(self, latent: Tensor) -> list[Tensor]:
        """The pictures (B, 3, h, w) of a stack, finest first, as views of the latent."""
        height, width = _height(*latent.shape[-2:]), latent.shape[-1]
        sizes = _sizes(height, width)
        parts = latent.flatten(2)[..., : sum(h * w for h, w in sizes)].split([h * w for h, w in sizes], -1)
        return [part.unflatten(-1, size) for part, size in zip(parts, sizes, strict=True)]

    def synthesis(self, latent: Tensor) -> Tensor:
        logits, *coarser = self.levels(latent)
        for level in coarser:
            logits = logits + _enlarged(level, logits)
        return logits

    def analysis(self, logits: Tensor) -> Tensor:
        """One of many inverses: from the coarsest on, each takes what those before it left."""
        batch, _, height, width = logits.shape
        latent = logits.new_zeros(batch, *self.shape((height, width))[1:])
        for level in reversed(self.levels(latent)):
            level += F.interpolate(logits, level.shape[-2:], mode="area")
            logits = logits - _enlarged(level, logits)
        return latent


def _enlarged(level: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(level, like.shape[-2:], mode="bicubic")


@lru_cache(maxsize=64)
def _sizes(height: int, width: int) -> list[tuple[int, int]]:
    """(H, W) and its halvings down to (1, 1)."""
    sizes = [(height, width)]
    while max(sizes[-1]) > 1:
        sizes.append(tuple((side + 1) // 2 for side in sizes[-1]))  # type: ignore[arg-type]
    return sizes


def _rows(height: int, width: int) -> int:
    """How many rows of ``width`` hold all that is coarser than (H, W)."""
    return -(-sum(h * w for h, w in _sizes(height, width)[1:]) // width)


@lru_cache(maxsize=64)
def _height(rows: int, width: int) -> int:
    """The H of which H + K is ``rows``: there is one, for K does not fall when H grows."""
    return next(height for height in range(rows, 0, -1) if height + _rows(height, width) == rows)


def load(name: str, entry: Entry, device: torch.device) -> Stack:
    """Needs no files."""
    return Stack(name, entry.side, device)
