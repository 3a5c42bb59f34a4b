"""A film in full colour that browsers show as a picture, with the settings in its Exif description."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from clipgen.export.protocol import Film, Writer


class WebP(Writer):
    mime = "image/webp"
    longest = 16_383

    def write(self, film: Film, file: Path, notes: str) -> None:
        first, *others = [film.sized(shot.picture) for shot in film.shots]
        extra: dict[str, Any] = {"duration": [ticks for _, ticks in film.ticks(1000)], "loop": 0 if film.loop else 1}
        if notes:
            extra["exif"] = exif = Image.Exif()
            exif[ExifTags.Base.ImageDescription] = notes
        first.save(file, save_all=True, append_images=others, quality=85, method=4, **extra)

    def notes(self, file: Path) -> str | None:
        with Image.open(file, formats=["WEBP"]) as image:
            found = image.getexif().get(ExifTags.Base.ImageDescription, "")
        return found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)
