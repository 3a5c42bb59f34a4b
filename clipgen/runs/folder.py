"""A folder whose files are replaced whole, and kept in memory where the disk has no room; and its lock."""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import suppress
from errno import EACCES, EAGAIN
from pathlib import Path
from typing import Any

from clipgen.errors import ClipgenError
from clipgen.runs.saved import read_json
from clipgen.storage.files import absolute_path

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
        """Return the path of a file. Raises ClipgenError for a link out of the folder, and for a pipe or a device."""
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


try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

HOLDER = ".lock"  # a file in the folder that names the holder
_MUTEX = threading.Lock()
_LOCKS: "dict[tuple[int, ...], Lock]" = {}  # of this process


class Lock:
    """A lock on a folder until it is released or its process ends.

    The system frees the lock of a process that is gone. On a filesystem without locks, only the threads of this process
    exclude each other. A thread may acquire its own lock again; the iteration that held it then fails.
    Any thread takes over the lock of a thread that has ended.

    Args:
        folder: An existing folder.
        work: What is done in it, for the error.

    Raises:
        ClipgenError: Another process or thread, which the message names, works in the folder.
    """

    def __init__(self, folder: Path, work: str = "this run"):
        self._folder, self._thread, self._descriptor = folder, threading.current_thread(), -1
        try:
            status = os.stat(folder)
        except OSError as error:
            raise ClipgenError(f"{folder}: this folder is gone ({error.strerror}); restore it to continue") from error
        self._key = os.getpid(), status.st_dev, status.st_ino  # a fork holds nothing
        with _MUTEX:
            holder = _LOCKS.get(self._key)
            if holder and holder._thread is not self._thread and holder._thread.is_alive():
                raise self._refusal(work, f"thread {holder._thread.name!r} of this process ({os.getpid()})")
            if holder:
                self._descriptor, holder._descriptor = holder._descriptor, -1
            elif fcntl:
                self._descriptor = self._acquire(work)
            _LOCKS[self._key] = self

    def _acquire(self, work: str) -> int:
        assert fcntl
        descriptor = os.open(self._folder, os.O_RDONLY)
        holder = self._folder / HOLDER
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno not in (EACCES, EAGAIN):  # this filesystem has no locks
                return -1
            try:
                holder_name = holder.read_text()[:100]
            except (OSError, ValueError):
                holder_name = "another process"
            raise self._refusal(work, holder_name) from error
        with suppress(OSError):  # a folder that cannot be written
            holder.unlink(missing_ok=True)  # a link would be written through
            with holder.open("x") as out:
                out.write(f"process {os.getpid()} on {socket.gethostname()}")
        return descriptor

    def _refusal(self, work: str, holder_name: str) -> ClipgenError:
        return ClipgenError(f"{self._folder}: {work} is in progress, in {holder_name}; wait for it, or stop it there")

    @property
    def lost(self) -> bool:
        """Whether another run has taken over."""
        return _LOCKS.get(self._key) is not self

    def claim(self) -> None:
        """Hold the lock in the current thread from now on. Raises ClipgenError if it is lost."""
        self._thread = threading.current_thread()
        if self.lost:
            raise ClipgenError(f"{self._folder}: another Run object has continued this run; iterate over that one")

    def release(self) -> None:
        """Release the lock, unless it is lost."""
        with _MUTEX:
            if self.lost:
                return
            del _LOCKS[self._key]
            if self._descriptor >= 0:
                with suppress(OSError):
                    (self._folder / HOLDER).unlink(missing_ok=True)
                os.close(self._descriptor)

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
