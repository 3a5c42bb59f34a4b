"""One folder per run: settings, frames and scores, written so that a crash loses at most the frame in the making."""

from __future__ import annotations

import csv
import json
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from clipgen.errors import ClipgenError


class Journal:
    """``settings.json``, ``scores.csv`` and ``frames/00000.png``... in ``folder``."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    @classmethod
    def create(cls, parent: str | Path, slug: str, settings: dict) -> Journal:
        """A new ``<parent>/<date>-<slug>-<id>``. Raises ClipgenError where it cannot be written."""
        folder = Path(parent) / f"{time.strftime('%Y%m%d-%H%M%S')}-{slug}-{secrets.token_hex(2)}"
        try:
            (folder / "frames").mkdir(parents=True)
        except OSError as error:
            raise ClipgenError(
                f"folder={str(parent)!r}: {error.strerror}; choose a folder that can be written"
            ) from error
        journal = cls(folder)
        journal._replace("settings.json", (json.dumps(settings, indent=2) + "\n").encode())
        return journal

    @property
    def settings(self) -> dict:
        return json.loads((self.folder / "settings.json").read_text())

    def _replace(self, name: str, content: bytes) -> None:
        part = self.folder / f"{name}.part"
        part.write_bytes(content)
        os.replace(part, self.folder / name)

    def add(self, step: int, image: Image.Image, scores: dict[str, float]) -> None:
        """Keep a frame and its scores."""
        file = self._frame(step)
        part = file.with_suffix(".part")
        image.save(part, "PNG")
        os.replace(part, file)
        table = self.folder / "scores.csv"
        new = not table.exists()
        with table.open("a", newline="") as out:
            writer = csv.writer(out)
            if new:
                writer.writerow(["step", *scores])
            writer.writerow([step, *(f"{value:.6g}" for value in scores.values())])

    def _frame(self, step: int) -> Path:
        return self.folder / "frames" / f"{step:05d}.png"

    def frame(self, step: int) -> Image.Image:
        with Image.open(self._frame(step)) as image:
            return image.convert("RGB")

    @property
    def steps(self) -> list[int]:
        """The steps whose frames are kept, in order."""
        return sorted(int(file.stem) for file in (self.folder / "frames").glob("*.png"))

    def frames(self) -> Iterator[Image.Image]:
        """The film so far, read one frame at a time."""
        return map(self.frame, self.steps)

    @property
    def scores(self) -> list[dict[str, float]]:
        """One row per frame: ``step`` and the scores."""
        with (self.folder / "scores.csv").open(newline="") as table:
            return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(table)]
