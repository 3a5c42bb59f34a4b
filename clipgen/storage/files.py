"""Files that appear whole or not at all."""

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

PART = re.compile(r"\.[0-9a-f]{8}\.part(\.\w+)?")  # the name of a file that is being written


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Yield a new path beside ``file`` to write to, which replaces ``file`` at the end, or is deleted after an error.

    Parts that killed processes left in that folder are also deleted: one that is being written is locked.

    Raises:
        OSError: The folder cannot be written.
    """
    for part in file.parent.glob(".*.part*") if fcntl else ():
        if PART.fullmatch(part.name) and not part.is_symlink():
            _delete_unlocked(part)
    part = file.with_name(f".{secrets.token_hex(4)}.part{file.suffix.lower()}")
    descriptor = -1
    try:
        descriptor = os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        _lock(descriptor)
        if not fcntl:  # Windows renames no open file
            os.close(descriptor)
            descriptor = -1
        yield part
        os.replace(part, file)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        if descriptor >= 0:
            os.close(descriptor)


def _delete_unlocked(part: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(part, os.O_RDWR)
        try:
            if _lock(descriptor):
                part.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock an open file; return whether that is possible and nobody else has locked it."""
    try:
        if fcntl:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
