"""The memory of a process that computes on the CPU: what one step frees stays for the next, or goes back at once.

glibc, the C library of most Linuxes, gives every block of more than 32 MB back to the system when it is freed, and has
the next one made of pages that must be cleared first. A step for a large picture takes and frees gigabytes of these:
where they stay it is done in about two thirds of the time. But blocks that lie among others leave gaps, so that the
process holds up to half as much again: where memory is short, smaller blocks go back, too. A run in another thread than
the first gains no time: what glibc keeps for such a thread is too small for these blocks. Under another C library
nothing happens here.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # glibc's numbers for what ``mallopt`` sets (malloc.h)
_KEEPING = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1}
_SPARING = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 2**22, _TRIM_THRESHOLD: 2**23}
_USUAL = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 2**25, _TRIM_THRESHOLD: 2**26}

ROOT = Path("/")  # where the system says what is free
# Of a line in /proc/self/cgroup, by its controller ("" in version 2): where the groups are, and in which files a group
# has its limit, what it has taken, and of its statistics what of that are copies of files, which would give way.
_GROUPS = {
    "": (("sys/fs/cgroup", "sys/fs/cgroup/unified"), "memory.max", "memory.current", "inactive_file"),
    "memory": (("sys/fs/cgroup/memory",), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_set, _trim = (getattr(_libc, name, None) for name in ("mallopt", "malloc_trim"))
_owners: weakref.WeakKeyDictionary[object, bool] = weakref.WeakKeyDictionary()
_lock = threading.RLock()


def suit(owner: object, ample: bool) -> None:
    """As long as there is this ``owner``: keep what is freed if memory is ``ample`` for one of them, else spare it."""
    with _lock:
        if owner not in _owners:
            weakref.finalize(owner, _settle)  # called when it is out of _owners: what is registered last comes first
        _owners[owner] = ample
        _settle()


def leave(owner: object) -> None:
    """Do as if it were gone."""
    with _lock:
        _owners.pop(owner, None)
        _settle()


def give_back() -> None:
    """Let the system have what is free."""
    if _trim:
        _trim(0)


def free() -> int | None:
    """Return the bytes that this process can still have; None where nobody says.

    Not more than the machine has available, nor than the limits of containers and batch systems leave.
    """
    left, machine = [*_left()], _numbers(ROOT / "proc/meminfo")
    if "MemAvailable" in machine:
        left.append(1024 * machine["MemAvailable"])
    return max(0, min(left)) if left else None


def _left() -> Iterator[int]:
    """What each limit on the memory of this process's control groups, and of those around them, leaves."""
    with suppress(OSError):
        for line in (ROOT / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in set(controllers.split(",")) & _GROUPS.keys():
                trees, limit, taken, copies = _GROUPS[controller]
                group = PurePosixPath(path.lstrip("/"))  # in a container it may be the host's, which is not to be seen
                for folder in (ROOT / tree / part for tree in trees for part in (group, *group.parents)):
                    with suppress(OSError, ValueError):  # "max", or no such file: no limit
                        most, used = (int((folder / name).read_text()) for name in (limit, taken))
                        yield most - used + _numbers(folder / "memory.stat").get(copies, 0)


def _numbers(file: Path) -> dict[str, int]:
    """The whole numbers of a file by their names, as ``name 12`` or ``name: 12 kB``; none where there is no file."""
    with suppress(OSError):
        rows = (line.replace(":", " ").split() for line in file.read_text().splitlines())
        return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}
    return {}


def _settle() -> None:
    with _lock:
        keeping = True in _owners.values()
        for option, value in (_KEEPING if keeping else _SPARING if _owners else _USUAL).items():
            if _set:
                _set(option, value)
        if not keeping:
            give_back()
