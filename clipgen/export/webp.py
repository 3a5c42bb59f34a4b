"""A film in full colour that browsers show as a picture, with its settings in the Exif description."""

from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from clipgen.export.protocol import Film, Writer


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
