"""A film in 256 colours, with the settings in its comment."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipgen.export.protocol import Film, Shot, Writer


class Gif(Writer):
    mime = "image/gif"
    fastest = 50  # browsers slow a frame of less than 1/50 s down to a tenth of a second

    def write(self, film: Film, file: Path, notes: str) -> None:
        palette = _palette(list(film.shots))
        first, *others = _quantized((film.sized(shot.picture) for shot in film.shots), palette)
        extra: dict[str, Any] = ({"loop": 0} if film.loop else {}) | ({"comment": notes.encode()} if notes else {})
        durations = [10 * min(ticks, 65_535) for _, ticks in film.ticks(100)]
        # Without ``palette`` Pillow gives every frame a table of its own, with the same colours.
        table = bytes(palette.getpalette() or [])
        first.save(file, save_all=True, append_images=others, duration=durations, palette=table, **extra)

    def notes(self, file: Path) -> str | None:
        with Image.open(file, formats=["GIF"]) as image:
            return image.info.get("comment", b"").decode("utf-8", "replace")


def _quantized(pictures: Iterable[Image.Image], palette: Image.Image) -> Iterator[Image.Image]:
    """Yield pictures in the colours of a palette; a pixel that stands still keeps its colour.

    A dither hands its errors on from pixel to pixel: computed anew for each frame, it would flicker in what is still.
    """
    pixels, quantized = np.zeros(0), None
    for picture in pictures:
        last, pixels = pixels, np.asarray(picture)
        before, quantized = quantized, picture.quantize(palette=palette)
        if before is not None:
            quantized.paste(before, (0, 0), Image.fromarray((pixels == last).all(-1)))
        yield quantized


def _palette(shots: Sequence[Shot]) -> Image.Image:
    """One palette for all frames, or colours flicker.

    Each counts for as long as it is shown, the held one for at most half as much as all the others.
    """
    shortest, most = min(shot.seconds for shot in shots), max(1, len(shots) // 2)
    sample = [shot.picture for shot in shots for _ in range(min(most, round(shot.seconds / shortest)))]
    side = max(8, math.isqrt(2**19 // len(sample)))
    column = Image.new("RGB", (side, side * len(sample)))
    for i, picture in enumerate(sample):
        column.paste(picture.convert("RGB").resize((side, side), Image.Resampling.NEAREST), (0, i * side))
    return column.quantize(256, Image.Quantize.MEDIANCUT)
