"""Pictures at the door: PIL outside, float tensors in [0, 1] inside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from clipgen.errors import ClipgenError


def to_image(pixels: Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] to a PIL image."""
    return Image.fromarray((pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy())


def to_picture(image: Image.Image | str | Path) -> Image.Image:
    """A PIL image or a file as RGB: upright, transparency on white.

    Raises ClipgenError when the file is no image.
    """
    if isinstance(image, Image.Image):
        picture = image
    else:
        try:
            with Image.open(image) as picture:
                picture.load()
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ClipgenError(f"image={str(image)!r}: this file cannot be read as a picture ({error})") from error
    picture = ImageOps.exif_transpose(picture).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def to_tensor(image: Image.Image | str | Path, size: tuple[int, int] | None = None) -> Tensor:
    """``to_picture`` as (1, 3, H, W) in [0, 1], resized and cropped to (width, height)."""
    picture = to_picture(image)
    if size:
        picture = ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
