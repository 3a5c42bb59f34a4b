"""The folder of a run: files that somebody else may have written are read as data and replaced whole; its lock."""

import csv
import io
import json
import math
import os
import re
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import MISSING, Field, fields
from errno import EACCES, EAGAIN
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipgen.errors import ClipgenError
from clipgen.runs.settings import Settings, scheduled
from clipgen.storage import absolute_path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

STATE = "state.safetensors"
FORMAT = 2  # of run folders since version 0.4
MAX_DEPTH = 8  # of lists and mappings within one another in JSON
MAX_NUMBER = 2**63


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

    @contextmanager
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
        if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
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
            with suppress(OSError):
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


def read_json(text: str | bytes, source: str | Path, remedy: str = "this run cannot be read") -> Any:
    """Parse JSON. Raises ClipgenError, with the file's name, if it is malformed, deeply nested or has huge numbers."""
    try:
        value = json.loads(text)
        if not _is_plain(value, MAX_DEPTH):
            raise ValueError(f"nested deeper than {MAX_DEPTH}, or with a number that is not finite")
    except (ValueError, RecursionError) as error:
        raise ClipgenError(f"{source} is damaged ({error}); {remedy}") from error
    return value


def _is_plain(value: Any, depth: int) -> bool:
    if isinstance(value, (list, dict)):
        items = value.values() if isinstance(value, dict) else value
        return depth > 0 and all(_is_plain(item, depth - 1) for item in items)
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, int) or abs(value) <= MAX_NUMBER


def read_array(source: Path | bytes) -> np.ndarray:
    """Read an .npy file, or its content; takes no more memory than its size. Raises ValueError for anything else."""
    try:
        if isinstance(source, bytes):  # a file that had no room on the disk
            return np.load(io.BytesIO(source), allow_pickle=False)
        mapped = np.load(source, mmap_mode="r", allow_pickle=False)  # a header may claim more than the file has
        array = np.array(mapped) if isinstance(mapped, np.ndarray) else np.zeros(0)
    except Exception as error:  # a header can fail in every way that Python's literals can
        raise ValueError(" ".join(str(error).split())[:200] or type(error).__name__) from error
    if not array.size or array.ndim > 4 or array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
        raise ValueError(f"an array of {array.dtype} of shape {array.shape} is neither a picture nor a latent")
    return array


def encode(value: Image.Image | np.ndarray, **options: Any) -> bytes:
    """Return the content of a file: of a picture as PNG, of an array as .npy."""
    content = io.BytesIO()
    if isinstance(value, np.ndarray):
        np.save(content, value, allow_pickle=False)
    else:
        value.save(content, "PNG", **options)
    return content.getvalue()


def format_rows(rows: Sequence[Mapping[str, float]]) -> bytes:
    """Return a table of scores as CSV; a missing score is an empty cell."""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, [*dict.fromkeys(name for row in rows for name in row)])
    writer.writeheader()
    for row in rows:
        writer.writerow({name: int(value) if name == "step" else f"{value:.6g}" for name, value in row.items()})
    return out.getvalue().encode()


def parse_rows(text: str, file: Path) -> list[dict[str, float]]:
    """Return the complete rows of a table of scores: up to 0.4 a kill could leave half of one at the end.

    Raises ClipgenError, with the name of the file, for a damaged table.
    """
    whole = text[: max(text.rfind("\n"), text.rfind("\r")) + 1].replace("\0", "")
    try:
        names, *lines = csv.reader(io.StringIO(whole, newline="")) if whole else [[]]
    except csv.Error as error:
        raise ClipgenError(f"{file}: this file is damaged ({error}); delete it") from error
    rows = []
    for cells in lines:
        if len(cells) != len(names):  # up to 0.4 a new score moved those after step and clip
            cells = cells[:2]
        with suppress(ValueError):
            row = {name: float(cell) for name, cell in zip(names, cells) if cell}
            if row.keys() >= {"step", "clip"} and math.isfinite(row["step"]):
                rows.append(row)
    return sorted(rows, key=lambda row: row["step"])


def check_version(saved: Any, source: str | Path) -> None:
    """Raise ClipgenError for settings of another format, or of a version before 0.4."""
    saved = saved if isinstance(saved, dict) else {}
    versions, number = saved.get("versions"), saved.get("format")
    version = str(versions.get("clipgen", ""))[:20] if isinstance(versions, dict) else ""
    if number != FORMAT or re.match(r"0\.[0-3]\b", version):
        raise ClipgenError(
            f"{source}: written by another version of clipgen ({version or 'unknown'}, format {number!r:.20}; here "
            f"format {FORMAT}, of 0.4 and later); use that version"
        )


def check_saved(saved: Any, source: str | Path) -> dict[str, Any]:
    """Return the settings in a run folder or an exported file, with the ``changes`` if there are any.

    Checks versions and types only; ``settings.build`` checks values. Raises ClipgenError with the file's name.
    """
    if not isinstance(saved, dict) or "prompt" not in saved:
        raise ClipgenError(f"{source}: its settings are damaged (there is no prompt); this run cannot be read")
    if "format" in saved:
        check_version(saved, source)
    _check_types(saved, source)
    for name, kind in (("losses", list), ("versions", dict), ("machine", dict), ("changes", list)):
        if name in saved and not isinstance(saved[name], kind):
            raise ClipgenError(f"{source}: {name} is damaged ({saved[name]!r:.80}); this run cannot be read")
    check_changes(saved.get("changes", []), source)
    return saved


def check_changes(changes: list[Any], source: str | Path) -> list[dict[str, Any]]:
    """Return the changes of a run. Raises ClipgenError, with the file's name, if they are malformed."""
    for change in changes:
        step = change.get("step") if isinstance(change, dict) else None
        if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < MAX_NUMBER:
            raise ClipgenError(f"{source}: its changes are damaged ({change!r:.80}); delete it, or that line")
        _check_types(change, source)
    return changes


def _check_types(saved: Mapping[str, Any], source: str | Path) -> None:
    for field in fields(Settings):
        if field.name in saved and not _has_type(field, saved[field.name]):
            raise ClipgenError(f"{source}: {field.name}={saved[field.name]!r:.80} is damaged; this run cannot be read")


def _has_type(field: Field, value: Any) -> bool:
    """Return whether a value is of a type that a setting has in a journal."""
    default = "" if field.default is MISSING else field.default  # the prompt has none
    if default is None:  # the size
        is_pair = isinstance(value, list) and len(value) == 2 and all(type(side) is int for side in value)
        return value is None or is_pair or isinstance(value, str)
    if isinstance(default, (str, bool)):
        return isinstance(value, type(default))
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number or (isinstance(value, str) and scheduled(field))


HOLDER = ".lock"  # a file in the folder that names the holder
_MUTEX = threading.Lock()
_LOCKS: "dict[tuple[int, ...], Lock]" = {}  # of this process


class Lock:
    """A lock on a folder until it is released or its process ends.

    The system frees the lock of a process that is gone. On a filesystem without locks, only the threads of this process
    exclude each other. A thread may acquire its own lock again; the iteration that held it then fails.
    Any thread takes over the lock of a thread that has ended. Raises ClipgenError if another process or thread, which
    the message names, is at ``work`` in the folder.
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

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        with _MUTEX:
            if self.lost:
                return
            del _LOCKS[self._key]
            if self._descriptor >= 0:
                with suppress(OSError):
                    (self._folder / HOLDER).unlink(missing_ok=True)
                os.close(self._descriptor)
