"""Pictures for people to look at: enlarged, side by side, repeated, with a heat map."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from clipgen.errors import ClipgenError
from clipgen.images.reading import to_list, to_picture
from clipgen.setting import check_count

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
    """Return the picture ``times`` times beside and below itself, which shows the edges of one that is not seamless."""
    sheet = Image.new(image.mode, (times * image.width, times * image.height))
    for i in range(times * times):
        sheet.paste(image, (i % times * image.width, i // times * image.height))
    return sheet


def overlay_heat(picture: Image.Image, strength: np.ndarray) -> Image.Image:
    """Return a picture in dim grey with a heat map over it.

    Args:
        picture: Of any mode.
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
    widest = max(picture.width for picture in pictures)
    _check_size(widest * columns, max(picture.height for picture in pictures))
    return _lay_out(pictures, [widest] * columns, labels)


def strip(pictures: Sequence[Any], labels: Sequence[str] | None = None) -> Image.Image:
    """Return pictures of any sizes side by side at one height, such as before and after, each with its label below.

    ``pictures``: anything that ``to_picture`` takes.

    Raises:
        ClipgenError: For no pictures, labels that are not one for each, or too large a strip.
    """
    large = [enlarge(picture) for picture in _read_pictures("strip", pictures, labels)]
    height = max(picture.height for picture in large)
    widths = [max(1, round(picture.width * height / picture.height)) for picture in large]
    _check_size(sum(widths), height)
    resized = [picture.resize((width, height), Image.Resampling.LANCZOS) for picture, width in zip(large, widths)]
    return _lay_out(resized, widths, labels)


def grid(cells: Sequence[Sequence[Image.Image | None]], across: Sequence[str], down: Sequence[str]) -> Image.Image:
    """Return pictures in rows and columns, with a label above each column and beside each row; None is left empty.

    Raises:
        ClipgenError: For no picture at all, or too large a sheet.
    """
    from PIL import ImageDraw, ImageFont

    rows = [[cell and enlarge(cell.convert("RGB")) for cell in row] for row in cells]
    pictures = [picture for row in rows for picture in row if picture]
    if not pictures:
        raise ClipgenError("grid needs at least one picture")
    width, height = max(picture.width for picture in pictures), max(picture.height for picture in pictures)
    font = ImageFont.load_default(16)
    above, beside = ([textwrap.fill(label, 28, max_lines=5) for label in labels] for labels in (across, down))
    lengths = [font.getlength(line) for label in beside for line in label.splitlines()]
    left = math.ceil(max(lengths, default=0)) + 2 * GAP
    top = 20 * max(label.count("\n") + 1 for label in above) + GAP
    size = left + len(across) * (width + GAP), top + len(down) * (height + GAP)
    _check_size(*size)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for column, label in enumerate(above):
        x = left + column * (width + GAP) + width / 2
        draw.text((x, top - GAP), label, "black", font, anchor="md", align="center")
    for row, label in enumerate(beside):
        y = top + row * (height + GAP)
        draw.text((left - GAP, y + height / 2), label, "black", font, anchor="rm", align="right")
        for column, picture in enumerate(rows[row]):
            x = left + column * (width + GAP)
            if picture:
                sheet.paste(picture, (x + (width - picture.width) // 2, y + (height - picture.height) // 2))
            else:
                draw.rectangle((x, y, x + width - 1, y + height - 1), "#eeeeee")
    return sheet


def _read_pictures(name: str, pictures: Any, labels: Sequence[str] | None) -> list[Image.Image]:
    """Return pictures as ``to_picture`` does. Raises ClipgenError for none, and for labels that are not a text each."""
    several = to_list(pictures)
    if labels is not None and (isinstance(labels, str) or not all(isinstance(label, str) for label in labels)):
        raise ClipgenError(f"labels={labels!r}: has to be a list of texts, one for each picture")
    if not several or (labels is not None and len(labels) != len(several)):
        raise ClipgenError(f"{name} needs at least one picture, and a label for each or none")
    return [to_picture(picture) for picture in several]


def _check_size(width: int, height: int) -> None:
    if width * height > PIXELS:
        raise ClipgenError(
            f"a sheet of {width}x{height} is more than {PIXELS // 10**6} megapixels; take fewer or smaller pictures, "
            "of more equal proportions"
        )


def _lay_out(images: list[Image.Image], widths: list[int], labels: Sequence[str] | None) -> Image.Image:
    """Return pictures in rows, in columns of these ``widths`` in pixels, each with its label below."""
    from PIL import ImageDraw, ImageFont

    height, text = max(image.height for image in images), 26 if labels else 0
    rows = math.ceil(len(images) / len(widths))
    size = sum(widths) + GAP * (len(widths) + 1), rows * (height + GAP + text) + GAP
    _check_size(*size)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for i, image in enumerate(images):
        row, column = divmod(i, len(widths))
        x, y = GAP + sum(widths[:column]) + GAP * column, GAP + row * (height + GAP + text)
        sheet.paste(image, (x + (widths[column] - image.width) // 2, y))
        if labels:
            draw.text((x + widths[column] / 2, y + height + 4), labels[i], "black", font, anchor="ma")
    return sheet
