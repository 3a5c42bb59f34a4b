"""Files: which texts name them, what new ones are called, and writing that leaves a whole file or none."""

import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from itertools import count
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PART = re.compile(r"\.[0-9a-f]{8}\.part(\.\w+)?")  # the name of a file that is being written
# The last two are pictures, but cannot be read.
_SUFFIX = re.compile(
    r"[^.]\.(a?png|jpe?g|jpe|jfif|webp|gif|bmp|dib|tiff?|avifs?|hei[cf]|jp2|j2k|jpx|jpc|p[bgnp]m|ico|pcx|psd|qoi|tga|svg|eps)$",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"https?://\S", re.IGNORECASE)
# A drive, a server, or a backslash that escapes nothing in a prompt.
_WINDOWS = re.compile(r"^[a-z]:[\\/]|^\\\\|\\(?![|:@\[])", re.IGNORECASE)


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Yield a new path beside ``file`` to write to, which replaces ``file`` at the end, or is deleted after an error.

    Parts that killed processes left in that folder are also deleted: one that is being written is locked.

    Raises:
        OSError: The folder cannot be written.
    """
    for part in file.parent.glob(".*.part*") if fcntl else ():
        if PART.fullmatch(part.name) and not part.is_symlink():
            with suppress(OSError), part.open("r+b") as stream:  # locked by its writer; gone
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(stream.fileno()), part.stat()):  # not begun again by its writer since
                    part.unlink()
    part = file.with_name(f".{secrets.token_hex(4)}.part{file.suffix.lower()}")
    try:
        with _create_locked(part):
            yield part
            os.replace(part, file)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _create_locked(part: Path) -> AbstractContextManager:
    """Create a file; return what keeps it locked until its end, where there are locks."""
    while True:
        stream = part.open("xb")
        if not fcntl:  # Windows renames no open file
            stream.close()
            return nullcontext()
        with suppress(OSError):  # a filesystem without locks
            fcntl.flock(stream, fcntl.LOCK_EX)
        if part.exists():
            return stream
        stream.close()  # another writer took it for that of a killed process, before it was locked


def is_address(text: str) -> bool:
    """Return whether a text is an http(s) address."""
    return bool(_ADDRESS.match(text))


def is_picture_name(text: str) -> bool:
    """Return whether a text can only be the name of a picture: an address, or one with a picture's suffix."""
    return is_address(text) or bool(_SUFFIX.search(text))


def is_windows_path(text: str) -> bool:
    r"""Return whether a text is the name of a picture as Windows writes it, whose backslashes escape nothing."""
    return is_picture_name(text) and bool(_WINDOWS.search(text))


def strip_quotes(text: str) -> str:
    """Return a text without spaces around it, and without a pair of quotes."""
    text = text.strip()
    return text[1:-1] if len(text) > 2 and text[0] == text[-1] and text[0] in "\"'" else text


def find_file(name: str | os.PathLike[str]) -> str | None:
    """Return the path of the file that a name means, None for no file."""
    text = os.fspath(name)
    paths = map(_expand_user, (text, strip_quotes(text)))
    return next(filter(os.path.isfile, paths), None)


def shorten_name(text: str, size: int) -> str:
    """Return the beginning of a text that takes at most ``size`` bytes in a file's name; most systems allow 255."""
    return text.encode(errors="ignore")[:size].decode(errors="ignore")


def find_unused(stem: str, endings: Sequence[str]) -> list[Path]:
    """Return files called ``stem`` with each of some endings, or ``stem-2``, ``stem-3`` if one of them exists."""
    for number in count(1):
        files = [Path(f"{stem}{f'-{number}' if number > 1 else ''}{ending}") for ending in endings]
        if not any(map(os.path.lexists, files)):
            break
    return files


def expand_home(path: str | os.PathLike) -> Path:
    """Return a path with ``~`` expanded, unchanged if there is no such home."""
    return Path(_expand_user(os.fspath(path)))


def _expand_user(path: str) -> str:
    try:
        return os.path.expanduser(path)
    except ValueError:  # no user's name: a null byte, half a surrogate pair
        return path


def absolute_path(path: str | os.PathLike) -> Path:
    """Return a path with ``~`` expanded, which a later change of the working directory does not affect."""
    return Path(os.path.abspath(expand_home(path)))


def make_dated_folder(parent: Path, name: str) -> Path:
    """Make ``<parent>/<date>-<name>-<id>``, a new folder: runs of one prompt may begin in the same second."""
    while True:
        folder = parent / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}-{secrets.token_hex(2)}"
        with suppress(FileExistsError):
            folder.mkdir()
            return folder


def display_path(path: Path) -> str:
    """Return a path as people see it: relative to the current folder if it is below it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):  # elsewhere; no current folder
        return str(path)
