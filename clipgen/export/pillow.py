"""PNG pictures, and GIF and WebP films, with their settings: what Pillow writes."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from clipgen.export.protocol import Film, TimedFrame, Writer


class Png(Writer):
    film = False

    def write(self, film: Film, file: Path, settings: str) -> None:
        chunks = PngInfo()
        if settings:
            chunks.add_itxt("clipgen", settings)
        (frame,) = film.frames
        if frame.scores:
            chunks.add_itxt("clipgen scores", json.dumps(dict(frame.scores)))
        film.resize(frame.picture).save(file, pnginfo=chunks)

    def read_settings(self, file: Path) -> str | None:
        with Image.open(file, formats=["PNG"]) as image:
            return image.info.get("clipgen")


class Gif(Writer):
    max_fps = 50  # browsers slow a frame of less than 1/50 s down to a tenth of a second

    def write(self, film: Film, file: Path, settings: str) -> None:
        frames, ticks = zip(*film.ticks(100))
        palette = _make_palette(frames)
        first, *others = _quantize((film.resize(frame.picture) for frame in frames), palette)
        options: dict[str, Any] = {"loop": 0} if film.loop else {}
        if settings:
            options["comment"] = settings.encode()
        options["duration"] = [10 * min(count, 65_535) for count in ticks]
        # Without ``palette`` Pillow gives every frame a table of its own, with the same colours.
        options["palette"] = bytes(palette.getpalette() or [])
        first.save(file, save_all=True, append_images=others, **options)

    def read_settings(self, file: Path) -> str | None:
        with Image.open(file, formats=["GIF"]) as image:
            return image.info.get("comment", b"").decode("utf-8", "replace")


def _quantize(pictures: Iterable[Image.Image], palette: Image.Image) -> Iterator[Image.Image]:
    """Yield pictures in a palette's colours; unchanged pixels keep theirs, or dithering would make them flicker."""
    previous = None
    for picture in pictures:
        quantized = picture.quantize(palette=palette)
        if previous is not None:
            unchanged = (np.asarray(picture) == np.asarray(previous[0])).all(-1)
            quantized.paste(previous[1], (0, 0), Image.fromarray(unchanged))
        yield quantized
        previous = picture, quantized


def _make_palette(frames: Sequence[TimedFrame]) -> Image.Image:
    """Return one palette for all frames. Each counts by its seconds, a held one at most half as much as the rest."""
    shortest, most = min(frame.seconds for frame in frames), max(1, len(frames) // 2)
    sample = [frame.picture for frame in frames for _ in range(min(most, round(frame.seconds / shortest)))]
    side = max(8, math.isqrt(2**19 // len(sample)))
    column = Image.new("RGB", (side, side * len(sample)))
    for i, picture in enumerate(sample):
        column.paste(picture.convert("RGB").resize((side, side), Image.Resampling.NEAREST), (0, i * side))
    if column.getcolors(256):  # few colours stay exact
        return column.quantize(256, Image.Quantize.MEDIANCUT)
    # Half of MEDIANCUT's error in a fortieth of its time, as measured on drawings. Pillow would reorder the colours of
    # each frame if unused ones stood at the end.
    palette = column.quantize(256, Image.Quantize.FASTOCTREE)
    palette.putpalette((palette.getpalette() or [])[: 3 * (palette.getextrema()[1] + 1)])
    return palette


class WebP(Writer):
    max_side = 16_383

    def write(self, film: Film, file: Path, settings: str) -> None:
        frames, milliseconds = zip(*film.ticks(1000))
        first, *others = [film.resize(frame.picture) for frame in frames]
        options: dict[str, Any] = {"duration": list(milliseconds), "loop": int(not film.loop)}
        if settings:
            options["exif"] = exif = Image.Exif()
            exif[ExifTags.Base.ImageDescription] = settings
        first.save(file, save_all=True, append_images=others, quality=85, method=4, **options)

    def read_settings(self, file: Path) -> str | None:
        with Image.open(file, formats=["WEBP"]) as image:
            text = image.getexif().get(ExifTags.Base.ImageDescription, "")
        return text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
