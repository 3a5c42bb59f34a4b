"""A sum of images at many resolutions (Fort and Whitaker 2025, "Direct Ascent Synthesis").

A shape is moved at every resolution that shows it, so that form comes before grain. Where single pixels follow a CLIP
into noise that only it can read, this draws outlines.
"""

from functools import lru_cache

from torch import Tensor
from torch.nn import functional as F

from clipgen.generators.pixels import Pixels


class Stack(Pixels):
    """A latent (B, 3, H + K, W): an image, and in K rows below it its halvings down to one pixel, to be added up."""

    lr = 0.4

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        return 1, 3, size[0] + _extra_rows(*size), size[1]

    def levels(self, latent: Tensor) -> list[Tensor]:
        """Return the images (B, 3, h, w) of a stack, finest first, as views of the latent."""
        sizes = _halvings(_image_height(*latent.shape[-2:]), latent.shape[-1])
        areas = [h * w for h, w in sizes]
        parts = latent.flatten(2)[..., : sum(areas)].split(areas, -1)
        return [part.unflatten(-1, size) for part, size in zip(parts, sizes, strict=True)]

    def to_logits(self, latent: Tensor) -> Tensor:
        logits, *coarser = self.levels(latent)
        for level in coarser:
            logits = logits + _enlarge(level, logits)
        return logits

    def from_logits(self, logits: Tensor) -> Tensor:
        """Return one of many inverses: from the coarsest on, each level takes what is left."""
        batch, _, height, width = logits.shape
        latent = logits.new_zeros(batch, *self.shape((height, width))[1:])
        for level in reversed(self.levels(latent)):
            level += F.interpolate(logits, level.shape[-2:], mode="area")
            logits = logits - _enlarge(level, logits)
        return latent


def _enlarge(level: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(level, like.shape[-2:], mode="bicubic")


@lru_cache(maxsize=64)
def _halvings(height: int, width: int) -> list[tuple[int, int]]:
    """Return (H, W) and its halvings down to (1, 1)."""
    sizes = [(height, width)]
    while max(height, width) > 1:
        height, width = (height + 1) // 2, (width + 1) // 2
        sizes.append((height, width))
    return sizes


def _extra_rows(height: int, width: int) -> int:
    """Return how many rows of ``width`` hold all that is coarser than (H, W)."""
    return -(-sum(h * w for h, w in _halvings(height, width)[1:]) // width)


@lru_cache(maxsize=64)
def _image_height(rows: int, width: int) -> int:
    """Return the H of a latent of H + K rows: it is unique, because K does not fall when H grows."""
    return next(height for height in range(rows, 0, -1) if height + _extra_rows(height, width) == rows)
