"""Where a study is kept: in a folder, and where an address is given (``s3://``, ``gs://``) there, too, by fsspec."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from clipgen.errors import ClipgenError
from clipgen.prompts import slug
from clipgen.runs.journal import PARTS
from clipgen.studies.row import DRAFT, NOTE, RowState

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LAST = "state.safetensors", NOTE  # are copied after all else, in this order: half a copy is a row to go on with


class StudyStorage:
    """``folder``: where rows are made and looked at; ``address``: where they are copied to as they are made, or "".

    Of an address the folder is one here, named after it. Raises ClipgenError for an address that cannot be written, or
    whose protocol needs a package that is missing.
    """

    def __init__(self, where: str | Path):
        self.address = str(where).rstrip("/") if "://" in str(where) else ""
        if self.address and "://" not in self.address:
            raise ClipgenError(f"folder={str(where)!r}: names no folder; write one, such as s3://bucket/study")
        self.folder = Path(where)
        if not self.address:
            return
        # Addresses that read alike, a-b/c and a/b-c, are told apart by what follows their words.
        mark = hashlib.sha256(self.address.encode()).hexdigest()[:8]
        self.folder = Path("clipgen-runs", f"study-{slug(self.address, 50)}-{mark}")
        try:
            from fsspec.core import url_to_fs

            self._files, self._path = url_to_fs(self.address)
            self._files.makedirs(self._path, exist_ok=True)
            self._files.pipe_file(f"{self._path}/.clipgen", b"")
            self._files.rm_file(f"{self._path}/.clipgen")
        except ImportError as error:
            raise ClipgenError(f"folder={self.address!r}: a package is missing: {error}") from error
        except Exception as error:  # each filesystem has its own
            raise self._trouble("cannot be written", error) from error

    @property
    def names(self) -> dict[str, str]:
        """The rows that are kept, by the marks that their names end with."""
        here = (path.name for path in self.folder.glob("*-*"))
        return {name.rpartition("-")[2]: name for name in [*self._there(), *here]}

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep the folder, which is made, to this study, where the system can; half rows of a killed one are cleared.

        Raises ClipgenError for a folder that cannot be written, or that another study fills at this moment.
        """
        here = -1
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()
            if fcntl:
                here = os.open(self.folder, os.O_RDONLY)
                fcntl.flock(here, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            why = "another process makes this study; wait for it, or" if here >= 0 else f"{error.strerror};"
            if here >= 0:
                os.close(here)
            raise ClipgenError(f"folder={str(self.folder)!r}: {why} choose a folder that can be written") from error
        try:
            for draft in self.folder.glob(f"{DRAFT}*"):
                shutil.rmtree(draft, ignore_errors=True)
            yield
        finally:
            if here >= 0:
                os.close(here)

    def meet(self, folders: Iterable[Path]) -> None:
        """Let the folder and the address have these rows both: what was made for one is copied to the other."""
        there = set(self._there())
        for folder in folders if self.address else ():
            if RowState.read(folder).done != (folder.name in there):
                (self._fetch if folder.name in there else self.keep)(folder)

    def settle(self, folder: Path) -> None:
        """Have a row both here and there that a worker is through with, wherever that made it."""
        if self.address:
            state = RowState.read(folder)
            (self.keep if state.done or state.error else self._fetch)(folder)

    def keep(self, folder: Path) -> None:
        """Copy a row to the address."""
        files = [file for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
        with self._reached("cannot be written any more; the rows are here, and come along when it is started again"):
            for late in ("", *LAST):
                some = [file for file in files if (file.name if file.name in LAST else "") == late]
                there = [f"{self._path}/{file.relative_to(folder.parent).as_posix()}" for file in some]
                for parent in {path.rpartition("/")[0] for path in there}:
                    self._files.makedirs(parent, exist_ok=True)
                self._files.put(list(map(str, some)), there)

    def _fetch(self, folder: Path) -> None:
        """Copy a row from the address, whole or not at all; only what lies inside of it, whatever keys there are."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=DRAFT, dir=folder.parent) as draft:
            made = Path(draft, folder.name)
            with self._reached("cannot be read"):
                root = f"{self._path}/{folder.name}/"
                keys = [file.removeprefix(root) for file in self._files.find(root) if file.startswith(root)]
                if not (keys := [key for key in keys if _inside(key)]):
                    raise FileNotFoundError(f"nothing is there of {folder.name}")
                here = [made / key for key in keys]
                for parent in {made / part for part in PARTS} | {file.parent for file in here}:
                    parent.mkdir(parents=True, exist_ok=True)
                self._files.get([root + key for key in keys], list(map(str, here)))
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(made, folder)

    def _there(self) -> list[str]:
        """The names of the rows at the address that are made, or have failed."""
        if not self.address:
            return []
        with self._reached("cannot be read"):
            files = self._files.find(self._path, maxdepth=2)  # no pattern: an address may have [, * or ? in it
        keys = [file.removeprefix(f"{self._path}/").split("/") for file in files]
        return [key[0] for key in keys if key[1:] == [NOTE] and _inside(key[0])]

    @contextmanager
    def _reached(self, trouble: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise self._trouble(trouble, error) from error

    def _trouble(self, what: str, error: Exception) -> ClipgenError:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        return ClipgenError(f"folder={self.address!r}: {what} ({why}); check the address, and that you may write there")


def _inside(key: str) -> bool:
    """Whether a key, relative to a row, is the path of a file in the row's folder, on every system."""
    return all(part not in ("", ".", "..") and not set(part) & set("\\:") for part in key.split("/"))


@contextmanager
def at_hand(folders: Sequence[Path], address: str) -> Iterator[Sequence[Path]]:
    """Rows in folders that this machine has; of others copies from the address, which are kept there in the end."""
    if not address or all(folder.exists() for folder in folders):
        yield folders
        return
    with tempfile.TemporaryDirectory() as scratch:
        place = StudyStorage(address)
        place.folder = Path(scratch)
        here = [place.folder / folder.name for folder in folders]
        for folder in here:
            place._fetch(folder)
        yield here
        for folder in here:
            place.keep(folder)
