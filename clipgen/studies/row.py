"""A row of a study: an ordinary run folder, and beside its journal what became of it (``row.json``)."""

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
        """Return the state that a row's folder has; that of a row not begun where there is none, or nonsense."""
        try:
            state = cls(**json.loads((folder / NOTE).read_text()))
        except (OSError, ValueError, TypeError, RecursionError):  # written whole, so that nothing is half
            return cls()
        usual = cls()
        for name, value in vars(state).items():
            kind = type(getattr(usual, name))
            if type(value) is not kind and not (kind is float and type(value) is int):  # a bool is no number
                return usual
            if kind in (int, float) and not 0 <= value < math.inf:
                return usual
        return state

    def write(self, folder: Path) -> None:
        part = folder / f"{NOTE}.part"
        try:
            part.unlink(missing_ok=True)  # a link would be written through
            part.write_text(json.dumps(self.__dict__))
            os.replace(part, folder / NOTE)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)


class Row:
    """One run of a study: what it varies, how far it is, what came of it. Shows its picture in a notebook.

    ``known``: the names in ``parent`` by the marks that they end with, so that a row is found again, whatever is varied
    beside it the next time. Raises ClipgenError, with the row's label, for settings that cannot work.
    """

    def __init__(self, asked: GridPoint, parent: Path, known: Mapping[str, str] = MappingProxyType({})):
        inputs = Inputs()
        named = inputs.named({**asked.settings, "prompt": asked.prompt})
        said = json.dumps(named, sort_keys=True, default=str)
        mark = hashlib.sha256(said.encode()).hexdigest()[:10]
        try:
            self.spec = RunSpec.create(named.pop("prompt"), named, inputs=inputs)
        except ClipgenError as error:
            raise ClipgenError(f"study, {asked.label}: {error}") from error
        self.varied, self.label, self._state = asked.varied, asked.label, RowState()
        self._unwritten = False  # whether the state could not be written
        self.folder = parent / known.get(mark, f"{slug(asked.label)}-{mark}")

    def begin(self, threads: int) -> None:
        """Make the run's folder, if there is none: whole, or not at all. What failed is tried again."""
        if self.folder.exists():
            if (state := self.state).error:
                replace(state, error="").write(self.folder)
            return
        parent = self.folder.parent
        draft = Path(tempfile.mkdtemp(prefix=DRAFT, dir=parent))
        notes = self.spec.notes
        notes["machine"]["threads"] = threads
        journal = Journal.create(draft, "row", notes)
        for name, value in self.spec.inputs.all.items():
            journal.keep_input(name, value)
        os.replace(journal.folder, self.folder)
        shutil.rmtree(draft)

    @property
    def state(self) -> RowState:
        """How far it is, as its folder says; read no more when it is made, for there may be thousands."""
        if not (self._state.done or self._unwritten):
            self._state = RowState.read(self.folder)
        return self._state

    def check_over(self) -> None:
        """Give the row up if its worker is through with it and could write neither that it is made nor why not."""
        state = self.state
        if state.done or state.error:
            return
        try:
            replace(state, error="its worker ended without a word; start the study again").write(self.folder)
        except OSError as error:
            why = f"its folder cannot be written ({error.strerror or error}); make room, and start the study again"
            self._state, self._unwritten = replace(state, error=why), True

    @property
    def steps(self) -> int:
        """How many steps it makes."""
        return self.spec.settings.steps

    @cached_property
    def journal(self) -> Journal:
        """Its frames, latents and scores; ``clipgen.Run.resume(row.folder)`` is the run itself."""
        return Journal(self.folder)

    @property
    def image(self) -> Image.Image | None:
        """Its newest frame, if there is one."""
        steps = self.journal.steps
        return self.journal.frame(steps[-1]) if steps else None

    @property
    def scores(self) -> Mapping[str, float]:
        """Those of its newest frame."""
        rows = self.journal.scores
        return {name: value for name, value in rows[-1].items() if name != "step"} if rows else {}

    @property
    def record(self) -> dict[str, Any]:
        """Everything that is known of it, flat: a line of the study's table."""
        state = self.state
        known: dict[str, Any] = {"prompt": self.spec.settings.prompt} | self.varied | dict(self.scores)
        costs = {"seconds": round(state.seconds, 3), "memory": round(state.memory, 1)}
        return known | costs | {"folder": str(self.folder), "error": state.error}

    def _repr_png_(self) -> bytes | None:
        return png_bytes(self.image) if self.image else None
