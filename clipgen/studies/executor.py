"""The interface of all engines: an executor whose workers are processes, here or elsewhere, that may be lost."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from clipgen.runs.spec import RunSpec

IDLE = 5.0  # seconds without a task after which a worker ends: another one may wait for its memory, cores or GPU


class WorkerLost(RuntimeError):
    """A worker has ended before its task; the message says why."""


class Worker(Protocol):
    """A process that computes one task at a time."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any: ...  # raises WorkerLost for any exception
    def kill(self) -> None: ...  # from any thread: ``call`` raises WorkerLost
    def close(self) -> None: ...  # ends the process, and frees what it holds in this one


class WorkerExecutor(Executor):
    """An executor that replaces the workers it loses: the future of a lost task raises WorkerLost, others go on.

    Each worker has a thread here that gives it one task at a time. It stays between tasks, with the models it loaded.
    """

    workers: int  # at most
    threads: int  # of each, on a CPU
    shares_folders = True  # whether workers see the folders of this machine

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[tuple[Future, Callable[..., Any], tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._alive: list[Worker] = []
        self._lock, self._closed = threading.Lock(), False

    def start_worker(self, slot: int) -> Worker:
        """Return a new worker, in place of an earlier one in the same slot."""
        raise NotImplementedError

    def measure(self, folders: Sequence[Path], address: str) -> None:
        """Set ``workers`` and ``threads`` by what the first step of some rows takes, where the engine can."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future:  # type: ignore[override]
        """Have a worker call a function, which is pickled by its name."""
        future: Future = Future()
        self._tasks.put((future, function, arguments))
        if (slot := len(self._threads)) < self.workers:
            # A daemon, so that a process with an unfinished study can end.
            self._threads.append(threading.Thread(target=self._work, args=(slot,), name="clipgen worker", daemon=True))
            self._threads[slot].start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """End all workers at once, whatever they compute."""
        with self._lock:
            self._closed = True
            for worker in self._alive:
                worker.kill()
        with suppress(queue.Empty):
            while task := self._tasks.get_nowait():
                task[0].cancel()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads if wait else ():
            thread.join()

    def _work(self, slot: int) -> None:
        worker: Worker | None = None
        while not self._closed:
            try:
                task = self._tasks.get(timeout=IDLE)
            except queue.Empty:
                task = None
            if task is None:
                self._end(worker)
                worker = None
                continue
            future, function, arguments = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                worker = worker or self._start(slot)
                future.set_result(worker.call(function, *arguments))
            except Exception as error:
                self._end(worker)
                worker = None
                future.set_exception(error)
        self._end(worker)

    def _start(self, slot: int) -> Worker:
        worker = self.start_worker(slot)
        with self._lock:
            self._alive.append(worker)
            if self._closed:
                worker.kill()
        return worker

    def _end(self, worker: Worker | None) -> None:
        if worker:
            with self._lock:
                self._alive.remove(worker)
            worker.close()


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_counts(workers: int | None, rows: int, gpus: int, cores: int) -> tuple[int, int]:
    """Return the number of workers, and of threads of each, so that no core has two threads.

    By default there is one worker for each GPU; on a CPU there are two, or one for every four cores.
    """
    default = gpus or min(cores, max(2, cores // 4))
    count = max(1, min(workers or default, rows))
    return count, max(1, cores // count)


def visible_gpus(specs: Sequence[RunSpec]) -> list[str]:
    """Return a value of CUDA_VISIBLE_DEVICES for each worker; none on a CPU.

    Where a run names its GPU by number, every worker sees all of them, and there are as many workers as GPUs in use.
    """
    if {spec.device.type for spec in specs} != {"cuda"}:
        return []
    import torch

    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    visible = visible or [str(number) for number in range(torch.cuda.device_count())]
    if any(":" in spec.settings.device for spec in specs):
        return [",".join(visible)] * len({spec.device for spec in specs})
    return visible
