"""A folder whose files are replaced whole, and kept in memory where the disk has no room."""

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

from clipgen.errors import ClipgenError
from clipgen.images.names import absolute_path
from clipgen.runs.saved import read_json

STATE = "state.safetensors"


class Folder:
    """Reads and writes the files of a folder, and follows no link out of it."""

    def __init__(self, folder: str | Path):
        self.folder = absolute_path(folder)
        self.write_error = ""  # why files are missing on the disk; empty if none are
        self.pending: list[Future[None]] = []  # what a FrameWriter writes at this moment
        self._unsaved: dict[str, bytes] = {}  # files that had no room on the disk

    def flush(self) -> None:
        """Wait until all frames are written."""
        wait(self.pending)

    @contextlib.contextmanager
    def _reporting_damage(self, what: str, remedy: str = "") -> Iterator[None]:
        """Turn any error within into a ClipgenError: each library has its own errors for what it cannot read."""
        try:
            yield
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".removeprefix("ClipgenError: ").split())[:300]
            raise ClipgenError(f"{self.folder}: {what} is damaged or missing ({reason}){remedy}") from error

    def _path(self, name: str) -> Path:
        """Return the path of a file, such as ``frames/00003.png``, before it is read, written or deleted.

        Raises ClipgenError for a file outside the folder, by a symbolic link, and for a pipe or a device.
        """
        path = self.folder / name
        try:
            is_inside = path.resolve().is_relative_to(self.folder.resolve())
        except (OSError, RuntimeError, ValueError):  # circular links, an impossible name
            is_inside = False
        if not is_inside:
            raise ClipgenError(f"{path}: a link leads out of the run folder, and is not followed; delete it")
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ClipgenError(f"{path}: this is not a regular file; delete it")
        return path

    def _replace(self, name: str, content: bytes) -> None:
        """Write a whole file or nothing; without room on the disk, keep the content in memory and raise OSError."""
        path = self._path(name)
        part = path.with_name(f"{path.name}.part")
        try:
            part.unlink(missing_ok=True)  # a link would be written through
            part.write_bytes(content)
            os.replace(part, path)
            self._unsaved.pop(name, None)
        except OSError as error:
            if name != STATE:  # it is as large as all else together, and useless without the folder
                self._unsaved[name] = content
            self.write_error = error.strerror or str(error)
            raise
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)

    def _source(self, name: str) -> Path | bytes:
        """Return the path of a file, or its content if the disk had no room for it."""
        content = self._unsaved.get(name)
        return self._path(name) if content is None else content

    def _text(self, name: str) -> str:
        """Return the content of a text file, empty without one. Raises ClipgenError if it cannot be read."""
        source = self._source(name)
        try:
            return (source.read_bytes() if isinstance(source, Path) else source).decode(errors="replace")
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise ClipgenError(f"{source!s}: cannot be read ({error.strerror}); delete it") from error

    def _read_json(self, name: str) -> Any:
        return read_json(self._text(name), self._path(name))
