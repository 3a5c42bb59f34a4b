"""Pictures from anything that people have: RGB PIL images, and float tensors in [0, 1]."""

import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError
from torch import Tensor

from clipgen.errors import ClipgenError, suggest
from clipgen.storage import find_file, is_address
from clipgen.storage.network import read_public

PIXELS = 64_000_000  # of a picture, at most: beyond it decoding alone takes seconds and gigabytes
# Raster formats that Pillow decodes itself: for EPS it starts Ghostscript. TGA has no signature, and comes last.
FORMATS = (
    *("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "HEIF", "JPEG2000", "PPM", "ICO", "PCX"),
    *("PSD", "QOI", "TGA"),
)
Pictorial = Image.Image | np.ndarray | Tensor | bytes | io.BytesIO  # a picture that has no name yet
SAMPLE_FORMAT = 339  # the TIFF tag that says whether numbers have a sign
FITS: dict[str, Callable[..., Image.Image]] = {  # of a picture, a size and a filter
    "crop": ImageOps.fit,
    "letterbox": partial(ImageOps.pad, color="white"),
    "stretch": Image.Image.resize,
}


def to_image(pixels: Tensor) -> Image.Image:
    """Return (3, H, W) in [0, 1] as a PIL image."""
    return Image.fromarray((pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy())


def to_picture(
    image: Pictorial | str | os.PathLike[str], formats: Sequence[str] = FORMATS, argument: str = "image"
) -> Image.Image:
    """Return any image-like object as RGB: upright, in sRGB, transparency on white, the first frame of an animation.

    Args:
        image: A PIL image of any mode, a file, its bytes or BytesIO, an http(s) address, an array (H, W) or
            (H, W, C), or a tensor (H, W), (C, H, W) or (1, C, H, W), with 1, 3 or 4 channels. The type says the range
            of the numbers: unsigned integers use all of theirs, anything else is in [0, 1].
        formats: Those that a file may have, as Pillow names them.
        argument: The argument that the picture is, for errors.

    Raises:
        ClipgenError: For what is not a picture, is broken or far too large, and for addresses in a private network.
    """
    if isinstance(image, (np.ndarray, Tensor)):
        return _from_numbers(image)
    if not isinstance(image, (Image.Image, str, os.PathLike, bytes, io.BytesIO)):
        raise ClipgenError(
            f"{argument}={image!r}: is not a picture; give a file, its bytes, an address, a PIL image or an array"
        )
    label = f"{argument}={str(image)!r}" if isinstance(image, (str, os.PathLike)) else argument
    with open_picture(image, label, formats) as picture:
        return to_rgb(picture)


def to_list(pictures: Any) -> list[Any]:
    """Return one picture, or several, as a list of what ``to_picture`` takes; a batch of arrays is several."""
    if isinstance(pictures, (np.ndarray, Tensor)):
        return [pictures] if pictures.ndim < 4 else list(pictures)
    is_one = isinstance(pictures, (str, os.PathLike, Pictorial)) or not isinstance(pictures, Iterable)
    return [pictures] if is_one else list(pictures)


@contextmanager
def open_picture(
    source: str | os.PathLike[str] | bytes | io.BytesIO | Image.Image, label: str, formats: Sequence[str]
) -> Iterator[Image.Image]:
    """Open a file, its bytes or an address as a PIL image that is not decoded yet; a PIL image is yielded as it is.

    Any error here, and while it is decoded inside the ``with``, is a ClipgenError that begins with ``label``, an
    argument with its value.
    """
    data: Any = source.getvalue() if isinstance(source, io.BytesIO) else source
    with wrap_errors(label):
        if isinstance(data, Image.Image):
            yield data
            return
        if isinstance(data, str) and is_address(data):
            data = read_public(data)
        file = io.BytesIO(data) if isinstance(data, bytes) else locate(data, label)
        Image.init()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about the size; check_pixels is stricter
            picture = Image.open(file, formats=[name for name in formats if name in Image.OPEN])
        with picture:
            check_pixels(picture.size, label)
            if picture.format == "WEBP" and getattr(picture, "rawmode", "") == "RGBX":
                # Pillow reads no transparency if no frame has it, though frames may leave a part of the canvas clear.
                picture.rawmode, picture._mode = "RGBA", "RGBA"  # type: ignore[attr-defined]
            yield picture


def locate(file: str | os.PathLike[str], label: str, remedy: str = "name a file in it") -> str:
    """Return the path of an existing file. Raises ClipgenError for none; ``remedy`` is what to do about a folder."""
    if (path := find_file(file)) is not None:
        return path
    text, names = os.path.expanduser(file), list[str]()
    if os.path.isdir(text):
        raise ClipgenError(f"{label}: is a folder; {remedy}")
    folder, name = os.path.split(text)
    with suppress(OSError):  # no folder, or one that may not be read
        names = os.listdir(folder or ".")
    nearest = suggest(name, names).strip() or "check the path"
    raise ClipgenError(f"{label}: there is no such file; {nearest}")


def check_pixels(size: tuple[int, int], label: str) -> None:
    """Raise ClipgenError for a picture of more than ``PIXELS``; ``label``: the argument, with its value."""
    if size[0] * size[1] > PIXELS:
        raise ClipgenError(f"{label}: {size[0]}x{size[1]} is more than {PIXELS // 10**6} megapixels; make it smaller")


@contextmanager
def wrap_errors(label: str, remedy: str = "save it again as PNG") -> Iterator[None]:
    """Turn any error into a ClipgenError: decoders of broken files raise anything."""
    try:
        yield
    except ClipgenError:
        raise
    except Image.DecompressionBombError as error:
        raise ClipgenError(f"{label}: is more than {PIXELS // 10**6} megapixels; make it smaller") from error
    except Exception as error:
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "its format is not known" if unknown else " ".join(str(error).split()) or type(error).__name__
        raise ClipgenError(f"{label}: cannot be read as a picture ({reason}); {remedy}") from error


def to_rgb(picture: Image.Image) -> Image.Image:
    """Return a PIL image of any mode, or the current frame of an animation, as ``to_picture`` does."""
    if not (picture.width and picture.height):
        raise ClipgenError("image: this picture has no pixels; choose another")
    profile = picture.info.get("icc_profile")
    # Pillow reads 32 bits without a sign as if they had one.
    is_unsigned = picture.mode == "I" and getattr(picture, "tag_v2", {}).get(SAMPLE_FORMAT) == (1,)
    picture = _upright(picture)
    if picture.mode.startswith(("I", "F")):
        picture = _to_8_bits(picture, is_unsigned)
    if profile:
        picture = _to_srgb(picture, profile)
    if picture.mode == "CMYK" or (picture.mode == "RGB" and "transparency" not in picture.info):
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def _upright(picture: Image.Image) -> Image.Image:
    """Return a decoded copy, rotated as its Exif says; a PNG's transparent colour gets the depth of the pixels."""
    raw_modes = {str(tile[3]) for tile in getattr(picture, "tile", ())}
    picture.load()
    try:
        picture = ImageOps.exif_transpose(picture)
    except Exception:  # damaged Exif does not mean damaged pixels
        picture = picture.copy()
    transparency = picture.info.get("transparency")
    if isinstance(transparency, int) and picture.mode.startswith("I"):
        alpha = Image.fromarray((np.asarray(picture) != transparency).astype(np.uint8) * 255)
        picture = _to_8_bits(picture)
        picture.putalpha(alpha)
    elif isinstance(transparency, int) and raw_modes & {"L;2", "L;4"}:
        picture.info["transparency"] = transparency * (85 if "L;2" in raw_modes else 17)
    elif isinstance(transparency, tuple) and "RGB;16B" in raw_modes:
        picture.info["transparency"] = tuple(part >> 8 for part in transparency)
    return picture


def _to_8_bits(picture: Image.Image, is_unsigned: bool = False) -> Image.Image:
    """Return a grey picture of 16 or 32 bits, or of floats in [0, 1], in 8 bits: Pillow would cut them off at 255."""
    pixels = np.asarray(picture)
    grey = np.nan_to_num((pixels.view(np.uint32) if is_unsigned else pixels).astype(np.float64))
    if picture.mode == "F" and (grey > 1.001).mean() > 0.5:
        raise ClipgenError("image: floats of a picture are from 0 to 1, and most of these are above; divide them")
    top = 1 if picture.mode == "F" else 65535
    if picture.mode == "I" and grey.max() > top:
        top = np.iinfo(np.uint32 if is_unsigned else np.int32).max
    return Image.fromarray((grey / top * 255).clip(0, 255).round().astype(np.uint8))


def _to_srgb(picture: Image.Image, profile: bytes) -> Image.Image:
    """Return a picture in sRGB, converted by LittleCMS from the profile that came with it."""
    from PIL import ImageCms

    modes = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # of the pixels, for each colour space of a profile
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        fits_mode = space in modes and (picture.mode == "CMYK") == (space == "CMYK")
        if not fits_mode or (space == "GRAY" and picture.mode not in ("1", "L", "LA")):
            raise ValueError(f"it is for {space}, and the picture is {picture.mode}")
        is_transparent = picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info
        alpha = picture.convert("RGBA").getchannel("A") if is_transparent else None
        colours = picture.convert("RGBA").convert("RGB") if space == "RGB" else picture.convert(modes[space])
        srgb = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(colours, source, srgb, outputMode="RGB") or picture
    except Exception as error:  # a damaged profile can fail in many ways, and Pillow can be built without LittleCMS
        warnings.warn(f"image: its colour profile cannot be used and is ignored ({error})", stacklevel=2)
        return picture
    if alpha:
        converted.putalpha(alpha)
    converted.info.pop("transparency", None)
    return converted


def to_array(tensor: Tensor, label: str = "image") -> np.ndarray:
    """Return a tensor as an array; floating-point types that NumPy lacks, such as bfloat16, become float32.

    Raises ClipgenError for a sparse, nested or quantised tensor, and for one without values.
    """
    if tensor.is_nested or tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise ClipgenError(f"{label}: needs a dense tensor with values; use .to_dense() or .dequantize()")
    in_numpy = not tensor.is_floating_point() or tensor.dtype in (torch.float16, torch.float32, torch.float64)
    return (tensor if in_numpy else tensor.float()).detach().cpu().resolve_conj().resolve_neg().numpy()


def _from_numbers(image: np.ndarray | Tensor) -> Image.Image:
    data = to_array(image) if isinstance(image, Tensor) else np.asarray(image)
    if data.dtype.kind not in "buif":
        raise ClipgenError(f"image: an array of {data.dtype} is not a picture; use real numbers, uint8 or from 0 to 1")
    if isinstance(image, Tensor):
        data = data[0] if data.ndim == 4 and len(data) == 1 else data
        data = data.transpose(1, 2, 0) if data.ndim == 3 else data
    data = data[..., 0] if data.ndim == 3 and data.shape[2] == 1 else data
    if not (data.size and (data.ndim == 2 or (data.ndim == 3 and data.shape[2] in (3, 4)))):
        raise ClipgenError(
            f"image: an array of shape {tuple(image.shape)} is not a picture; use (H, W), (H, W, 3) or (H, W, 4), "
            "a tensor (3, H, W)"
        )
    check_pixels((data.shape[1], data.shape[0]), "image")
    if data.dtype != np.uint8:
        top = np.iinfo(data.dtype).max if data.dtype.kind == "u" else 1
        data = data.astype(np.float64) / top
        if not (np.isfinite(data).all() and data.min() >= -1e-3 and data.max() <= 1 + 1e-3):
            raise ClipgenError(
                "image: numbers of a picture are uint8, uint16, or from 0 to 1; divide by the largest value, or use "
                ".astype(numpy.uint8)"
            )
        data = (data.clip(0, 1) * 255).round().astype(np.uint8)
    return to_rgb(Image.fromarray(np.ascontiguousarray(data)))


def fit(picture: Image.Image, size: tuple[int, int], mode: str = "crop") -> Image.Image:
    """Return a picture of (width, height): cropped, with white bars (letterbox), or stretched.

    Raises ClipgenError for another ``mode``.
    """
    if mode not in FITS:
        raise ClipgenError(f"fit={mode!r}: choose one of: {', '.join(FITS)}")
    return FITS[mode](picture, size, Image.Resampling.LANCZOS)


def to_tensor(image: Any, size: tuple[int, int] | None = None, mode: str = "crop") -> Tensor:
    """Return ``to_picture(image)`` as (1, 3, H, W) in [0, 1], fitted to (width, height)."""
    picture = to_picture(image)
    if size:
        picture = fit(picture, size, mode)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255


def parse_colour(text: str) -> Tensor | None:
    """Return a CSS name or #rrggbb as (3,) in [0, 1], None for text that is not a colour."""
    try:
        return torch.tensor(ImageColor.getrgb(text)[:3]) / 255
    except ValueError:
        return None
