"""Ending a run by Ctrl-C, or by a notebook's stop button."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from clipgen.images.names import display_path
from clipgen.runs.journal import Journal


class Interrupted(KeyboardInterrupt):
    """An interrupt of a run that can be resumed from its ``journal``."""

    def __init__(self, journal: Journal):
        super().__init__(f"interrupted; go on with: clipgen resume {display_path(journal.folder)}")
        self.journal = journal


@contextmanager
def resumable(journal: Journal) -> Iterator[None]:
    """Raise interrupts as ``Interrupted``, which names the run folder."""
    try:
        yield
    except Interrupted:
        raise
    except KeyboardInterrupt as error:
        raise Interrupted(journal) from error


@contextmanager
def interrupts(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` at the first interrupt; a second one is an ordinary KeyboardInterrupt.

    The handler is left alone in other threads than the main one, in processes that ignore interrupts, such as a shell's
    background jobs, and where it is not Python's, because Python could not restore it.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before in (None, signal.SIG_IGN):
        yield
        return

    def on_interrupt(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, before)
        stop()

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    except KeyboardInterrupt:
        stop()
    finally:
        signal.signal(signal.SIGINT, before)
