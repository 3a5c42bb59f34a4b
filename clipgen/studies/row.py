"""Rows of a study, and where they are kept: in a folder, and with an address (``s3://``, ``gs://``) also there.

A row is an ordinary run folder with a file ``row.json`` that says how far it is.
"""

import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from PIL import Image

from clipgen.errors import ClipgenError, explain_os_errors
from clipgen.images.sheets import png_bytes
from clipgen.prompts import slug
from clipgen.runs.folder import Lock
from clipgen.runs.inputs import Inputs
from clipgen.runs.journal import FOLDERS, Journal
from clipgen.runs.spec import RunSpec
from clipgen.setting import to_python
from clipgen.storage import absolute_path, atomic_write
from clipgen.studies.grid import GridPoint

STATE_FILE, TEMP_PREFIX = "row.json", ".making-"
COPIED_LAST = "state.safetensors", STATE_FILE  # so that an incomplete copy stays resumable
_LOST_SLASH = re.compile(r"\w\w+:/")  # an address whose second slash a Path has removed


@dataclass(frozen=True)
class RowState:
    """Progress of a row: written after every frame by the process that makes it, read by whatever shows it."""

    step: int = 0
    seconds: float = 0.0  # of computing, over all attempts
    done: bool = False
    error: str = ""

    @classmethod
    def read(cls, row: Path | bytes) -> "RowState":
        """Return the state in a row's folder, or in the content of its ``row.json``; a new one if that is not valid."""
        default = cls()
        try:
            values = dict(json.loads(row if isinstance(row, bytes) else (row / STATE_FILE).read_bytes()))
            values.pop("memory", None)  # of rows of 0.4
            state = cls(**values)
        except (OSError, ValueError, TypeError, RecursionError):
            return default
        kinds = type(state.step), type(state.done), type(state.error)  # a bool is not a number
        if kinds != (int, bool, str) or type(state.seconds) not in (int, float):
            return default
        return state if state.step >= 0 and 0 <= state.seconds < math.inf else default

    def write(self, folder: Path) -> None:
        """Replace the file in a folder. Raises OSError."""
        with atomic_write(folder / STATE_FILE) as part:
            part.write_text(json.dumps(self.__dict__))


class Row:
    """One run of a study: ``varied``, what differs from other rows; ``label``, the same as a line; ``folder``.

    Args:
        point: The arguments of the run.
        parent: Folder of the study.
        names: The folders in ``parent``, by the digests that they end with: a row keeps its folder when the study is
            started again and varies more.

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
        # 1.0 is the same row as 1; folders of earlier studies have the digest of the numbers as they were written.
        self.digest = _digest({name: to_python(value, isinstance(value, float)) for name, value in settings.items()})
        existing = names.get(self.digest) or names.get(_digest(settings))
        self.varied, self.label = point.varied, point.label
        self.folder = parent / (existing or f"{slug(point.label)}-{self.digest}")
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
        draft = Path(tempfile.mkdtemp(prefix=TEMP_PREFIX, dir=self.folder.parent))
        metadata = self.spec.metadata
        metadata["machine"]["threads"] = threads
        journal = Journal.create(draft, "row", metadata, self.spec.inputs.by_name)
        os.replace(journal.folder, self.folder)
        shutil.rmtree(draft)

    @property
    def state(self) -> RowState:
        """How far the row is; the file is read until the row has ended: there may be thousands."""
        if not (self._state.done or self._state.error):
            self._state = RowState.read(self.folder)
        return self._state

    def ensure_ended(self) -> None:
        """Set an error if its worker, which is done with the row, has neither finished it nor written one."""
        state = self.state
        if state.done or state.error:
            return
        try:
            self._state = replace(state, error="the worker exited without reporting an error; rerun the study")
            self._state.write(self.folder)
        except OSError as error:
            reason = f"its folder cannot be written ({error.strerror or error}); make room, and start the study again"
            self._state = replace(state, error=reason)

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

    def to_record(self) -> dict[str, Any]:
        """Return the row's line of the study's table."""
        state = self.state
        return {
            "prompt": self.spec.settings.prompt,
            **self.varied,
            **self.scores,
            "seconds": round(state.seconds, 3),
            "folder": str(self.folder),
            "error": state.error,
        }

    def _repr_png_(self) -> bytes | None:
        return png_bytes(self.image) if self.image else None


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:10]


class StudyStorage:
    """The ``folder`` of a study on this machine, and the ``address`` that its rows are copied to, or "".

    Raises:
        ClipgenError: For an address that cannot be written, or whose protocol needs a package that is missing.
    """

    def __init__(self, location: str | Path):
        self.address = str(location).rstrip("/") if "://" in str(location) else ""
        if (self.address and "://" not in self.address) or (
            isinstance(location, Path) and _LOST_SLASH.match(str(location))
        ):
            raise ClipgenError(f"folder={str(location)!r}: names no folder; write one as a text, 's3://bucket/study'")
        self.folder = absolute_path(location)
        if not self.address:
            return
        self._public_address = re.sub("//[^/@]*@", "//", self.address)  # without a name and password
        # Addresses whose words are the same, a-b/c and a/b-c, are told apart by a hash.
        digest = hashlib.sha256(self.address.encode()).hexdigest()[:8]
        self.folder = absolute_path(Path("clipgen-runs", f"study-{slug(self._public_address, 50)}-{digest}"))
        with self._translate_errors("cannot be written"):
            from fsspec.core import url_to_fs

            self._files, self._root = url_to_fs(self.address)
            self._files.makedirs(self._root, exist_ok=True)
            self._files.pipe_file(f"{self._root}/.clipgen", b"")
            self._files.rm_file(f"{self._root}/.clipgen")

    def row_names(self) -> dict[str, str]:
        """Return the names of all rows, in the folder and at the address, by the digests that they end with."""
        names = [*self._remote_rows(), *(path.name for path in self.folder.glob("*-*"))]
        return {name.rpartition("-")[2]: name for name in names}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder, lock it, and delete drafts of rows that a killed study has left. Raises ClipgenError."""
        with explain_os_errors("folder", self.folder, "choose another one"):
            self.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()
        with Lock(self.folder, "this study"):
            for draft in self.folder.glob(f"{TEMP_PREFIX}*"):
                shutil.rmtree(draft, ignore_errors=True)
            yield

    def sync(self, folders: Iterable[Path]) -> None:
        """Copy rows to where they have fewer steps, the folder or the address. Raises ClipgenError as ``locked``."""
        if not self.address:
            return
        with self.locked():
            remote = set(self._remote_rows())
            for folder in folders:
                local = RowState.read(folder)
                if local.done and folder.name not in remote:
                    self.upload(folder)
                elif not local.done and folder.name in remote:
                    with self._translate_errors("cannot be read"):
                        uploaded = RowState.read(self._files.cat_file(f"{self._root}/{folder.name}/{STATE_FILE}"))
                    if uploaded.done or uploaded.step > local.step:  # one that failed there may have gone on here
                        self.download(folder)

    def sync_row(self, folder: Path) -> None:
        """Copy a row from where a worker has finished it, the folder or the address, to the other."""
        if self.address:
            state = RowState.read(folder)
            (self.upload if state.done or state.error else self.download)(folder)

    def upload(self, folder: Path) -> None:
        """Copy a row to the address."""
        files = [file for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
        with self._translate_errors("cannot be written; the rows are saved locally and uploaded on the next run"):
            for last in ("", *COPIED_LAST):
                group = [file for file in files if (file.name if file.name in COPIED_LAST else "") == last]
                targets = [f"{self._root}/{file.relative_to(folder.parent).as_posix()}" for file in group]
                for parent in {target.rpartition("/")[0] for target in targets}:
                    self._files.makedirs(parent, exist_ok=True)
                self._files.put(list(map(str, group)), targets)

    def download(self, folder: Path) -> None:
        """Replace a row by its copy at the address, whole or not at all, and without keys that lead out of it."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=TEMP_PREFIX, dir=folder.parent) as draft:
            copy, root = Path(draft, folder.name), f"{self._root}/{folder.name}/"
            with self._translate_errors("cannot be read"):
                keys = [file.removeprefix(root) for file in self._files.find(root) if file.startswith(root)]
                keys = [key for key in keys if _is_inside(key)]
                if not keys:
                    raise FileNotFoundError(f"nothing is there of {folder.name}")
                targets = [copy / key for key in keys]
                for parent in {copy / name for name in FOLDERS} | {file.parent for file in targets}:
                    parent.mkdir(parents=True, exist_ok=True)
                self._files.get([root + key for key in keys], list(map(str, targets)))
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(copy, folder)

    def _remote_rows(self) -> list[str]:
        """Return the names of the rows at the address that have a row.json."""
        if not self.address:
            return []
        with self._translate_errors("cannot be read"):
            files = self._files.find(self._root, maxdepth=2)  # no pattern: an address may have [, * or ? in it
        keys = [file.removeprefix(f"{self._root}/").split("/") for file in files]
        return [key[0] for key in keys if key[1:] == [STATE_FILE] and _is_inside(key[0])]

    @contextmanager
    def _translate_errors(self, what: str) -> Iterator[None]:
        """Raise ClipgenError for any error of the filesystem: each has its own."""
        try:
            yield
        except ImportError as error:
            raise ClipgenError(f"folder={self._public_address!r}: a package is missing: {error}") from error
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split()).replace(self.address, self._public_address)
            raise ClipgenError(
                f"folder={self._public_address!r}: {what} ({reason}); check the address, and that you may write there"
            ) from error


def _is_inside(key: str) -> bool:
    """Return whether a key, relative to a row, is a path inside of the row's folder, on every system."""
    return all(part not in ("", ".", "..") and not set(part) & set("\\:") for part in key.split("/"))


@contextmanager
def local_rows(folders: Sequence[Path], address: str) -> Iterator[Sequence[Path]]:
    """Yield folders of rows on this machine: temporary copies if any is missing; uploaded on exit."""
    if not address or all(folder.exists() for folder in folders):
        yield folders
        return
    storage = StudyStorage(address)
    with tempfile.TemporaryDirectory() as scratch:
        copies = [Path(scratch, folder.name) for folder in folders]
        for copy in copies:
            storage.download(copy)
        yield copies
        for copy in copies:
            storage.upload(copy)
