"""Ctrl-C, or a notebook's stop button, as a wish that a run should end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


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
