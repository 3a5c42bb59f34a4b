"""Masks: where a picture may be painted, as words, boxes or image files."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipgen.errors import ClipgenError
from clipgen.images.names import find_file

_WORDS = {
    "all": (0.0, 0.0, 1.0, 1.0),
    "top": (0.0, 0.0, 1.0, 0.5),
    "bottom": (0.0, 0.5, 1.0, 0.5),
    "left": (0.0, 0.0, 0.5, 1.0),
    "right": (0.5, 0.0, 0.5, 1.0),
    "centre": (0.25, 0.25, 0.5, 0.5),
}


def file_of(spec: str) -> str | None:
    """The image file that a mask is given by, if it is."""
    spec, _ = _negated(spec)
    return spec if spec and spec not in _WORDS and _box(spec) is None and _is_path(spec) else None


def load(spec: str, size: tuple[int, int], pictures: Mapping[str, Image.Image], label: str = "mask") -> Tensor:
    """(1, 1, H, W) in [0, 1], 1 where it may be painted; ``size`` is (H, W).

    ``spec``: all, top, bottom, left, right, centre, a box ``x,y,width,height`` in shares of the picture (or in %),
    the name of one of ``pictures`` (white: paint), or ``not`` and any of these. ``label``: the argument that it is.
    Raises ClipgenError for anything else, for a picture of other proportions and for a mask that leaves nothing.
    """
    if not isinstance(spec, str):
        raise ClipgenError(f"{label}={spec!r}: has to be a text, such as 'top'")
    (text, negated), (height, width) = _negated(spec), size
    if text in pictures:
        picture = pictures[text]
        if abs(picture.width * height / (picture.height * width) - 1) > 0.02:
            raise ClipgenError(
                f"{label}={text!r}: is {picture.width}x{picture.height}, and the picture is {width}x{height}; "
                "bring it to the same proportions"
            )
        grey = picture.convert("L").resize((width, height), Image.Resampling.BOX)
        mask = torch.from_numpy(np.array(grey)).float()[None, None] / 255
    elif (box := _WORDS.get(text) or _box(text)) and all(0 <= side <= 1 for side in box):
        x, y, w, h = box
        mask = torch.zeros(1, 1, height, width)
        mask[..., round(y * height) : round((y + h) * height), round(x * width) : round((x + w) * width)] = 1
    else:
        raise ClipgenError(
            f"{label}={spec!r}: use {', '.join(_WORDS)}, a box x,y,width,height in shares from 0 to 1, "
            f"{'an image file, ' if label == 'mask' else ''}or not before any of these"
        )
    mask = 1 - mask if negated else mask
    if not (mask > 0.5).any():
        remedy = "; white is where it is painted" if label == "mask" else ""
        raise ClipgenError(f"{label}={spec!r}: leaves nothing{' to paint' if label == 'mask' else ''}{remedy}")
    return mask


def box(mask: Tensor) -> tuple[slice, slice]:
    """The rows and the columns that hold what may be painted."""
    lines = [(mask[0, 0] > 0.5).any(side).nonzero().flatten() for side in (1, 0)]
    rows, columns = (slice(int(line[0]), int(line[-1]) + 1) for line in lines)
    return rows, columns


def blend(new: Tensor, old: Tensor, mask: Tensor) -> Tensor:
    """``new`` where the mask is 1, ``old`` where it is 0; (B, 3, H, W)."""
    return old + mask * (new - old)


def _negated(spec: str) -> tuple[str, bool]:
    """Return what follows every ``not`` at the beginning, and whether their number is odd."""
    words = re.match(r"\s*(?:not\s+)*", spec)
    begin = words.end() if words else 0
    return spec[begin:].strip(), spec[:begin].split().count("not") % 2 == 1


def _is_path(spec: str) -> bool:
    return "/" in spec or "." in spec or find_file(spec) is not None


def _box(spec: str) -> tuple[float, ...] | None:
    try:
        parts = [part.strip() for part in spec.split(",")]
        box = tuple(float(part[:-1]) / 100 if part.endswith("%") else float(part) for part in parts)
    except ValueError:
        return None
    return box if len(box) == 4 else None
