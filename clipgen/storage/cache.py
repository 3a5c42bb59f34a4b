"""The files in the cache folder, and which of them are not needed any more."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clipgen.storage.weights import cache_folder, converted, converted_from, origin, version

# What `atomic_write` and downloads write to until it is complete.
_PARTIAL = re.compile(r"\.([0-9a-f]{8}\.part(\.\w+)?|[^/]+\.[0-9a-f]{8}\.(part|etag|hub))")
_COPY = re.compile(r".+-[0-9a-f]{12}\.safetensors")
_MIN_AGE = 3600.0  # seconds; a younger unfinished file may be a download in progress


@dataclass(frozen=True)
class Item:
    """A file of the cache."""

    file: Path
    megabytes: float
    kind: str
    deletable: bool  # whether nothing is lost without it


def list_items() -> list[Item]:
    """Return every file in the cache folder, largest first. Links are not followed, and not listed."""
    items = [Item(file, file.stat().st_size / 1e6, *_classify(file)) for file in _list_files()]
    return sorted(items, key=lambda item: (-item.megabytes, item.file))


def prune() -> list[Item]:
    """Delete what is not needed any more, and return it.

    These are downloads that were converted, unfinished downloads of an hour ago or earlier, and copies of files that
    are gone or have changed; nothing outside the cache folder, and nothing that clipgen did not put there.
    """
    items = [item for item in list_items() if item.deletable]
    for item in items:
        item.file.unlink(missing_ok=True)
    for folder, _, _ in os.walk(cache_folder(), topdown=False):
        if _PARTIAL.search(folder.removeprefix(str(cache_folder()))) and not os.listdir(folder):
            os.rmdir(folder)
    return items


def _list_files() -> Iterator[Path]:
    for folder, _, names in os.walk(cache_folder()):
        for file in (Path(folder, name) for name in names):
            if file.is_file() and not file.is_symlink():
                yield file


def _classify(file: Path) -> tuple[str, bool]:
    """Return the kind of a file, and whether it can be deleted."""
    inside = file.relative_to(cache_folder())
    if any(_PARTIAL.fullmatch(part) for part in inside.parts):
        return "unfinished", time.time() - file.stat().st_mtime > _MIN_AGE
    if inside.parts[0] == "converted":
        noted = origin(file)
        if not noted:  # not clipgen's own
            return "other", False
        source = Path(noted.get("file", ""))
        stale = _COPY.fullmatch(file.name) and not (source.is_file() and converted_from(source) == file)
        return ("left over", True) if stale else ("converted", False)
    noted = origin(converted(inside.as_posix()))
    if noted.get("file") == str(file.resolve()) and noted.get("version") == version(file):
        return "download, converted", True
    return "other" if len(inside.parts) == 1 else "download", False
