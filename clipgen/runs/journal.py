"""The folder of a run: settings, frames, scores and state, so that a crash loses no frame, and 20 s of work at most.

``settings.json``; ``frames/00003.png``; ``latents/00003.npy``, the latent of the frame; ``scores.csv``;
``between/``, pictures for the film alone: ``00000-07.png``, the draft after seven rows, and ``00002-00.png``, step 2;
``changes.jsonl``, the changes of settings; ``inputs/``, the pictures that the settings name; ``state.safetensors``,
from which the run continues. Each file is written under another name first and then renamed.
"""

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from clipgen.errors import ClipgenError
from clipgen.images.reading import to_picture
from clipgen.runs.folder import (
    FORMAT,
    STATE,
    Folder,
    check_changes,
    check_saved,
    check_version,
    encode,
    format_rows,
    parse_rows,
    read_array,
    read_json,
)
from clipgen.setting import check_path
from clipgen.storage import absolute_path, make_dated_folder

FOLDERS = "frames", "latents", "inputs", "between"
TABLE, CHANGES = "scores.csv", "changes.jsonl"


def is_steering(change: Mapping[str, Any]) -> bool:
    """Return whether a change affects steps; ``keep`` only selects among the frames."""
    return bool(change.keys() - {"step", "keep"})


class Journal(Folder):
    """The files of a run. Its methods raise ClipgenError for a folder that is damaged or of no run."""

    def __init__(self, folder: str | Path):
        super().__init__(folder)
        self._settings: dict[str, Any] = {}  # as last read or written, should the folder go away

    @classmethod
    def create(
        cls, parent: str | Path, slug: str, settings: dict, inputs: Mapping[str, Image.Image | np.ndarray] = {}
    ) -> "Journal":
        """Make a new folder, ``<parent>/<date>-<slug>-<id>``, with the pictures and latents that the settings name.

        Raises ClipgenError if it cannot be written; nothing is left of it then.
        """
        if "://" in str(parent):
            raise ClipgenError(f"folder={str(parent)!r}: a run is kept on this machine; a study can have an address")
        parent, folder = absolute_path(check_path("folder", parent)), None
        content = json.dumps({"format": FORMAT} | settings, indent=2) + "\n"
        try:
            parent.mkdir(parents=True, exist_ok=True)
            folder = make_dated_folder(parent, slug)
            for name in FOLDERS:
                (folder / name).mkdir()
            journal = cls(folder)
            journal._replace("settings.json", content.encode())
            for name, value in inputs.items():
                journal._keep_input(name, value)
        except OSError as error:
            if folder:
                shutil.rmtree(folder, ignore_errors=True)
            raise ClipgenError(f"folder={str(parent)!r}: {error.strerror}; choose a folder to write to") from error
        journal._settings = json.loads(content)
        return journal

    @classmethod
    def open(cls, folder: str | Path) -> "Journal":
        """Open a run folder. Raises ClipgenError if it is none, damaged, or of another format."""
        journal = cls(check_path("folder", folder))
        if not os.path.isfile(journal._path("settings.json")):
            remedy = _nearest_run(journal.folder.name)
            raise ClipgenError(f"{folder}: this is not a run folder (it has no settings.json); {remedy}")
        check_version(journal._read_json("settings.json"), folder)
        return journal

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that the run began with, of the types that settings have."""
        if not self._settings or os.path.exists(self._path("settings.json")):
            self._settings = check_saved(self._read_json("settings.json"), self._path("settings.json"))
        return self._settings

    @property
    def settings_and_changes(self) -> dict:
        """The settings, and if there are any the ``changes``: with the inputs, all that a replay needs."""
        return self.settings | ({"changes": changes} if (changes := self.changes) else {})

    @property
    def changes(self) -> list[dict]:
        """The changes of settings, each with its ``step``."""
        file, remedy = self._path(CHANGES), "delete it, or the broken line"
        lines = self._text(CHANGES).splitlines()
        return check_changes([read_json(line, file, remedy) for line in lines], file)

    def add_changes(self, changes: Sequence[Mapping[str, Any]]) -> None:
        """Record changes of settings, each with the ``step`` before which it is made."""
        if changes:
            ordered = sorted([*self.changes, *changes], key=lambda change: change["step"])
            self._replace(CHANGES, "".join(json.dumps(change) + "\n" for change in ordered).encode())

    def add(self, step: int, image: Image.Image, latent: Tensor, scores: dict[str, float]) -> None:
        """Record a frame, its packed latent and its scores.

        Raises OSError where the disk has no room: the files stay in memory, and are tried again with the next frame.
        """
        values = latent.cpu().numpy()
        files = self._unsaved | {
            f"latents/{step:05d}.npy": encode(values if latent.is_floating_point() else values.astype(np.int32)),
            f"frames/{step:05d}.png": encode(image),
            TABLE: format_rows([*self._rows(), {"step": step} | scores]),
        }
        failure: OSError | None = None
        for name, content in files.items():
            try:
                self._replace(name, content)
            except OSError as error:
                failure = error
        if failure:
            raise failure
        self.write_error = ""

    def add_film_picture(self, row: Mapping[str, float], image: Image.Image) -> None:
        """Record a picture for the film alone, with its row of ``film``. Raises OSError as ``add``."""
        name = _picture_name(row)
        self._path(name).parent.mkdir(exist_ok=True)  # a run folder of 0.4 has none
        self._replace(name, encode(image, compress_level=1))

    def frame(self, step: int) -> Image.Image:
        """Return the frame of a step."""
        return self.picture({"step": step})

    def latent(self, step: int) -> np.ndarray:
        """Return the latent of a frame, as ``init`` takes it: tokens (h, w) int32, or (1, ...) float16."""
        self.flush()
        with self._reporting_damage(f"the latent of step {step}"):
            return read_array(self._source(f"latents/{step:05d}.npy"))

    @property
    def steps(self) -> list[int]:
        """The steps that have frames, in order."""
        return sorted({int(stem) for stem in self._stems("frames") if stem.isdecimal()})

    def _stems(self, folder: str) -> list[str]:
        """Return the names, without ``.png``, of the pictures in a folder, and of those that had no room there."""
        self.flush()
        files = *self._path(folder).glob("*.png"), *map(Path, [*self._unsaved])
        return [file.stem for file in files if file.parent.name == folder and file.suffix == ".png"]

    @property
    def film(self) -> list[dict[str, float]]:
        """A row for each picture of the film, for ``picture``: ``step``, and the scores of a frame.

        Film-only pictures have a ``token_row``: the rows of the draft drawn so far (step 0), else 0.
        """
        rows = {row["step"]: row for row in self.scores}
        names = [stem.split("-") for stem in self._stems("between") if re.fullmatch(r"\d+-\d+", stem)]
        pairs = {(int(step), int(row)) for step, row in names}
        between = [{"step": float(step), "token_row": float(row)} for step, row in pairs]
        frames = [rows.get(step, {"step": float(step)}) for step in self.steps]
        return sorted([*between, *frames], key=lambda row: (row["step"], row.get("token_row", 0)))

    def picture(self, row: Mapping[str, float]) -> Image.Image:
        """Return the picture of a row of ``film``."""
        self.flush()
        with self._reporting_damage(f"the picture of step {row['step']:.0f}"):
            return to_picture(self._source(_picture_name(row)), ["PNG"])

    def frames(self) -> Iterator[Image.Image]:
        """Read the frames in order, one at a time."""
        return map(self.frame, self.steps)

    @property
    def scores(self) -> list[dict[str, float]]:
        """A row for each frame: ``step`` and the scores."""
        self.flush()
        return self._rows()

    def _rows(self) -> list[dict[str, float]]:
        return parse_rows(self._text(TABLE), self.folder / TABLE)

    def trim(self, last: int, steps: Set[int], film_steps: Set[int] = frozenset()) -> None:
        """Delete the frames after a step and those of other steps than ``steps``, and half-written files.

        The frames of ``film_steps``, at which a run was stopped, become pictures for the film alone. Raises
        ClipgenError for a folder that cannot be written.
        """
        try:
            for part in [part for name in ("", *FOLDERS) for part in self._path(name).glob("*.part")]:
                part.unlink(missing_ok=True)
            for step in film_steps & {*self.steps}:
                target = self._path(_picture_name({"step": step, "token_row": 0}))
                target.parent.mkdir(exist_ok=True)
                with suppress(FileNotFoundError):  # a name that is none of a frame, such as 5.png
                    os.replace(self._path(f"frames/{step:05d}.png"), target)
            for step in self.steps:
                if step > last or step not in steps:
                    for file in (f"frames/{step:05d}.png", f"latents/{step:05d}.npy"):
                        self._path(file).unlink(missing_ok=True)
            for row in self.film:
                if "token_row" in row and row["step"] > last:
                    self._path(_picture_name(row)).unlink(missing_ok=True)
            remaining = set(self.steps)
            if rows := [row for row in self.scores if row["step"] in remaining]:
                self._replace(TABLE, format_rows(rows))
            else:
                self._path(TABLE).unlink(missing_ok=True)
        except OSError as error:
            reason = error.strerror or error
            raise ClipgenError(f"{self.folder}: {reason}; a run needs a folder that can be written") from error

    def save_state(self, step: int, tensors: Mapping[str, Tensor], values: dict) -> None:
        """Replace the state by that after ``step``. ``values`` is any JSON object."""
        stored = {key: tensor.detach().cpu() for key, tensor in tensors.items()}
        # Tensors in channels_last order are written in that order: to reorder half a gigabyte of logits takes a second.
        channels_last = [key for key, tensor in stored.items() if tensor.ndim == 4 and not tensor.is_contiguous()]
        stored |= {key: stored[key].permute(0, 2, 3, 1) for key in channels_last}
        metadata = {"state": json.dumps({"step": step, "channels_last": channels_last} | values)}
        self._replace(STATE, save({key: tensor.contiguous() for key, tensor in stored.items()}, metadata))

    @property
    def saved_step(self) -> int:
        """The step of the last saved state, 0 before the first."""
        state = self.load_state(only_step=True)
        return state[0] if state else 0

    def check_step(self, step: int) -> None:
        """Raise ClipgenError unless the state of this step is the saved one: another Run object may have continued."""
        if (saved_step := self.saved_step) != step:
            raise ClipgenError(
                f"{self.folder}: this run is saved at step {saved_step}, and this Run object is at step {step}; use "
                "Run.resume(...) to continue from there"
            )

    def load_state(self, only_step: bool = False) -> tuple[int, dict[str, Tensor], dict] | None:
        """Return (step, tensors, values) of the last saved state, None before the first."""
        self.flush()
        file = self._path(STATE)
        if not file.exists():
            return None
        with self.restoring():
            with safe_open(file, "pt") as stored:
                values = read_json(stored.metadata()["state"], file)
                keys = [] if only_step else stored.keys()
                tensors = {key: stored.get_tensor(key) for key in keys}
            for key in () if only_step else values.pop("channels_last", ()):
                tensors[key] = tensors[key].permute(0, 3, 1, 2)
            if type(step := values.pop("step")) is not int or not 0 <= step <= 10**6:
                raise ValueError(f"step {step!r:.40}")
        return step, tensors, values

    def restoring(self) -> AbstractContextManager[None]:
        """Return a context that raises ClipgenError for any error within: the state is damaged, or another run's."""
        return self._reporting_damage(f"{STATE}: the state", "; delete this file, and the run starts again")

    def keep_inputs(self, inputs: Mapping[str, Image.Image | np.ndarray]) -> None:
        """Keep copies of pictures and latents by their names in the settings. Raises ClipgenError without room."""
        try:
            for name, value in inputs.items():
                self._keep_input(name, value)
        except OSError as error:
            remedy = "make room there: the run could not be resumed without its pictures"
            raise ClipgenError(f"{self.folder}: {error.strerror}; {remedy}") from error

    def _keep_input(self, name: str, value: Image.Image | np.ndarray) -> None:
        suffix = ".npy" if isinstance(value, np.ndarray) else ".png"
        file = hashlib.sha256(name.encode()).hexdigest()[:16] + suffix
        self._replace(f"inputs/{file}", encode(value))
        self._replace("inputs/names.json", json.dumps(self._input_files() | {name: file}, indent=1).encode())

    def inputs(self) -> dict[str, Image.Image | np.ndarray]:
        """Return the pictures and latents that were kept, by name."""
        values: dict[str, Image.Image | np.ndarray] = {}
        for name, file in self._input_files().items():
            path = self._path(f"inputs/{Path(file).name}")
            with self._reporting_damage(f"{path.name}, the copy of {name},", "; the run cannot continue"):
                values[name] = read_array(path) if path.suffix == ".npy" else to_picture(path, ["PNG"])
        return values

    def _input_files(self) -> dict[str, str]:
        names = self._read_json("inputs/names.json") if self._path("inputs/names.json").exists() else {}
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise ClipgenError(f"{self.folder}/inputs/names.json is damaged (it maps no names to files)")
        return names


def _picture_name(row: Mapping[str, float]) -> str:
    """Return the file of a row of ``Journal.film``."""
    if "token_row" in row:
        return f"between/{row['step']:05.0f}-{row['token_row']:02.0f}.png"
    return f"frames/{row['step']:05.0f}.png"


def warn_unsaved(journal: Journal, error: OSError) -> None:
    """Warn that the disk of a journal is full."""
    warnings.warn(
        f"{journal.folder}: frames cannot be saved any more ({error.strerror}); the run continues, and keeps "
        "them in memory: make room, or export them before this process ends",
        stacklevel=5,
    )


def _nearest_run(name: str) -> str:
    """Return which run of the current folder somebody may mean: the newest with a name in its own, or the newest."""
    runs = sorted(path.parent.as_posix() for path in Path("clipgen-runs").glob("*/settings.json"))
    named = [run for run in runs if name and name in run]
    if named:
        return f"did you mean {named[-1]}?"
    return f"the newest one here is {runs[-1]}" if runs else "choose one of clipgen-runs"
