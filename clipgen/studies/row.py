"""A row of a study: an ordinary run folder, with a file ``row.json`` that says how far it is."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from PIL import Image

from clipgen.errors import ClipgenError
from clipgen.images.sheets import png_bytes
from clipgen.prompts import slug
from clipgen.runs.inputs import Inputs
from clipgen.runs.journal import Journal
from clipgen.runs.spec import RunSpec
from clipgen.studies.grid import GridPoint

NOTE, DRAFT = "row.json", ".making-"


@dataclass(frozen=True)
class RowState:
    """How far a row is: written after every frame by the process that makes it, read by whoever shows it."""

    step: int = 0
    seconds: float = 0.0  # of computing, over all attempts
    memory: float = 0.0  # MB at most: of the GPU, or else of the process that made it
    done: bool = False
    error: str = ""

    @classmethod
    def read(cls, folder: Path) -> RowState:
        """Return the state of the row in a folder: a new one where there is no valid ``row.json``."""
        default = cls()
        try:
            state = cls(**json.loads((folder / NOTE).read_text()))
        except (OSError, ValueError, TypeError, RecursionError):
            return default
        for name, value in vars(state).items():
            kind = type(getattr(default, name))
            if type(value) is not kind and not (kind is float and type(value) is int):  # a bool is no number
                return default
            if kind in (int, float) and not 0 <= value < math.inf:
                return default
        return state

    def write(self, folder: Path) -> None:
        """Replace the file in a folder. Raises OSError."""
        part = folder / f"{NOTE}.part"
        try:
            part.unlink(missing_ok=True)  # a link would be written through
            part.write_text(json.dumps(self.__dict__))
            os.replace(part, folder / NOTE)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)


class Row:
    """One run of a study: ``varied``, what differs from other rows; ``label``, the same as a line; ``folder``.

    Args:
        point: The arguments of the run.
        parent: Folder of the study.
        names: Of folders in ``parent``, by the marks that they end with: a row keeps its folder when the study is
            started again and varies something else, too.

    Raises:
        ClipgenError: For settings that cannot work; the message has the row's label.
    """

    def __init__(self, point: GridPoint, parent: Path, names: Mapping[str, str] = MappingProxyType({})):
        inputs = Inputs()
        settings = inputs.name_values({**point.settings, "prompt": point.prompt})
        options = {name: value for name, value in settings.items() if name != "prompt"}
        try:
            self.spec = RunSpec.create(settings["prompt"], options, inputs=inputs)
        except ClipgenError as error:
            raise ClipgenError(f"study, {point.label}: {error}") from error
        # Prompts name files by their content there: another picture is another row.
        settings |= {name: getattr(self.spec.settings, name) for name in settings.keys() & {"prompt", "negative"}}
        mark = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:10]
        self.varied, self.label = point.varied, point.label
        self.folder = parent / names.get(mark, f"{slug(point.label)}-{mark}")
        self._state = RowState()

    def begin(self, threads: int) -> None:
        """Make the run's folder, whole or not at all; clear the error of one that exists.

        ``threads`` is the number of CPU threads of its worker, for the journal.
        """
        if self.folder.exists():
            if self.state.error:
                self._state = replace(self._state, error="")
                self._state.write(self.folder)
            return
        draft = Path(tempfile.mkdtemp(prefix=DRAFT, dir=self.folder.parent))
        notes = self.spec.notes
        notes["machine"]["threads"] = threads
        journal = Journal.create(draft, "row", notes)
        for name, value in self.spec.inputs.all.items():
            journal.keep_input(name, value)
        os.replace(journal.folder, self.folder)
        shutil.rmtree(draft)

    @property
    def state(self) -> RowState:
        """How far the row is; the file is read until the row has ended: there may be thousands."""
        if not (self._state.done or self._state.error):
            self._state = RowState.read(self.folder)
        return self._state

    def check_ended(self) -> None:
        """Set an error, after its worker has finished with the row, if the worker could write none."""
        state = self.state
        if state.done or state.error:
            return
        try:
            self._state = replace(state, error="its worker ended without a word; start the study again")
            self._state.write(self.folder)
        except OSError as error:
            why = f"its folder cannot be written ({error.strerror or error}); make room, and start the study again"
            self._state = replace(state, error=why)

    @property
    def steps(self) -> int:
        """The number of steps that it has in the end."""
        return self.spec.settings.steps

    @cached_property
    def journal(self) -> Journal:
        """Its frames, latents and scores; ``clipgen.Run.resume(row.folder)`` is the run itself."""
        return Journal(self.folder)

    @property
    def image(self) -> Image.Image | None:
        """The newest frame, None before the first."""
        steps = self.journal.steps
        return self.journal.frame(steps[-1]) if steps else None

    @property
    def scores(self) -> Mapping[str, float]:
        """The scores of the newest frame, by their names."""
        rows = self.journal.scores
        return {name: value for name, value in rows[-1].items() if name != "step"} if rows else {}

    @property
    def record(self) -> dict[str, Any]:
        """The row's line of the study's table."""
        state = self.state
        return {
            "prompt": self.spec.settings.prompt,
            **self.varied,
            **self.scores,
            "seconds": round(state.seconds, 3),
            "memory": round(state.memory, 1),
            "folder": str(self.folder),
            "error": state.error,
        }

    def _repr_png_(self) -> bytes | None:
        return png_bytes(self.image) if self.image else None
