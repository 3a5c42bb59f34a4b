"""Colours by their names, and how light they are."""

from __future__ import annotations

import torch
from PIL import ImageColor
from torch import Tensor

from clipgen.errors import ClipgenError


def colour(text: str) -> Tensor | None:
    """A CSS name or #rrggbb as (3,) in [0, 1], None for what is no colour."""
    try:
        return torch.tensor(ImageColor.getrgb(text)[:3]) / 255
    except ValueError:
        return None


def colours(text: str) -> Tensor | None:
    """'navy, #ffcc00' to (K, 3) in [0, 1], None for none. Raises ClipgenError for a word that is no colour."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    rows = []
    for part in parts:
        if (row := colour(part)) is None:
            raise ClipgenError(f"palette={text!r}: {part!r} is no colour; write colours as 'navy, #ffcc00'")
        rows.append(row)
    return torch.stack(rows) if rows else None


def lightness(rgb: Tensor) -> Tensor:
    """(..., 3, H, W) to (..., 1, H, W): how light the eye finds each place (the weights of ITU-R BT.601, rounded)."""
    return (rgb * rgb.new_tensor([0.3, 0.59, 0.11])[:, None, None]).sum(-3, keepdim=True)
