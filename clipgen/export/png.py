"""A picture, with its settings in a text chunk and its scores in another."""

import json
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from clipgen.export.protocol import Film, Writer


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
