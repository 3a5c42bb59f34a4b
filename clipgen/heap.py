"""The memory of a process that computes on the CPU: what one step frees can stay for the next.

glibc, the C library of most Linuxes, gives every block of more than 32 MB back to the system when it is freed, and has
the next one made of pages that must be cleared first. A step for a large picture takes and frees gigabytes of these:
where they stay it is done in about two thirds of the time. But blocks that lie among others leave gaps, so that the
process holds up to half as much again. A run in another thread than the first gains nothing: what glibc keeps for such
a thread is too small for these blocks. Under another C library nothing happens here.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import weakref

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # glibc's numbers for what ``mallopt`` sets (malloc.h)
_KEEPING = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1}
_USUAL = {_MMAP_MAX: 65536, _TRIM_THRESHOLD: 2**26}

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_set, _trim = (getattr(_libc, name, None) for name in ("mallopt", "malloc_trim"))
_owners: weakref.WeakSet = weakref.WeakSet()
_lock = threading.RLock()


def keep(owner: object, wanted: bool = True) -> None:
    """As long as there is an ``owner`` who wants it, freed memory stays the process's."""
    with _lock:
        before = bool(_owners)
        if wanted and owner not in _owners:
            weakref.finalize(owner, _settle)  # called after the set has lost it: what is registered last comes first
            _owners.add(owner)
        elif not wanted:
            _owners.discard(owner)
        if bool(_owners) != before:
            _settle()


def give_back() -> None:
    """Let the system have what is free."""
    if _trim:
        _trim(0)


def _settle() -> None:
    with _lock:
        if _set:
            for option, value in (_KEEPING if _owners else _USUAL).items():
                _set(option, value)
        if not _owners:
            give_back()
