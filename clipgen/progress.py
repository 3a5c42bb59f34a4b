"""The progress of downloads for a listener, which can also stop them and long computations."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from threading import Thread
from typing import NamedTuple, TypeVar

T = TypeVar("T")
POLL = 0.1  # seconds between two checks of whether the listener stops


class Download(NamedTuple):
    """A download in progress, in bytes; the total is None while it is not known."""

    name: str
    done: int
    total: int | None
    initial: int = 0  # what was here when it began
    began: float = 0.0  # of time.monotonic

    def __str__(self) -> str:
        from tqdm import tqdm

        text = "{desc} · {n_fmt}B · {rate_fmt}"
        if self.total:
            text = "{desc} · {n_fmt}B of {total_fmt}B ({percentage:.0f}%) · {rate_fmt} · {remaining} left"
        options = {"unit": "B", "unit_scale": True, "bar_format": text}
        seconds = time.monotonic() - self.began
        return tqdm.format_meter(self.done, self.total, seconds, prefix=self.name, initial=self.initial, **options)


class Listener:
    """Receives the progress of downloads, and can stop them; used from several threads."""

    download: Download | None = None  # in progress
    stopping = False  # whether downloads and computations are to end


class Stopped(BaseException):
    """The listener stopped the work. A BaseException, so that no ``except Exception`` tries another source."""


_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Report the downloads of this thread to ``listener`` within the context."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def has_listener() -> bool:
    """Return whether a listener is set, so that no progress bar is needed."""
    return _listener.get() is not None


def check_stopped() -> None:
    """Raise Stopped if the listener stops; for long computations."""
    if (listener := _listener.get()) and listener.stopping:
        raise Stopped


def report_progress(name: str, done: int, total: int | None) -> None:
    """Report the progress of a download in bytes. Raises Stopped if the listener stops."""
    check_stopped()
    if listener := _listener.get():
        last = listener.download
        initial, began = (last.initial, last.began) if last and last.name == name else (done, time.monotonic())
        listener.download = Download(name, done, total, initial, began)


def run_stoppable(work: Callable[[], T]) -> T:
    """Return what ``work`` returns, or raise Stopped as soon as the listener stops, wherever the work is stuck.

    The work then continues in a thread of its own until it next calls ``report_progress``.
    """
    if not (listener := _listener.get()):
        return work()
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=copy_context().run, args=(run,), name="clipgen download", daemon=True).start()
    try:
        while not wait([future], POLL).done:
            if listener.stopping:
                raise Stopped
        return future.result()
    finally:
        listener.download = None
