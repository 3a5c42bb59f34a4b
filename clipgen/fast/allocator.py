"""Memory of a process that computes on the CPU: what is available, and whether freed blocks stay for the next step.

glibc returns every freed block of more than 32 MB to the system, and the kernel has to clear the next one first. A step
for a large image allocates gigabytes of these: it takes about two thirds of the time if they stay.
But they leave gaps, so that the process holds up to half as much again; where memory is short, smaller blocks are
also returned. Runs in other threads than the first gain no time, because glibc's arenas for these are too small for
such blocks. With another C library nothing happens.
"""

import ctypes
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from clipgen import fast

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # glibc's numbers for what ``mallopt`` sets (malloc.h)
_KEEP_ALL = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1}
_KEEP_LITTLE = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 2**22, _TRIM_THRESHOLD: 2**23}
_DEFAULTS = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 2**25, _TRIM_THRESHOLD: 2**26}

ROOT = Path("/")  # of /proc and /sys
# For each controller in /proc/self/cgroup ("" in version 2): the folders of its groups, a group's files with its limit
# and its usage, and the statistic of usage that is page cache, which gives way.
_GROUPS = {
    "": (("sys/fs/cgroup", "sys/fs/cgroup/unified"), "memory.max", "memory.current", "inactive_file"),
    "memory": (("sys/fs/cgroup/memory",), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_mallopt, _malloc_trim = (getattr(_libc, name, None) for name in ("mallopt", "malloc_trim"))
_owners: weakref.WeakKeyDictionary[object, bool] = weakref.WeakKeyDictionary()
_lock = threading.RLock()


def keep_freed_memory(owner: object, plentiful: bool) -> None:
    """Keep freed blocks as long as any living owner has plentiful memory; otherwise return them to the system."""
    with _lock:
        if owner not in _owners:
            weakref.finalize(owner, _set_options)  # called after the owner has left ``_owners``
        _owners[owner] = plentiful
        _set_options()


def release(owner: object) -> None:
    """Stop keeping freed blocks for an owner, as if it were deleted."""
    with _lock:
        _owners.pop(owner, None)
        _set_options()


def trim() -> None:
    """Return free blocks to the system."""
    if _malloc_trim:
        _malloc_trim(0)


def _set_options() -> None:
    if not (fast.enabled and _mallopt):
        return
    with _lock:
        keep = any(_owners.values())
        options = _KEEP_LITTLE if _owners else _DEFAULTS
        for option, value in (_KEEP_ALL if keep else options).items():
            _mallopt(option, value)
        if not keep:
            trim()


def available_memory() -> int | None:
    """Return the bytes that the machine and containers' limits leave this process; None if unknown."""
    limits, machine = list(_cgroup_limits()), _read_numbers(ROOT / "proc/meminfo")
    if "MemAvailable" in machine:
        limits.append(1024 * machine["MemAvailable"])
    return max(0, min(limits)) if limits else None


def _cgroup_limits() -> Iterator[int]:
    """Yield the bytes left of each memory limit of this process's control groups and their parents."""
    with suppress(OSError):
        for line in (ROOT / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in set(controllers.split(",")) & _GROUPS.keys():
                trees, limit, usage, cache = _GROUPS[controller]
                group = PurePosixPath(path.lstrip("/"))  # of the host, and not visible, in some containers
                for folder in (ROOT / tree / part for tree in trees for part in (group, *group.parents)):
                    with suppress(OSError, ValueError):  # "max", or no such file: no limit
                        left = int((folder / limit).read_text()) - int((folder / usage).read_text())
                        yield left + _read_numbers(folder / "memory.stat").get(cache, 0)


def _read_numbers(file: Path) -> dict[str, int]:
    """Return the numbers of a file with lines like ``name 12`` or ``name: 12 kB``; none if there is no file."""
    with suppress(OSError):
        rows = (line.replace(":", " ").split() for line in file.read_text().splitlines())
        return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}
    return {}
