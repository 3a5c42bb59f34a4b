"""Where a study is kept: in a folder, and with an address (``s3://``, ``gs://``) there, too, by fsspec."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from clipgen.errors import ClipgenError
from clipgen.images.names import absolute_path
from clipgen.prompts import slug
from clipgen.runs.journal import FOLDERS
from clipgen.runs.lock import Lock
from clipgen.studies.row import DRAFT, NOTE, RowState

LAST = "state.safetensors", NOTE  # are copied after all else, in this order: half a copy is a row to go on with


class StudyStorage:
    """The ``folder`` of a study on this machine, and the ``address`` that its rows are copied to, or "".

    Raises:
        ClipgenError: For an address that cannot be written, or whose protocol needs a package that is missing.
    """

    def __init__(self, location: str | Path):
        self.address = str(location).rstrip("/") if "://" in str(location) else ""
        if self.address and "://" not in self.address:
            raise ClipgenError(f"folder={str(location)!r}: names no folder; write one, such as s3://bucket/study")
        self.folder = absolute_path(location)
        if not self.address:
            return
        # Addresses whose words are the same, a-b/c and a/b-c, are told apart by a hash.
        mark = hashlib.sha256(self.address.encode()).hexdigest()[:8]
        self.folder = absolute_path(Path("clipgen-runs", f"study-{slug(self.address, 50)}-{mark}"))
        with self._translate_errors("cannot be written"):
            from fsspec.core import url_to_fs

            self._files, self._root = url_to_fs(self.address)
            self._files.makedirs(self._root, exist_ok=True)
            self._files.pipe_file(f"{self._root}/.clipgen", b"")
            self._files.rm_file(f"{self._root}/.clipgen")

    def row_names(self) -> dict[str, str]:
        """Return the names of all rows, in the folder and at the address, by the marks that they end with."""
        names = [*self._remote_rows(), *(path.name for path in self.folder.glob("*-*"))]
        return {name.rpartition("-")[2]: name for name in names}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder, lock it, and delete drafts of rows that a killed study has left. Raises ClipgenError."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError as error:
            raise ClipgenError(
                f"folder={str(self.folder)!r}: {error.strerror}; choose a folder that can be written"
            ) from error
        with Lock(self.folder, "this study"):
            for draft in self.folder.glob(f"{DRAFT}*"):
                shutil.rmtree(draft, ignore_errors=True)
            yield

    def sync(self, folders: Iterable[Path]) -> None:
        """Copy each row that is made either here or at the address to the other."""
        remote = set(self._remote_rows())
        for folder in folders if self.address else ():
            if RowState.read(folder).done != (folder.name in remote):
                (self.download if folder.name in remote else self.upload)(folder)

    def sync_row(self, folder: Path) -> None:
        """Copy a row that a worker has finished, either here or at the address, to the other."""
        if self.address:
            state = RowState.read(folder)
            (self.upload if state.done or state.error else self.download)(folder)

    def upload(self, folder: Path) -> None:
        """Copy a row to the address."""
        files = [file for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
        with self._translate_errors(
            "cannot be written any more; the rows are here, and come along when it is started again"
        ):
            for last in ("", *LAST):
                group = [file for file in files if (file.name if file.name in LAST else "") == last]
                targets = [f"{self._root}/{file.relative_to(folder.parent).as_posix()}" for file in group]
                for parent in {target.rpartition("/")[0] for target in targets}:
                    self._files.makedirs(parent, exist_ok=True)
                self._files.put(list(map(str, group)), targets)

    def download(self, folder: Path) -> None:
        """Replace a row by its copy at the address, whole or not at all, and without keys that lead out of it."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=DRAFT, dir=folder.parent) as draft:
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
        """Return the names of the rows at the address that are made, or have failed."""
        if not self.address:
            return []
        with self._translate_errors("cannot be read"):
            files = self._files.find(self._root, maxdepth=2)  # no pattern: an address may have [, * or ? in it
        keys = [file.removeprefix(f"{self._root}/").split("/") for file in files]
        return [key[0] for key in keys if key[1:] == [NOTE] and _is_inside(key[0])]

    @contextmanager
    def _translate_errors(self, what: str) -> Iterator[None]:
        """Raise ClipgenError for any error of the filesystem: each has its own."""
        try:
            yield
        except ImportError as error:
            raise ClipgenError(f"folder={self.address!r}: a package is missing: {error}") from error
        except Exception as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())
            raise ClipgenError(
                f"folder={self.address!r}: {what} ({why}); check the address, and that you may write there"
            ) from error


def _is_inside(key: str) -> bool:
    """Return whether a key, relative to a row, is a path inside of the row's folder, on every system."""
    return all(part not in ("", ".", "..") and not set(part) & set("\\:") for part in key.split("/"))


@contextmanager
def local_rows(folders: Sequence[Path], address: str) -> Iterator[Sequence[Path]]:
    """Yield folders of rows on this machine: copies, where it lacks one, which are uploaded in the end."""
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
