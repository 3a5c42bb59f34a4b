"""Runs that go on to their end, with a progress bar, and what Ctrl-C or a notebook's stop button does meanwhile."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm

from clipgen.images.names import display_path
from clipgen.runs.batch import iterate_batch
from clipgen.runs.inputs import Ask
from clipgen.runs.journal import Journal
from clipgen.runs.run import Run
from clipgen.runs.settings import list_settings


@list_settings
def generate(prompt: Ask, *, progress: bool = True, **options: Any) -> Run:
    """Make a picture with a progress bar; returns the Run. Arguments as for Run, and those of ``finish``."""
    return finish(Run(prompt, **options), progress)


def finish(run: Run, progress: bool = True) -> Run:
    """Let a run go on to its end, with a progress bar.

    An interrupt (Ctrl-C, a notebook's stop button) ends it after the current step, with everything kept: ``finished``
    is False then, and ``Run.resume(run.journal.folder)`` goes on. A second one stops at once.
    """
    bar = tqdm(total=run.settings.steps, initial=run.step, disable=not progress, unit="step", dynamic_ncols=True)
    with bar, interrupts(run.stop):
        for frame in run:
            bar.update(frame.step - bar.n)
            bar.set_postfix({name: f"{frame.scores[name]:.3f}" for name in ("clip", "judge") if name in frame.scores})
        if run.finished:
            bar.total = bar.n  # it may have settled before its last step
    return run


def finish_batch(runs: Sequence[Run], progress: bool = True) -> Sequence[Run]:
    """Let runs go on to their end, as ``clipgen.finish`` does with one; an interrupt ends all after their next step."""
    if len(runs) == 1:
        return [finish(runs[0], progress)]

    def stop() -> None:
        for run in runs:
            run.stop()

    total, done = sum(run.settings.steps for run in runs), sum(run.step for run in runs)
    bar = tqdm(total=total, initial=done, disable=not progress, unit="step", dynamic_ncols=True)
    with bar, interrupts(stop):
        for _ in iterate_batch(runs):
            bar.update(sum(run.step for run in runs) - bar.n)
    return runs


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
