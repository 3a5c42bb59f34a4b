"""Pictures as people look at them: large enough, and side by side."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from PIL import Image

from clipgen.errors import ClipgenError

SHOWN = 256  # the shorter side, in pixels, that small pictures are shown and exported at


def enlarge(image: Image.Image, shortest: int = SHOWN) -> Image.Image:
    """The picture, by a whole factor (Lanczos), with its shorter side at ``shortest`` pixels or more."""
    factor = math.ceil(shortest / min(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.LANCZOS)


def png_bytes(image: Image.Image) -> bytes:
    """What a notebook shows: the picture as a PNG, enlarged if it is tiny."""
    out = io.BytesIO()
    enlarge(image).save(out, "PNG")
    return out.getvalue()


def contact_sheet(images: list[Image.Image], columns: int, labels: list[str] | None = None) -> Image.Image:
    """Pictures in rows, each with its label below."""
    images = [enlarge(image) for image in images]
    return _lay_out(images, [max(image.width for image in images)] * columns, labels)


def strip(pictures: Sequence[Image.Image], labels: Sequence[str] | None = None) -> Image.Image:
    """Pictures of any sizes side by side at one height, such as before and after, each with its label below.

    Raises ClipgenError for no pictures, and for labels that are not one for each.
    """
    if not pictures or (labels is not None and len(labels) != len(pictures)):
        raise ClipgenError("strip needs at least one picture, and a label for each or none")
    large = [enlarge(picture.convert("RGB")) for picture in pictures]
    height = max(picture.height for picture in large)
    widths = [max(1, round(picture.width * height / picture.height)) for picture in large]
    same = [picture.resize((width, height), Image.Resampling.LANCZOS) for picture, width in zip(large, widths)]
    return _lay_out(same, widths, labels)


def _lay_out(images: list[Image.Image], widths: list[int], labels: Sequence[str] | None) -> Image.Image:
    """Pictures in rows of columns with these ``widths`` in pixels, each with its label below."""
    from PIL import ImageDraw, ImageFont

    height = max(image.height for image in images)
    gap, text = 8, 26 if labels else 0
    rows = math.ceil(len(images) / len(widths))
    sheet = Image.new("RGB", (sum(widths) + gap * (len(widths) + 1), rows * (height + gap + text) + gap), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for i, image in enumerate(images):
        row, column = divmod(i, len(widths))
        x, y = gap + sum(widths[:column]) + gap * column, gap + row * (height + gap + text)
        sheet.paste(image, (x + (widths[column] - image.width) // 2, y))
        if labels:
            draw.text((x + widths[column] / 2, y + height + 4), labels[i], "black", font, anchor="ma")
    return sheet
