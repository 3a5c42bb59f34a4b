"""How far a download is, told to whoever listens; and that nobody waits for it any more, told to the download."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from threading import Thread
from typing import NamedTuple, Protocol, TypeVar

T = TypeVar("T")
LOOK = 0.1  # seconds between two looks at whether it is still wanted


class Download(NamedTuple):
    """A file that is on its way: bytes, and of how many if that is known."""

    name: str
    done: int
    total: int | None


class Listener(Protocol):
    """Who waits for downloads. It is told from other threads than its own."""

    download: Download | None  # what is on its way

    @property
    def stopping(self) -> bool:
        """Whether nobody waits any more."""


class Stopped(BaseException):
    """Nobody waits any more. Like KeyboardInterrupt no Exception: it is nothing that another source could mend."""


_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """What is downloaded in this thread meanwhile is told to ``listener``."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def listened() -> bool:
    """Whether somebody listens, so that no progress bar needs to be printed."""
    return _listener.get() is not None


def check() -> None:
    """Raise Stopped if nobody waits any more: for whoever computes for long."""
    if (listener := _listener.get()) and listener.stopping:
        raise Stopped


def tell(name: str, done: int, total: int | None) -> None:
    """Say how far a download is. Raises Stopped if nobody waits for it: what came last is not to be kept."""
    check()
    if listener := _listener.get():
        listener.download = Download(name, done, total)


def awaited(work: Callable[[], T]) -> T:
    """What ``work`` returns. Raises Stopped as soon as nobody waits any more, wherever the work is stuck.

    The work is then left alone in a thread of its own; it ends at the next word that it tells.
    """
    if not (listener := _listener.get()):
        return work()
    future: Future[T] = Future()

    def do() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=copy_context().run, args=(do,), name="clipgen download", daemon=True).start()
    try:
        while not wait([future], LOOK).done:
            if listener.stopping:
                raise Stopped
        return future.result()
    finally:
        listener.download = None
