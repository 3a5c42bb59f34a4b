"""Pictures as people look at them: large enough, and side by side."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from typing import Any

from PIL import Image

from clipgen.errors import ClipgenError
from clipgen.images.reading import to_list, to_picture
from clipgen.setting import check_count

SHOWN = 256  # the shorter side, in pixels, that small pictures are shown and exported at
LONGEST = 4096  # a longer side that enlarging does not go beyond
PIXELS = 200_000_000  # of a sheet, at most


def enlarge(image: Image.Image, shortest: int = SHOWN) -> Image.Image:
    """Return the picture, by a whole factor (Lanczos), with its shorter side at ``shortest`` pixels or more.

    A picture that is very long is not enlarged beyond ``LONGEST``.
    """
    factor = max(1, min(math.ceil(shortest / min(image.size)), LONGEST // max(image.size)))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.LANCZOS)


def repeated(image: Image.Image, times: int = 3) -> Image.Image:
    """The picture beside and below itself, so many times each way: a seamless one shows no edge."""
    wide = Image.new(image.mode, (times * image.width, times * image.height))
    for place in range(times * times):
        wide.paste(image, (place % times * image.width, place // times * image.height))
    return wide


def png_bytes(image: Image.Image) -> bytes:
    """What a notebook shows: the picture as a PNG, enlarged if it is tiny."""
    out = io.BytesIO()
    enlarge(image).save(out, "PNG")
    return out.getvalue()


def contact_sheet(
    images: Sequence[Any], columns: int, labels: Sequence[str] | None = None, shortest: int = SHOWN
) -> Image.Image:
    """Return pictures in rows, each with its label below, and its shorter side at ``shortest`` pixels or more.

    ``images``: anything that ``to_picture`` takes.

    Raises:
        ClipgenError: For no pictures, no columns, labels that are not one for each, and a sheet beyond all bounds.
    """
    columns, shortest = check_count("columns", columns), check_count("shortest", shortest)
    pictures = [enlarge(picture, shortest) for picture in _read("contact_sheet", images, labels)]
    widest = max(picture.width for picture in pictures)
    _check_size(widest * columns, max(picture.height for picture in pictures))
    return _lay_out(pictures, [widest] * columns, labels)


def strip(pictures: Sequence[Any], labels: Sequence[str] | None = None) -> Image.Image:
    """Pictures of any kinds and sizes side by side at one height, such as before and after, each with its label below.

    Raises ClipgenError for no pictures, for labels that are not one for each, and for a strip beyond all bounds.
    """
    large = [enlarge(picture) for picture in _read("strip", pictures, labels)]
    height = max(picture.height for picture in large)
    widths = [max(1, round(picture.width * height / picture.height)) for picture in large]
    _check_size(sum(widths), height)
    same = [picture.resize((width, height), Image.Resampling.LANCZOS) for picture, width in zip(large, widths)]
    return _lay_out(same, widths, labels)


def grid(cells: Sequence[Sequence[Image.Image | None]], across: Sequence[str], down: Sequence[str]) -> Image.Image:
    """Pictures in rows and columns, with a label above each column and beside each row; None is an empty place.

    Raises ClipgenError where there is no picture at all.
    """
    from PIL import ImageDraw, ImageFont

    pictures = [[cell and enlarge(cell.convert("RGB")) for cell in row] for row in cells]
    if not (made := [picture for row in pictures for picture in row if picture]):
        raise ClipgenError("grid needs at least one picture")
    wide, high = max(picture.width for picture in made), max(picture.height for picture in made)
    gap, font = 8, ImageFont.load_default(16)
    above, beside = ([textwrap.fill(label, 28, max_lines=5) for label in labels] for labels in (across, down))
    lengths = [font.getlength(line) for label in beside for line in label.splitlines()]
    margin, crown = (
        math.ceil(max(lengths, default=0)) + 2 * gap,
        20 * max(label.count("\n") + 1 for label in above) + gap,
    )
    size = margin + len(across) * (wide + gap), crown + len(down) * (high + gap)
    _check_size(*size)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for column, label in enumerate(above):
        middle = margin + column * (wide + gap) + wide / 2
        draw.text((middle, crown - gap), label, "black", font, anchor="md", align="center")
    for row, label in enumerate(beside):
        y = crown + row * (high + gap)
        draw.text((margin - gap, y + high / 2), label, "black", font, anchor="rm", align="right")
        for column, picture in enumerate(pictures[row]):
            x = margin + column * (wide + gap)
            if picture:
                sheet.paste(picture, (x + (wide - picture.width) // 2, y + (high - picture.height) // 2))
            else:
                draw.rectangle((x, y, x + wide - 1, y + high - 1), "#eeeeee")
    return sheet


def _read(name: str, pictures: Any, labels: Sequence[str] | None) -> list[Image.Image]:
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
    """Pictures in rows of columns with these ``widths`` in pixels, each with its label below."""
    from PIL import ImageDraw, ImageFont

    height = max(image.height for image in images)
    gap, text = 8, 26 if labels else 0
    rows = math.ceil(len(images) / len(widths))
    size = sum(widths) + gap * (len(widths) + 1), rows * (height + gap + text) + gap
    _check_size(*size)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for i, image in enumerate(images):
        row, column = divmod(i, len(widths))
        x, y = gap + sum(widths[:column]) + gap * column, gap + row * (height + gap + text)
        sheet.paste(image, (x + (widths[column] - image.width) // 2, y))
        if labels:
            draw.text((x + widths[column] / 2, y + height + 4), labels[i], "black", font, anchor="ma")
    return sheet
