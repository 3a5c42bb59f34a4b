"""Ctrl-C, or a notebook's stop button, as a wish that a run should end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from clipgen.runs.journal import Journal


class Interrupted(KeyboardInterrupt):
    """An interrupt that says where what was made until then is kept: in the folder of ``journal``."""

    def __init__(self, journal: Journal):
        super().__init__(f"interrupted; go on with: clipgen resume {journal.folder}")
        self.journal = journal


@contextmanager
def resumable(journal: Journal) -> Iterator[None]:
    """Let an interrupt say that what was made is kept, and where."""
    try:
        yield
    except Interrupted:
        raise
    except KeyboardInterrupt as error:
        raise Interrupted(journal) from error


@contextmanager
def interrupts(stop: Callable[[], None]) -> Iterator[None]:
    """The first interrupt calls ``stop``, a second one is an ordinary KeyboardInterrupt.

    Interrupts stay with whoever has them: another thread, a process that ignores them, as a shell has its background
    jobs do, and a program around Python, whose handler Python could not put back.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before in (None, signal.SIG_IGN):
        yield
        return

    def asked(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, before)
        stop()

    signal.signal(signal.SIGINT, asked)
    try:
        yield
    except KeyboardInterrupt:
        stop()
    finally:
        signal.signal(signal.SIGINT, before)
