"""A lock on a folder, in which only one run or study works at a time."""

import os
import socket
import threading
from contextlib import suppress
from errno import EACCES, EAGAIN
from pathlib import Path

from clipgen.errors import ClipgenError

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
