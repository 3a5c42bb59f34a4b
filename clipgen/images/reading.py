"""Pictures at the door: anything a person has outside, RGB PIL images and float tensors in [0, 1] inside."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from clipgen.errors import ClipgenError
from clipgen.images.fetching import download

PIXELS = 64_000_000  # of a picture, at most: beyond it decoding alone takes seconds and gigabytes
Pictorial = Image.Image | np.ndarray | Tensor  # a picture that has no name yet
FITS = ("crop", "letterbox", "stretch")


def to_image(pixels: Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] to a PIL image."""
    return Image.fromarray((pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy())


def to_picture(image: Image.Image | str | Path | np.ndarray | Tensor) -> Image.Image:
    """Anything pictorial as RGB: upright, transparency on white, the first frame of an animation.

    A PIL image of any mode, a file, an http(s) address, an array (H, W), (H, W, 3) or (H, W, 4) of uint8 or of
    floats in [0, 1], a tensor (3, H, W) or (1, 3, H, W) in [0, 1]. Raises ClipgenError for what is no picture, is
    broken or far too large, and for addresses inside a private network.
    """
    if isinstance(image, (np.ndarray, Tensor)):
        return _from_numbers(image)
    if isinstance(image, Image.Image):
        return _rgb(image)
    name = str(image)
    try:
        if name.startswith(("http://", "https://")):
            source: Any = io.BytesIO(download(name))
        elif Path(name).is_file():
            source = name
        else:
            raise ClipgenError(f"image={name!r}: there is no such file; check the path")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own doubts about the size: ours come first
            with Image.open(source) as picture:
                if picture.width * picture.height > PIXELS:
                    raise ClipgenError(
                        f"image={name!r}: {picture.width}x{picture.height} is more than {PIXELS // 10**6} megapixels; "
                        "make it smaller first"
                    )
                return _rgb(picture)
    except ClipgenError:
        raise
    except Exception as error:  # a broken file can fail in every way that its decoder knows
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ClipgenError(f"image={name!r}: cannot be read as a picture ({reason}); save it again as PNG") from error


def _rgb(picture: Image.Image) -> Image.Image:
    if not (picture.width and picture.height):
        raise ClipgenError("image: this picture has no pixels; choose another")
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith(("I", "F")):  # 16 bits, or floats: Pillow would cut them off at 255
        grey = np.nan_to_num(np.asarray(picture, dtype=np.float64))
        top = 65535 if picture.mode.startswith("I") and grey.max() > 255 else 255 if grey.max() > 1 else 1
        picture = Image.fromarray((grey / top * 255).clip(0, 255).round().astype(np.uint8))
    if picture.mode == "CMYK":
        picture = picture.convert("RGB")
    if picture.mode == "LAB":
        from PIL import ImageCms

        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        picture = ImageCms.profileToProfile(picture, lab, srgb, outputMode="RGB") or picture
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def _from_numbers(image: np.ndarray | Tensor) -> Image.Image:
    data = image
    if isinstance(data, Tensor):
        data = data.detach().float().cpu().numpy()
        data = data[0] if data.ndim == 4 and len(data) == 1 else data
        data = data.transpose(1, 2, 0) if data.ndim == 3 and len(data) == 3 else np.zeros(0)
    shape = data.shape
    if not (data.size and (data.ndim == 2 or (data.ndim == 3 and shape[2] in (3, 4)))):
        raise ClipgenError(
            f"image: an array of shape {tuple(image.shape)} is no picture; use (H, W), (H, W, 3) or (H, W, 4), "
            "a tensor (3, H, W)"
        )
    if data.dtype != np.uint8:
        data = data.astype(np.float64)
        if not (np.isfinite(data).all() and data.min() >= -1e-3 and data.max() <= 1 + 1e-3):
            raise ClipgenError("image: numbers of a picture are uint8, or from 0 to 1; divide by the largest value")
        data = (data.clip(0, 1) * 255).round().astype(np.uint8)
    return _rgb(Image.fromarray(np.ascontiguousarray(data)))


def fit(picture: Image.Image, size: tuple[int, int], how: str = "crop") -> Image.Image:
    """A picture brought to (width, height): cropped, whole with white bars (letterbox), or stretched.

    Raises ClipgenError for another ``how``.
    """
    lanczos = Image.Resampling.LANCZOS
    if how == "crop":
        return ImageOps.fit(picture, size, lanczos)
    if how == "letterbox":
        return ImageOps.pad(picture, size, lanczos, color="white")
    if how == "stretch":
        return picture.resize(size, lanczos)
    raise ClipgenError(f"fit={how!r}: choose one of: {', '.join(FITS)}")


def to_tensor(image: Any, size: tuple[int, int] | None = None, how: str = "crop") -> Tensor:
    """``to_picture`` as (1, 3, H, W) in [0, 1], brought to (width, height) by ``fit``."""
    picture = to_picture(image)
    if size:
        picture = fit(picture, size, how)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
