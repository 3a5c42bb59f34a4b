"""Pictures for people to look at: enlarged, side by side, repeated, with a heat map."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from clipgen.device import resolve_device
from clipgen.errors import ClipgenError
from clipgen.images.reading import to_image, to_list, to_picture, to_tensor
from clipgen.setting import check_count
from clipgen.storage.weights import as_safetensors, load_weights

MIN_SIDE = 256  # pixels of the shorter side to which small pictures are enlarged
MAX_SIDE = 4096  # pixels of the longer side that enlarging does not exceed
PIXELS = 200_000_000  # of a sheet, at most
GAP = 8  # pixels between pictures
COOL, WARM = (16, 20, 40), (255, 96, 32)


def enlarge(image: Image.Image, shortest: int = MIN_SIDE) -> Image.Image:
    """Return the picture, by a whole factor (Lanczos), with its shorter side at ``shortest`` pixels or more.

    A picture that is very long is not enlarged beyond ``MAX_SIDE``.
    """
    factor = max(1, min(math.ceil(shortest / min(image.size)), MAX_SIDE // max(image.size)))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.LANCZOS)


def repeat_picture(image: Image.Image, times: int = 3) -> Image.Image:
    """Return ``times`` x ``times`` copies of a picture side by side, where edges show unless it is seamless."""
    sheet = Image.new(image.mode, (times * image.width, times * image.height))
    for i in range(times * times):
        sheet.paste(image, (i % times * image.width, i // times * image.height))
    return sheet


def overlay_heat(picture: Image.Image, strength: np.ndarray) -> Image.Image:
    """Return a picture in dim grey with a heat map over it.

    Args:
        picture: A picture of any mode.
        strength: (H, W), 0 or more; the 99th percentile glows most.
    """
    amount = np.asarray(strength, np.float32)
    amount = (amount / max(float(np.quantile(amount, 0.99)), 1e-30)).clip(0, 1)[..., None]
    grey = np.asarray(picture.convert("L"), np.float32)[..., None] / 255
    ground = np.array(COOL) + 0.4 * grey * (255 - np.array(COOL))
    glowing = ground + amount * (np.array(WARM) * (0.6 + 0.4 * grey) - ground)
    return Image.fromarray(glowing.clip(0, 255).astype(np.uint8))


def png_bytes(image: Image.Image) -> bytes:
    """Return the picture as a PNG for a notebook, enlarged if it is small."""
    out = io.BytesIO()
    enlarge(image).save(out, "PNG")
    return out.getvalue()


def contact_sheet(
    images: Sequence[Any], columns: int, labels: Sequence[str] | None = None, shortest: int = MIN_SIDE
) -> Image.Image:
    """Return pictures in rows, each with its label below, and its shorter side at ``shortest`` pixels or more.

    ``images``: anything that ``to_picture`` takes.

    Raises:
        ClipgenError: For no pictures, no columns, labels that are not one for each, or too large a sheet.
    """
    columns, shortest = check_count("columns", columns), check_count("shortest", shortest)
    pictures = [enlarge(picture, shortest) for picture in _read_pictures("contact_sheet", images, labels)]
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    widest = max(picture.width for picture in pictures)
    _check_size(widest * columns, 1)
    return _lay_out(rows, [widest] * columns, below=labels or ())


def strip(pictures: Sequence[Any], labels: Sequence[str] | None = None) -> Image.Image:
    """Return pictures of any sizes side by side at one height, such as before and after, each with its label below.

    ``pictures``: anything that ``to_picture`` takes.

    Raises:
        ClipgenError: For no pictures, labels that are not one for each, or too large a strip.
    """
    large = [enlarge(picture) for picture in _read_pictures("strip", pictures, labels)]
    height = max(picture.height for picture in large)
    widths = [max(1, round(picture.width * height / picture.height)) for picture in large]
    _check_size(sum(widths) + GAP * (len(widths) + 1), height + 2 * GAP)  # before resizing takes the memory
    resized = [picture.resize((width, height), Image.Resampling.LANCZOS) for picture, width in zip(large, widths)]
    return _lay_out([resized], widths, below=labels or ())


def grid(cells: Sequence[Sequence[Image.Image | None]], across: Sequence[str], down: Sequence[str]) -> Image.Image:
    """Return pictures in rows and columns, with a label above each column and beside each row; None is left empty.

    Raises:
        ClipgenError: For no picture at all, or too large a sheet.
    """
    rows = [[cell and enlarge(cell.convert("RGB")) for cell in row] for row in cells]
    widths = [picture.width for row in rows for picture in row if picture]
    if not widths:
        raise ClipgenError("grid needs at least one picture")
    above, beside = ([textwrap.fill(label, 28, max_lines=5) for label in labels] for labels in (across, down))
    return _lay_out(rows, [max(widths)] * len(above), above=above, beside=beside)


def _read_pictures(name: str, pictures: Any, labels: Sequence[str] | None) -> list[Image.Image]:
    """Return pictures as ``to_picture`` does. Raises ClipgenError for none, and for non-string labels."""
    several = to_list(pictures)
    if labels is not None and (isinstance(labels, str) or not all(isinstance(label, str) for label in labels)):
        raise ClipgenError(f"labels={labels!r}: must be a list of texts, one for each picture")
    if not several or (labels is not None and len(labels) != len(several)):
        raise ClipgenError(f"{name} needs at least one picture, and a label for each or none")
    return [to_picture(picture) for picture in several]


def _check_size(width: int, height: int) -> None:
    if width * height > PIXELS:
        raise ClipgenError(
            f"a sheet of {width}x{height} is more than {PIXELS // 10**6} megapixels; take fewer or smaller pictures, "
            "of more equal proportions"
        )


def _lay_out(
    rows: Sequence[Sequence[Image.Image | None]],
    widths: Sequence[int],
    below: Sequence[str] = (),
    above: Sequence[str] = (),
    beside: Sequence[str] = (),
) -> Image.Image:
    """Return rows of pictures in columns of these ``widths`` (pixels), with labels below, above and beside them."""
    from PIL import ImageDraw, ImageFont

    font = ImageFont.load_default(16)
    lengths = [math.ceil(font.getlength(line)) for label in beside for line in label.splitlines()]
    left = max(lengths) + 2 * GAP if lengths else GAP
    top = GAP + 20 * max((label.count("\n") + 1 for label in above), default=0)
    height = max(picture.height for row in rows for picture in row if picture)
    pitch = height + GAP + (26 if below else 0)
    size = left + sum(widths) + GAP * len(widths), top + len(rows) * pitch
    _check_size(*size)
    sheet = Image.new("RGB", size, "white")
    draw, xs = ImageDraw.Draw(sheet), [left + sum(widths[:i]) + GAP * i for i in range(len(widths))]
    for x, width, label in zip(xs, widths, above):
        draw.text((x + width / 2, top - GAP), label, "black", font, anchor="md", align="center")
    for y, label in zip(range(top, size[1], pitch), beside):
        draw.text((left - GAP, y + height / 2), label, "black", font, anchor="rm", align="right")
    texts = iter(below)
    for y, row in zip(range(top, size[1], pitch), rows):
        for x, width, picture in zip(xs, widths, row):
            draw.text((x + width / 2, y + height + 4), next(texts, ""), "black", font, anchor="ma")
            if picture:
                sheet.paste(picture, (x + (width - picture.width) // 2, y + (height - picture.height) // 2))
            else:
                draw.rectangle((x, y, x + width - 1, y + height - 1), "#eeeeee")
    return sheet


def load_upscaler(file: str | Path) -> Callable[[Image.Image], Image.Image]:
    """Return a function that makes a picture larger by the factor that the weights were trained for, such as 4.

    Args:
        file: A .safetensors or .pth of an architecture that spandrel knows (ESRGAN and many others), for RGB pictures.
            It is read as data: nothing in it is run.

    Raises:
        ClipgenError: spandrel is missing, or the file is missing or has no weights of an upscaler.
    """
    if not find_spec("spandrel"):
        raise ClipgenError(f'upscale={str(file)!r} is read by spandrel, which is missing; pip install ".[upscale]"')
    from spandrel import ImageModelDescriptor, ModelLoader

    tensors, _ = load_weights(as_safetensors(file))
    for prefix in ("params_ema.", "params."):  # of Real-ESRGAN and similar ones; the averaged weights first
        inner = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        tensors = inner or tensors
    try:
        model = ModelLoader(resolve_device()).load_from_state_dict(tensors)
    except Exception as error:  # an architecture that is not known, or weights that are not all there
        raise ClipgenError(
            f"upscale={str(file)!r}: spandrel does not know these weights ({str(error) or type(error).__name__}); "
            "choose an upscaler that it lists, or upscale=4"
        ) from error
    if not isinstance(model, ImageModelDescriptor) or model.scale < 2 or model.input_channels != 3:
        raise ClipgenError(f"upscale={str(file)!r}: these weights make no RGB picture larger; choose an upscaler's")
    model.eval()

    @torch.inference_mode()
    def upscale(picture: Image.Image) -> Image.Image:
        return to_image(model(to_tensor(picture).to(model.device))[0].float().clamp(0, 1).cpu())

    return upscale
