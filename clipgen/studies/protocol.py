"""What makes the rows of a study: the one interface of all engines, and the one loop that keeps their workers busy."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from clipgen.studies.row import RowState

TICK = 0.25  # seconds between two looks at how far the rows are
DEATHS = 3  # of workers in the same step of a row, after which the row is given up


class Engine(Protocol):
    """Workers that make rows. What a worker makes, and how far it is, is in the row's folder (``clipgen.studies.row``);
    an engine only starts workers, gives them folders, and tells who is free again or gone.

    A worker is whatever an engine takes for one. It makes one batch of rows at a time, and ends with the process that
    started it.
    """

    workers: int  # at once, at most
    threads: int  # of each, on a CPU

    def measure(self, folders: Sequence[Path]) -> None:
        """Look at what the first batch takes, where that says how many workers there can be; called before them."""

    def start(self) -> Any:
        """A new worker."""

    def give(self, worker: Any, folders: Sequence[Path]) -> None:
        """Let a free worker make, or go on with, the runs in some folders, together."""

    def wait(self, seconds: float) -> list[tuple[Any, str]]:
        """The workers that have news, after ``seconds`` at most: "" for one that is free again, or why one is gone."""

    def end(self, worker: Any) -> None:
        """End a free worker, for which nothing is left to do: what it takes up may be what another one waits for."""

    def close(self) -> None:
        """End all workers, at once: a journal can be left at any moment."""


def work(engine: Engine, batches: Iterable[Sequence[Path]]) -> Iterator[list[Path]]:
    """Make the rows in these folders, each batch together; yields whenever they may have come further: those that are
    over since then, made or failed.

    A worker that is gone is replaced, and its rows go on from their last saved steps, each by itself.
    """
    waiting, busy = deque(batches), dict[Any, Sequence[Path]]()
    free: list[Any] = []
    deaths: Counter[tuple[Path, int]] = Counter()
    while waiting or busy:
        over: list[Path] = []
        while waiting and len(busy) < engine.workers:
            worker, batch = free.pop() if free else engine.start(), waiting.popleft()
            busy[worker] = batch
            engine.give(worker, batch)
        for worker, why in engine.wait(TICK):
            done = busy.pop(worker, None)
            if not why:
                free.append(worker)
                over += done or ()
            elif done is None:
                free = [one for one in free if one != worker]
            elif len(done) > 1:
                waiting.extendleft([folder] for folder in reversed(done))
            else:
                (folder,) = done
                state = RowState.read(folder)
                deaths[folder, state.step] += 1
                if deaths[folder, state.step] < DEATHS:
                    waiting.appendleft(done)
                else:
                    said = f"its worker was lost {DEATHS} times in the same step ({why}); is memory short?"
                    with suppress(OSError):  # a full disk: whoever waits for the row says so
                        replace(state, error=said).write(folder)
                    over.append(folder)
        while free and not waiting:
            engine.end(free.pop())
        yield over
