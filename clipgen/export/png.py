"""A picture, with the settings in a text chunk, and its scores in another."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from clipgen.export.protocol import Film, Writer


class Png(Writer):
    mime = "image/png"
    film = False

    def write(self, film: Film, file: Path, notes: str) -> None:
        chunk = PngInfo()
        if notes:
            chunk.add_itxt("clipgen", notes)
        for shot in film.shots:
            if shot.scores:
                chunk.add_itxt("clipgen scores", json.dumps(dict(shot.scores)))
            film.sized(shot.picture).save(file, pnginfo=chunk)

    def notes(self, file: Path) -> str | None:
        with Image.open(file, formats=["PNG"]) as image:
            return image.info.get("clipgen")
