"""What lies in the cache folder, and what of it is not needed any more."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from clipgen.storage.weights import cache_folder, converted, converted_from, origin, version

# What `atomic_write` and the downloads write to until it is whole; the last is that of older versions.
_PARTIAL = re.compile(r"\.([0-9a-f]{8}\.part(\.\w+)?|[^/]+\.[0-9a-f]{8}\.(part|etag|hub)|[^/]+\.\d+\.part)")
_COPY = re.compile(r".+-[0-9a-f]{12}\.safetensors")
_STILL = 3600.0  # seconds; whatever is younger may be in the making


@dataclass(frozen=True)
class Item:
    """A file of the cache."""

    file: Path
    megabytes: float
    kind: str
    spare: bool  # whether nothing is lost without it


def items() -> list[Item]:
    """Every file in the cache folder, largest first. Links are not followed, and not listed."""
    found = [Item(file, file.stat().st_size / 1e6, *_kind(file)) for file in _files()]
    return sorted(found, key=lambda item: (-item.megabytes, item.file))


def prune() -> list[Item]:
    """Delete what is spare and say what that was.

    Downloads that were converted, what cut downloads left an hour ago or earlier, and copies of files that are gone
    or have changed. Nothing outside the cache folder, and nothing in it that clipgen did not put there.
    """
    gone = [item for item in items() if item.spare]
    for item in gone:
        item.file.unlink(missing_ok=True)
    for folder, _, _ in os.walk(cache_folder(), topdown=False):
        if _PARTIAL.search(folder.removeprefix(str(cache_folder()))) and not os.listdir(folder):
            os.rmdir(folder)
    return gone


def _files() -> Iterator[Path]:
    for folder, _, names in os.walk(cache_folder()):
        for file in (Path(folder, name) for name in names):
            if file.is_file() and not file.is_symlink():
                yield file


def _kind(file: Path) -> tuple[str, bool]:
    inside = file.relative_to(cache_folder())
    if any(_PARTIAL.fullmatch(part) for part in inside.parts):
        return "unfinished", time.time() - file.stat().st_mtime > _STILL
    if inside.parts[0] == "converted":
        if not (noted := origin(file)):  # not clipgen's own
            return "other", False
        return ("left over", True) if _COPY.fullmatch(file.name) and not _serves(file, noted) else ("converted", False)
    if _stands_for(converted(inside.as_posix()), file):
        return "download, converted", True
    return "other" if len(inside.parts) == 1 else "download", False


def _stands_for(copy: Path, file: Path) -> bool:
    known = origin(copy)
    return known.get("file") == str(file.resolve()) and known.get("version") == version(file)


def _serves(copy: Path, noted: Mapping[str, str]) -> bool:
    """Whether a copy that goes by a file's path is that of this file as it is now."""
    file = Path(noted.get("file", ""))
    return file.is_file() and converted_from(file) == copy
