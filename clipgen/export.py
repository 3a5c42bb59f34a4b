"""Frames to files: PNG, GIF, WebP and MP4, by the suffix of the name."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from clipgen.errors import ClipgenError

SHOWN = 256  # the shorter side, in pixels, that small pictures are shown and exported at
SUFFIXES = (".png", ".gif", ".webp", ".mp4")


def enlarge(image: Image.Image, shortest: int = SHOWN) -> Image.Image:
    """The picture, by a whole factor (Lanczos), with its shorter side at ``shortest`` pixels or more."""
    factor = math.ceil(shortest / min(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.LANCZOS)


def check_suffix(file: str | Path) -> str:
    """The suffix of a file that can be exported; raises ClipgenError for another."""
    suffix = Path(file).suffix.lower()
    if suffix not in SUFFIXES:
        raise ClipgenError(f"output={str(file)!r}: the suffix decides the format; use one of {', '.join(SUFFIXES)}")
    return suffix


def export(frames: Iterable[Image.Image], file: str | Path, settings: dict | None = None,
           fps: float = 15, hold: float = 2.0) -> Path:  # fmt: skip
    """Write frames as a film, or the last one as a PNG; returns the path.

    ``fps`` frames a second, the last one for ``hold`` seconds; films loop (MP4 leaves that to the player).
    ``settings`` go into the PNG's text chunk ``clipgen`` as JSON. The file appears only when it is complete. Raises
    ClipgenError for an unknown suffix, for no frames and for a place that cannot be written.
    """
    file, suffix = Path(file), check_suffix(file)
    pictures = [enlarge(frame.convert("RGB")) for frame in frames]
    if not pictures:
        raise ClipgenError(f"output={str(file)!r}: this run has no frames yet; let it make at least one")
    part = file.with_name(f".{file.stem}.part{suffix}")
    try:
        if suffix == ".png":
            chunk = PngInfo()
            chunk.add_text("clipgen", json.dumps(settings or {}))
            pictures[-1].save(part, pnginfo=chunk)
        elif suffix == ".mp4":
            _mp4(pictures, part, fps, hold)
        else:
            _animation(pictures, part, fps, hold)
        os.replace(part, file)
    except OSError as error:
        raise ClipgenError(
            f"output={str(file)!r}: {error.strerror or error}; choose a place that can be written"
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return file


def _animation(pictures: list[Image.Image], file: Path, fps: float, hold: float) -> None:
    durations = [round(1000 / fps)] * (len(pictures) - 1) + [round(1000 * hold)]
    if file.suffix == ".gif":
        # One palette, from the last frames and the first: colours that jump from frame to frame flicker.
        sample = [pictures[0], pictures[len(pictures) // 2], pictures[-1], pictures[-1]]
        strip = Image.new("RGB", (pictures[0].width, pictures[0].height * len(sample)))
        for i, picture in enumerate(sample):
            strip.paste(picture, (0, i * picture.height))
        palette = strip.quantize(256, Image.Quantize.MEDIANCUT)
        pictures = [p.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for p in pictures]
    pictures[0].save(file, save_all=True, append_images=pictures[1:], duration=durations, loop=0)


def _mp4(pictures: list[Image.Image], file: Path, fps: float, hold: float) -> None:
    import imageio.v2 as imageio
    import numpy as np

    held = [pictures[-1]] * round(hold * fps)
    # yuv420p and even sides: what browsers play.
    film: Any
    with imageio.get_writer(file, fps=fps, codec="libx264", pixelformat="yuv420p", macro_block_size=2) as film:
        for picture in (*pictures, *held):
            film.append_data(np.asarray(picture))


def contact_sheet(images: list[Image.Image], columns: int, labels: list[str] | None = None) -> Image.Image:
    """Pictures in rows, each with its label below."""
    from PIL import ImageDraw, ImageFont

    images = [enlarge(image) for image in images]
    width, height = images[0].size
    gap, text = 8, 26 if labels else 0
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap + text) + gap), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for i, image in enumerate(images):
        x, y = gap + i % columns * (width + gap), gap + i // columns * (height + gap + text)
        sheet.paste(image, (x, y))
        if labels:
            draw.text((x + width / 2, y + height + 4), labels[i], "black", font, anchor="ma")
    return sheet
