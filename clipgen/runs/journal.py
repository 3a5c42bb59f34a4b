"""One folder per run: settings, frames, scores and state, so that a crash loses at most the frame in the making.

``settings.json``; ``frames/00003.png``; ``latents/00003.npy``, what the frame is made of; ``scores.csv``;
``changes.jsonl``, what was steered; ``inputs/``, the pictures that the settings name; ``state.safetensors``, from which
the run goes on. Every file is written under another name first and then renamed.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from clipgen.errors import ClipgenError
from clipgen.images.reading import to_picture

FORMAT = 2
PARTS = "frames", "latents", "inputs"  # folders of every run
READABLE = (1, FORMAT)  # until format 2 latents were kept in ``tokens``, and own losses only counted


def _new(parent: Path, slug: str) -> Path:
    """A folder that nobody else has: runs of one prompt that begin in one second are told apart by chance."""
    while True:
        folder = parent / f"{time.strftime('%Y%m%d-%H%M%S')}-{slug}-{secrets.token_hex(2)}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder


class Journal:
    """The folder of a run. Its methods raise ClipgenError for a folder that is damaged or no run's."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.flush: Callable[[], None] = lambda: None  # waits for what is still being written

    def _path(self, name: str) -> Path:
        """Return where a file of this folder is: every file that is read, written or deleted is named by it.

        Raises ClipgenError for one that lies elsewhere, because of symbolic links in a folder that somebody sent, and
        for a pipe or a device.
        """
        path = self.folder / name
        try:
            inside = path.resolve().is_relative_to(self.folder.resolve())
        except (OSError, RuntimeError):  # links in a circle
            inside = False
        if not inside:
            raise ClipgenError(f"{path}: a link leads out of the run folder, and is not followed; delete it")
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ClipgenError(f"{path}: this is no plain file; delete it")
        return path

    @classmethod
    def create(cls, parent: str | Path, slug: str, settings: dict) -> Journal:
        """A new ``<parent>/<date>-<slug>-<id>``, no other run's. Raises ClipgenError where it cannot be written."""
        journal = None
        try:
            Path(parent).mkdir(parents=True, exist_ok=True)
            journal = cls(_new(Path(parent), slug))
            for part in PARTS:
                (journal.folder / part).mkdir()
            journal._replace("settings.json", (json.dumps({"format": FORMAT} | settings, indent=2) + "\n").encode())
        except OSError as error:
            if journal:
                shutil.rmtree(journal.folder, ignore_errors=True)
            raise ClipgenError(
                f"folder={str(parent)!r}: {error.strerror}; choose a folder that can be written"
            ) from error
        return journal

    @classmethod
    def open(cls, folder: str | Path) -> Journal:
        """An existing run folder. Raises ClipgenError if it is none, damaged, or of another version."""
        journal = cls(folder)
        if not journal._path("settings.json").is_file():
            raise ClipgenError(f"{folder}: this is no run folder (it has no settings.json); choose one of clipgen-runs")
        if (found := journal.settings.get("format")) not in READABLE:
            raise ClipgenError(
                f"{folder}: written by another version of clipgen (format {found}, here {FORMAT}); use that one"
            )
        return journal

    @property
    def settings(self) -> dict:
        try:
            settings = json.loads(self._path("settings.json").read_text())
            return settings if isinstance(settings, dict) else {}
        except ValueError as error:
            raise ClipgenError(f"{self.folder}: settings.json is damaged ({error}); this run cannot be read") from error

    @property
    def history(self) -> dict:
        """The settings and what was changed on the way: all that a replay needs beside the pictures."""
        return self.settings | ({"changes": changes} if (changes := self.changes) else {})

    def _replace(self, name: str, content: bytes) -> None:
        path = self._path(name)
        part = path.with_name(f"{path.name}.part")
        try:
            part.unlink(missing_ok=True)  # a link would be written through
            part.write_bytes(content)
            os.replace(part, path)
        except OSError:
            part.unlink(missing_ok=True)
            raise

    # --- frames ---------------------------------------------------------------------------------------

    def add(self, step: int, image: Image.Image, latent: Tensor, scores: dict[str, float]) -> None:
        """Keep a frame, what its latent was packed to, and its scores."""
        picture, numbers = io.BytesIO(), io.BytesIO()
        image.save(picture, "PNG")
        # The width of tokens is that of format 1.
        kept = latent.cpu().numpy()
        np.save(numbers, kept if latent.is_floating_point() else kept.astype(np.int32), allow_pickle=False)
        self._replace(self._latent(step), numbers.getvalue())
        self._replace(f"frames/{step:05d}.png", picture.getvalue())
        table = self._path("scores.csv")
        new = not table.exists()
        with table.open("a", newline="") as out:
            writer = csv.writer(out)
            if new:
                writer.writerow(["step", *scores])
            writer.writerow([step, *(f"{value:.6g}" for value in scores.values())])

    def frame(self, step: int) -> Image.Image:
        self.flush()
        try:
            return to_picture(self._path(f"frames/{step:05d}.png"), ["PNG"])
        except ClipgenError as error:
            raise ClipgenError(f"{self.folder}: frame {step} is missing or damaged ({error})") from error

    def latent(self, step: int) -> np.ndarray:
        """What the frame was made of: tokens (h, w) int32, or a latent (1, ...) float16; ``init`` takes both."""
        self.flush()
        try:
            return np.load(self._path(self._latent(step)), allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ClipgenError(f"{self.folder}: the latent of step {step} is missing or damaged ({error})") from error

    def _latent(self, step: int) -> str:
        return f"{'tokens' if (self.folder / 'tokens').is_dir() else 'latents'}/{step:05d}.npy"

    @property
    def steps(self) -> list[int]:
        """The steps whose frames are kept, in order."""
        self.flush()
        return sorted(int(file.stem) for file in self._path("frames").glob("*.png") if file.stem.isdecimal())

    def frames(self) -> Iterator[Image.Image]:
        """The film so far, read one frame at a time."""
        return map(self.frame, self.steps)

    @property
    def scores(self) -> list[dict[str, float]]:
        """One row per frame: ``step`` and the scores."""
        self.flush()
        table = self._path("scores.csv")
        if not table.exists():
            return []
        with table.open(newline="") as rows:
            # A kill can leave half a row at the end.
            return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(rows) if None not in row.values()]

    def keep_until(self, step: int, wanted: Iterator[int] | range | set[int]) -> None:
        """Forget frames after ``step``, and those that are not ``wanted``: they will be made again, or were extra."""
        for number in self.steps:
            if number > step or number not in wanted:
                for file in (f"frames/{number:05d}.png", self._latent(number)):
                    self._path(file).unlink(missing_ok=True)
        rows = [row for row in self.scores if row["step"] in set(self.steps)]
        if rows:
            out = io.StringIO(newline="")
            writer = csv.writer(out)
            writer.writerow(rows[0])
            writer.writerows([int(row["step"]), *(f"{v:.6g}" for v in list(row.values())[1:])] for row in rows)
            self._replace("scores.csv", out.getvalue().encode())
        else:
            self._path("scores.csv").unlink(missing_ok=True)

    # --- what the run goes on from --------------------------------------------------------------------

    def save_state(self, step: int, tensors: Mapping[str, Tensor], notes: dict) -> None:
        """Replace the state by that after ``step``. ``notes``: anything JSON can say."""
        stored = {key: tensor.detach().cpu() for key, tensor in tensors.items()}
        # Channels that stand side by side are written as they are: to move half a gigabyte of logits takes a second.
        beside = [key for key, tensor in stored.items() if tensor.ndim == 4 and not tensor.is_contiguous()]
        stored |= {key: stored[key].permute(0, 2, 3, 1) for key in beside}
        told = json.dumps({"step": step, "channels_last": beside} | notes)
        whole = save({key: tensor.contiguous() for key, tensor in stored.items()}, {"state": told})
        self._replace("state.safetensors", whole)

    def load_state(self) -> tuple[int, dict[str, Tensor], dict] | None:
        """(step, tensors, notes) of the newest state, None before the first."""
        self.flush()
        file = self._path("state.safetensors")
        if not file.exists():
            return None
        try:
            with safe_open(file, "pt") as stored:
                notes = json.loads(stored.metadata()["state"])
                tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
            for key in notes.pop("channels_last", ()):
                tensors[key] = tensors[key].permute(0, 3, 1, 2)
            return int(notes.pop("step")), tensors, notes
        except Exception as error:  # safetensors has errors of its own
            raise ClipgenError(
                f"{file}: the state is damaged ({error}); delete this file, and the run starts from its beginning"
            ) from error

    def change(self, step: int, asked: Mapping[str, Any]) -> None:
        """Note that settings were changed before ``step``."""
        lines = [json.dumps(change) + "\n" for change in [*self.changes, {"step": step, **asked}]]
        self._replace("changes.jsonl", "".join(lines).encode())

    @property
    def changes(self) -> list[dict]:
        """What was changed while the run went on, each with its ``step``."""
        file = self._path("changes.jsonl")
        if not file.exists():
            return []
        try:
            return [json.loads(line) for line in file.read_text().splitlines()]
        except ValueError as error:
            raise ClipgenError(f"{file}: this file is damaged ({error}); delete it, or the broken line") from error

    # --- what the settings name -----------------------------------------------------------------------

    def keep_input(self, name: str, value: Image.Image | np.ndarray) -> None:
        """Keep a picture, or token numbers, that is called ``name`` in the settings."""
        out, known = io.BytesIO(), self._names()
        suffix = ".npy" if isinstance(value, np.ndarray) else ".png"
        known[name] = hashlib.sha256(name.encode()).hexdigest()[:16] + suffix
        if isinstance(value, np.ndarray):
            np.save(out, value, allow_pickle=False)
        else:
            value.save(out, "PNG")
        self._replace(f"inputs/{known[name]}", out.getvalue())
        self._replace("inputs/names.json", json.dumps(known, indent=1).encode())

    def inputs(self) -> dict[str, Image.Image | np.ndarray]:
        """Everything that was kept with ``keep_input``, by name."""
        kept: dict[str, Image.Image | np.ndarray] = {}
        for name, file in self._names().items():
            path = self._path(f"inputs/{Path(file).name}")
            try:
                if path.suffix == ".npy":
                    kept[name] = np.load(path, allow_pickle=False)
                else:
                    kept[name] = to_picture(path, ["PNG"])
            except (OSError, ValueError, EOFError, ClipgenError) as error:
                raise ClipgenError(f"{path}: this copy of {name} is damaged ({error}); the run cannot go on") from error
        return kept

    def _names(self) -> dict[str, str]:
        file = self._path("inputs/names.json")
        try:
            return json.loads(file.read_text()) if file.exists() else {}
        except ValueError as error:
            raise ClipgenError(f"{file}: this file is damaged ({error}); the run cannot go on") from error
