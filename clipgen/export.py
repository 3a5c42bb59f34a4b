"""Frames to files: PNG, GIF, WebP and MP4, by the suffix of the name."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
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


def export(
    frames: Iterable[Image.Image],
    file: str | Path,
    settings: dict | None = None,
    fps: float = 15,
    hold: float = 2.0,
    boomerang: bool = False,
    megabytes: float | None = None,
) -> Path:
    """Write frames as a film, or the last one as a PNG; returns the path.

    ``fps`` frames a second, the last one for ``hold`` seconds, with ``boomerang`` forwards and then backwards; films
    loop (MP4 leaves that to the player). ``megabytes``: at most so large, with fewer and then smaller frames if need
    be. ``settings`` go along as JSON (not in MP4); ``settings_of`` reads them. The file appears only when it is
    complete. Raises ClipgenError for an unknown suffix, for no frames, for numbers that cannot work, for a limit that
    cannot be met and for a place that cannot be written.
    """
    file, suffix = Path(file), check_suffix(file)
    if not (0 < fps <= 60 and 0 <= hold <= 60):
        raise ClipgenError(f"fps={fps}, hold={hold}: fps from above 0 to 60, hold from 0 to 60 seconds")
    if megabytes is not None and not megabytes > 0:
        raise ClipgenError(f"megabytes={megabytes}: has to be above 0")
    pictures = [enlarge(frame.convert("RGB")) for frame in frames]
    if not pictures:
        raise ClipgenError(f"output={str(file)!r}: this run has no frames yet; let it make at least one")
    if boomerang:
        pictures += pictures[-2:0:-1]
    part = file.with_name(f".{file.stem}.part{suffix}")
    notes = json.dumps(settings or {})
    try:
        while True:
            if suffix == ".png":
                chunk = PngInfo()
                chunk.add_itxt("clipgen", notes)
                pictures[-1].save(part, pnginfo=chunk)
            elif suffix == ".mp4":
                _mp4(pictures, part, fps, hold)
            else:
                _animation(pictures, part, fps, hold, notes)
            if megabytes is None or part.stat().st_size <= megabytes * 1e6:
                break
            pictures = _less(pictures, part.stat().st_size / 1e6, megabytes, file)
        os.replace(part, file)
    except OSError as error:
        raise ClipgenError(
            f"output={str(file)!r}: {error.strerror or error}; choose a place that can be written"
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return file


def _less(pictures: list[Image.Image], size: float, limit: float, file: Path) -> list[Image.Image]:
    """Every other frame (and the last), or pictures of 3/4 the side once there are few."""
    if len(pictures) > 24:
        return pictures[:-1:2] + pictures[-1:]
    if min(pictures[0].size) < 64:
        raise ClipgenError(f"megabytes={limit}: {file.name} cannot be made smaller than {size:.2f} MB; allow more")
    side = [max(2, 3 * side // 4 // 2 * 2) for side in pictures[0].size]
    return [picture.resize((side[0], side[1]), Image.Resampling.LANCZOS) for picture in pictures]


def settings_of(file: str | Path) -> dict:
    """The settings that a PNG, GIF or WebP was exported with. Raises ClipgenError if it carries none."""
    try:
        with Image.open(file) as image:
            found = image.info.get("clipgen") or image.info.get("comment") or image.info.get("xmp") or ""
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ClipgenError(f"{file}: cannot be read as a picture ({error}); choose one that clipgen wrote") from error
    text = found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)
    try:
        settings = json.loads(text) if len(text) <= 1_000_000 else None
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict) or not settings:
        raise ClipgenError(f"{file}: carries no settings; choose a run folder, or a PNG, GIF or WebP of clipgen")
    return settings


def _animation(pictures: list[Image.Image], file: Path, fps: float, hold: float, notes: str) -> None:
    durations = [round(1000 / fps)] * (len(pictures) - 1) + [round(1000 * hold) or round(1000 / fps)]
    if file.suffix == ".gif":
        # One palette, from all frames: colours that jump from frame to frame flicker. The last one counts most.
        sample = pictures[:: len(pictures) // 32 + 1] + pictures[-1:] * 8
        column = Image.new("RGB", (64, 64 * len(sample)))
        for i, picture in enumerate(sample):
            column.paste(picture.resize((64, 64), Image.Resampling.NEAREST), (0, 64 * i))
        palette = column.quantize(256, Image.Quantize.MEDIANCUT)
        pictures = [p.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for p in pictures]
    extra: dict[str, Any] = {"comment": notes.encode()} if file.suffix == ".gif" else {"xmp": notes.encode()}
    pictures[0].save(file, save_all=True, append_images=pictures[1:], duration=durations, loop=0, **extra)


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
    width, height = max(image.width for image in images), max(image.height for image in images)
    gap, text = 8, 26 if labels else 0
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap + text) + gap), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for i, image in enumerate(images):
        x, y = gap + i % columns * (width + gap), gap + i // columns * (height + gap + text)
        sheet.paste(image, (x + (width - image.width) // 2, y))
        if labels:
            draw.text((x + width / 2, y + height + 4), labels[i], "black", font, anchor="ma")
    return sheet


def strip(pictures: Sequence[Image.Image], labels: Sequence[str] | None = None) -> Image.Image:
    """Pictures of any sizes side by side at one height, such as before and after."""
    if not pictures or (labels is not None and len(labels) != len(pictures)):
        raise ClipgenError("strip needs at least one picture, and a label for each or none")
    large = [enlarge(picture.convert("RGB")) for picture in pictures]
    height = max(picture.height for picture in large)
    same = [p.resize((round(p.width * height / p.height), height), Image.Resampling.LANCZOS) for p in large]
    return contact_sheet(same, len(same), list(labels) if labels else None)
