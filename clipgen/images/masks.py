"""Masks: where a picture may be painted, as words, boxes or image files."""

import re
from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipgen.errors import ClipgenError, suggest
from clipgen.storage import find_file

_WORDS = {
    "all": (0.0, 0.0, 1.0, 1.0),
    "top": (0.0, 0.0, 1.0, 0.5),
    "bottom": (0.0, 0.5, 1.0, 0.5),
    "left": (0.0, 0.0, 0.5, 1.0),
    "right": (0.5, 0.0, 0.5, 1.0),
    "centre": (0.25, 0.25, 0.5, 0.5),
}
_SYNONYMS = {"middle": "centre"}


def find_mask_file(spec: str) -> str | None:
    """Return the image file that a mask is given by, None for a word or a box."""
    text, _ = _parse_not(spec)
    if not text or text in _WORDS or _parse_box(text) is not None:
        return None
    if find_file(text) is not None:
        return text
    return text if ("/" in text or "." in text) and _parse_numbers(text) is None else None


def load_mask(spec: str, size: tuple[int, int], pictures: Mapping[str, Image.Image], label: str = "mask") -> Tensor:
    """Return a mask (1, 1, H, W) in [0, 1], 1 where the picture may be painted.

    Args:
        spec: all, top, bottom, left, right, centre, a box ``x,y,width,height`` in shares of the picture (or in %),
            the name of one of ``pictures`` (white: paint), or ``not`` and any of these.
        size: (H, W).
        pictures: The pictures of masks by their names.
        label: The argument that the mask is, for errors.

    Raises:
        ClipgenError: Any other spec, a picture of other proportions, or a mask that leaves nothing to paint.
    """
    if not isinstance(spec, str):
        raise ClipgenError(f"{label}={spec!r}: must be a text, such as 'top'")
    (text, negated), (height, width) = _parse_not(spec), size
    if text in pictures:
        picture = pictures[text]
        if abs(picture.width * height / (picture.height * width) - 1) > 0.02:
            raise ClipgenError(
                f"{label}={text!r}: is {picture.width}x{picture.height}, and the picture is {width}x{height}; "
                "bring it to the same proportions"
            )
        grey = picture.convert("L").resize((width, height), Image.Resampling.BOX)
        mask = torch.from_numpy(np.array(grey)).float()[None, None] / 255
    elif (box := _WORDS.get(text) or _parse_box(text)) and all(0 <= side <= 1 for side in box):
        x, y, w, h = box
        mask = torch.zeros(1, 1, height, width)
        mask[..., round(y * height) : round((y + h) * height), round(x * width) : round((x + w) * width)] = 1
    else:
        nearest = suggest(_SYNONYMS.get(text, text), _WORDS)
        raise ClipgenError(
            f"{label}={spec!r}: {nearest}use {', '.join(_WORDS)}, a box x,y,width,height in shares from 0 to 1, "
            f"{'' if label == 'keep' else 'an image file, '}or not before any of these"
        )
    mask = 1 - mask if negated else mask
    if not (mask > 0.5).any():
        remedy = "white is where it is painted" if text in pictures else "make it larger, or leave out not"
        raise ClipgenError(f"{label}={spec!r}: leaves nothing to {'keep' if label == 'keep' else 'paint'}; {remedy}")
    return mask


def bounding_box(mask: Tensor) -> tuple[slice, slice]:
    """Return the rows and the columns that hold everything that may be painted."""
    lines = [(mask[0, 0] > 0.5).any(side).nonzero().flatten() for side in (1, 0)]
    rows, columns = (slice(int(line[0]), int(line[-1]) + 1) for line in lines)
    return rows, columns


def blend(new: Tensor, old: Tensor, mask: Tensor) -> Tensor:
    """Return ``new`` where the mask is 1, ``old`` where it is 0; (B, 3, H, W)."""
    return old + mask * (new - old)


def _parse_not(spec: str) -> tuple[str, bool]:
    """Return what follows every ``not`` at the beginning, and whether their number is odd."""
    words = re.match(r"\s*(?:not\s+)*", spec)
    begin = words.end() if words else 0
    return spec[begin:].strip(), spec[:begin].split().count("not") % 2 == 1


def _parse_box(spec: str) -> tuple[float, ...] | None:
    box = _parse_numbers(spec)
    return box if box and len(box) == 4 else None


def _parse_numbers(spec: str) -> tuple[float, ...] | None:
    try:
        parts = [part.strip() for part in spec.split(",")]
        return tuple(float(part[:-1]) / 100 if part.endswith("%") else float(part) for part in parts)
    except ValueError:
        return None
