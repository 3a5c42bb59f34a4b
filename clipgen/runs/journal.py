"""One folder per run: settings, frames, scores and state, so that a crash loses at most the frame in the making.

``settings.json``; ``frames/00003.png``; ``latents/00003.npy``, what the frame is made of; ``scores.csv``;
``changes.jsonl``, what was steered; ``inputs/``, the pictures that the settings name; ``state.safetensors``, from which
the run goes on. Every file is written under another name first and then renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from clipgen.errors import ClipgenError
from clipgen.images.reading import to_picture
from clipgen.runs.folder import STATE, Folder
from clipgen.runs.lock import Lock
from clipgen.runs.saved import check_changes, check_saved, read_array, read_json
from clipgen.runs.scores import append_row, format_rows, parse_rows

FORMAT = 2
PARTS = "frames", "latents", "inputs"  # folders of every run
TABLE, CHANGES = "scores.csv", "changes.jsonl"
READABLE = (1, FORMAT)  # until format 2 latents were kept in ``tokens``, and own losses only counted


def _new(parent: Path, slug: str) -> Path:
    """A folder that nobody else has: runs of one prompt that begin in one second are told apart by chance."""
    while True:
        folder = parent / f"{time.strftime('%Y%m%d-%H%M%S')}-{slug}-{secrets.token_hex(2)}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder


def is_steering(change: Mapping[str, Any]) -> bool:
    """Whether a change concerns a step; ``keep`` only says what is shown of those that were made."""
    return bool(change.keys() - {"step", "keep"})


class Journal(Folder):
    """The folder of a run. Its methods raise ClipgenError for a folder that is damaged or no run's."""

    def __init__(self, folder: str | Path):
        super().__init__(folder)
        self.flush: Callable[[], None] = lambda: None  # waits for what is still being written

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
        written = journal._written()
        if (found := written.get("format") if isinstance(written, dict) else None) not in READABLE:
            raise ClipgenError(
                f"{folder}: written by another version of clipgen (format {found}, here {FORMAT}); use that one"
            )
        return journal

    @property
    def settings(self) -> dict[str, Any]:
        """What the run began with. Its types are those of settings, whoever wrote it."""
        return check_saved(self._written(), self._path("settings.json"))

    def _written(self) -> Any:
        file = self._path("settings.json")
        try:
            return read_json(file.read_bytes(), file)
        except OSError as error:
            raise ClipgenError(f"{file}: cannot be read ({error.strerror}); this run cannot be read") from error

    @property
    def history(self) -> dict:
        """The settings and what was changed on the way: all that a replay needs beside the pictures."""
        return self.settings | ({"changes": changes} if (changes := self.changes) else {})

    # --- frames ---------------------------------------------------------------------------------------

    def add(self, step: int, image: Image.Image, latent: Tensor, scores: dict[str, float]) -> None:
        """Keep a frame, what its latent was packed to, and its scores.

        Raises OSError where the disk has no room: then they are in memory, and come along with the next frame that has.
        """
        picture, numbers = io.BytesIO(), io.BytesIO()
        image.save(picture, "PNG")
        # The width of tokens is that of format 1.
        kept = latent.cpu().numpy()
        np.save(numbers, kept if latent.is_floating_point() else kept.astype(np.int32), allow_pickle=False)
        trouble: OSError | None = None
        new = {self._latent(step): numbers.getvalue(), f"frames/{step:05d}.png": picture.getvalue()}
        for name, content in (self._unsaved | new).items():
            try:
                self._replace(name, content)
            except OSError as error:
                trouble = error
        self._add_row({"step": step} | scores)
        if trouble:
            raise trouble
        self.trouble = ""

    def _add_row(self, row: Mapping[str, float]) -> None:
        if TABLE in self._unsaved or not append_row(self._path(TABLE), row):
            self._replace(TABLE, format_rows([*self._rows(), row]))

    def _rows(self) -> list[dict[str, float]]:
        return parse_rows(self._text(TABLE), self.folder / TABLE)

    def frame(self, step: int) -> Image.Image:
        self.flush()
        try:
            return to_picture(self._source(f"frames/{step:05d}.png"), ["PNG"])
        except ClipgenError as error:
            raise ClipgenError(f"{self.folder}: frame {step} is missing or damaged ({error})") from error

    def latent(self, step: int) -> np.ndarray:
        """What the frame was made of: tokens (h, w) int32, or a latent (1, ...) float16; ``init`` takes both."""
        self.flush()
        try:
            return read_array(self._source(self._latent(step)))
        except ValueError as error:
            raise ClipgenError(f"{self.folder}: the latent of step {step} is missing or damaged ({error})") from error

    def _latent(self, step: int) -> str:
        return f"{'tokens' if (self.folder / 'tokens').is_dir() else 'latents'}/{step:05d}.npy"

    @property
    def steps(self) -> list[int]:
        """The steps whose frames are kept, in order."""
        self.flush()
        files = *self._path("frames").glob("*.png"), *(Path(name) for name in self._unsaved if "frames/" in name)
        return sorted({int(file.stem) for file in files if file.stem.isdecimal()})

    def frames(self) -> Iterator[Image.Image]:
        """The film so far, read one frame at a time."""
        return map(self.frame, self.steps)

    @property
    def scores(self) -> list[dict[str, float]]:
        """One row per frame: ``step`` and the scores."""
        self.flush()
        return self._rows()

    def keep_until(self, step: int, wanted: range | set[int]) -> None:
        """Forget frames after ``step``, and those that are not ``wanted``: they will be made again, or were extra.

        So is what a kill left half written. Raises ClipgenError for a folder that cannot be written.
        """
        try:
            for part in (part for folder in ("", *PARTS) for part in self._path(folder).glob("*.part")):
                part.unlink(missing_ok=True)
            for number in self.steps:
                if number > step or number not in wanted:
                    for file in (f"frames/{number:05d}.png", self._latent(number)):
                        self._path(file).unlink(missing_ok=True)
            if rows := [row for row in self.scores if row["step"] in set(self.steps)]:
                self._replace(TABLE, format_rows(rows))
            else:
                self._path(TABLE).unlink(missing_ok=True)
        except OSError as error:
            why = error.strerror or error
            raise ClipgenError(f"{self.folder}: {why}; a run goes on where its folder can be written") from error

    # --- what the run goes on from --------------------------------------------------------------------

    def save_state(self, step: int, tensors: Mapping[str, Tensor], notes: dict) -> None:
        """Replace the state by that after ``step``. ``notes``: anything JSON can say."""
        stored = {key: tensor.detach().cpu() for key, tensor in tensors.items()}
        # Channels that stand side by side are written as they are: to move half a gigabyte of logits takes a second.
        beside = [key for key, tensor in stored.items() if tensor.ndim == 4 and not tensor.is_contiguous()]
        stored |= {key: stored[key].permute(0, 2, 3, 1) for key in beside}
        told = json.dumps({"step": step, "channels_last": beside} | notes)
        whole = save({key: tensor.contiguous() for key, tensor in stored.items()}, {"state": told})
        self._replace(STATE, whole)

    def lock(self, step: int | None = None) -> Lock:
        """Lock the folder, for a run that goes on from ``step``.

        Raises ClipgenError if somebody works in it at this moment, or has gone on to another step.
        """
        lock = Lock(self.folder)
        try:
            if step is not None and (state := self._read_state(whole=False)) and state[0] != step:
                raise ClipgenError(
                    f"{self.folder}: another Run has gone on with this run to step {state[0]}; Run.resume goes on there"
                )
        except ClipgenError:
            lock.release()
            raise
        return lock

    def load_state(self) -> tuple[int, dict[str, Tensor], dict] | None:
        """(step, tensors, notes) of the newest state, None before the first."""
        return self._read_state()

    def _read_state(self, whole: bool = True) -> tuple[int, dict[str, Tensor], dict] | None:
        self.flush()
        file = self._path(STATE)
        if not file.exists():
            return None
        with self.restoring():
            with safe_open(file, "pt") as stored:
                notes = read_json(stored.metadata()["state"], file)
                tensors = {key: stored.get_tensor(key) for key in (stored.keys() if whole else ())}
            for key in notes.pop("channels_last", ()) if whole else ():
                tensors[key] = tensors[key].permute(0, 3, 1, 2)
            if type(step := notes.pop("step")) is not int or not 0 <= step <= 10**6:
                raise ValueError(f"step {step!r:.40}")
        return step, tensors, notes

    @contextlib.contextmanager
    def restoring(self) -> Iterator[None]:
        """Raise ClipgenError for whatever a state of somebody else's making brings about."""
        try:
            yield
        except Exception as error:  # safetensors has errors of its own
            why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise ClipgenError(
                f"{self.folder / STATE}: the state is damaged ({why}); delete this file, and the run starts from its "
                "beginning"
            ) from error

    def add_changes(self, changes: Sequence[Mapping[str, Any]]) -> None:
        """Record changes of settings, each with the ``step`` that is the first to follow it."""
        if changes:
            ordered = sorted([*self.changes, *changes], key=lambda change: change["step"])
            self._replace(CHANGES, "".join(json.dumps(change) + "\n" for change in ordered).encode())

    @property
    def changes(self) -> list[dict]:
        """What was changed while the run went on, each with its ``step``."""
        file, remedy = self._path(CHANGES), "delete it, or the broken line"
        return check_changes([read_json(line, file, remedy) for line in self._text(CHANGES).splitlines()], file)

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
                    kept[name] = read_array(path)
                else:
                    kept[name] = to_picture(path, ["PNG"])
            except (OSError, ValueError) as error:
                raise ClipgenError(f"{path}: this copy of {name} is damaged ({error}); the run cannot go on") from error
        return kept

    def _names(self) -> dict[str, str]:
        file = self._path("inputs/names.json")
        names = read_json(file.read_bytes(), file, "the run cannot go on") if file.exists() else {}
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise ClipgenError(f"{file} is damaged (it maps no names to files); the run cannot go on")
        return names
