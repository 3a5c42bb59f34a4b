"""Where a file is written before it is complete."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_PART = re.compile(r"\.[0-9a-f]{8}\.part\.\w+")


@contextmanager
def part_of(file: Path) -> Iterator[Path]:
    """Yield the path of a new file beside ``file``, to be renamed when it is complete; else it is deleted in the end.

    So are the parts that killed processes left in that folder: one that is being written is locked. Raises OSError for
    a place that cannot be written.
    """
    _clear(file.parent)
    part = file.with_name(f".{secrets.token_hex(4)}.part{file.suffix.lower()}")
    descriptor = -1
    try:
        descriptor = os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        _lock(descriptor)
        if not fcntl:  # Windows renames no open file
            os.close(descriptor)
            descriptor = -1
        yield part
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        if descriptor >= 0:
            os.close(descriptor)


def _clear(folder: Path) -> None:
    for part in folder.glob(".*.part.*") if fcntl else ():
        if _PART.fullmatch(part.name) and not part.is_symlink():
            with suppress(OSError):
                descriptor = os.open(part, os.O_RDWR)
                try:
                    if _lock(descriptor):
                        part.unlink(missing_ok=True)
                finally:
                    os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock an open file; whether that is possible, and nobody else has."""
    try:
        if fcntl:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
