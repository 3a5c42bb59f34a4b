"""Colours by name, and their lightness."""

from __future__ import annotations

import torch
from PIL import ImageColor
from torch import Tensor

from clipgen.errors import ClipgenError


def parse_colour(text: str) -> Tensor | None:
    """Return a CSS name or #rrggbb as (3,) in [0, 1], None for text that is no colour."""
    try:
        return torch.tensor(ImageColor.getrgb(text)[:3]) / 255
    except ValueError:
        return None


def parse_colours(text: str) -> Tensor | None:
    """Return 'navy, #ffcc00' as (K, 3) in [0, 1], None for no colours. Raises ClipgenError for any other word."""
    colours = []
    for part in filter(None, map(str.strip, text.split(","))):
        colour = parse_colour(part)
        if colour is None:
            raise ClipgenError(f"palette={text!r}: {part!r} is no colour; write colours as 'navy, #ffcc00'")
        colours.append(colour)
    return torch.stack(colours) if colours else None


def lightness(rgb: Tensor) -> Tensor:
    """Return the lightness (..., 1, H, W) of (..., 3, H, W), by the weights of ITU-R BT.601, rounded."""
    return (rgb * rgb.new_tensor([0.3, 0.59, 0.11])[:, None, None]).sum(-3, keepdim=True)
