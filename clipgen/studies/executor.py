"""The interface of all engines: an executor whose workers are processes, here or elsewhere, that may be lost."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent import futures
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from clipgen.runs.spec import RunSpec


class WorkerLost(RuntimeError):
    """A worker has ended before its task; the message says why."""


class Worker(Protocol):
    """A process that computes one task at a time."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any: ...  # raises WorkerLost for any exception
    def kill(self) -> None: ...  # from any thread: ``call`` raises WorkerLost
    def close(self) -> None: ...  # ends the process, and frees what it holds in this one


class WorkerExecutor(Executor):
    """An executor that replaces the workers it loses: the future of a lost task raises WorkerLost, others go on.

    A worker stays between tasks, with the models it loaded.

    Args:
        workers: Largest number of workers.
        threads: Number of threads of each, on a CPU.
    """

    shares_folders = True  # whether workers see the folders of this machine

    def __init__(self, workers: int, threads: int):
        self.workers, self.threads = workers, threads
        self._alive: dict[int, Worker] = {}  # by slot
        self._slots: queue.LifoQueue[int] = queue.LifoQueue()  # without a task; those with a worker come first
        for slot in reversed(range(workers)):
            self._slots.put(slot)
        self._tasks: set[Future] = set()
        self._closed = False

    def start_worker(self, slot: int) -> Worker:
        """Return a new worker, in place of an earlier one in the same slot."""
        raise NotImplementedError

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future:  # type: ignore[override]
        """Have a worker call a function, which is pickled by its name."""
        future: Future = Future()
        self._tasks.add(future)
        future.add_done_callback(self._tasks.discard)
        # A daemon, so that a process with an unfinished study can end.
        threading.Thread(
            target=self._call, args=(future, function, arguments), name="clipgen worker", daemon=True
        ).start()
        return future

    def _call(self, future: Future, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        slot, result, error = self._slots.get(), None, None
        try:
            if slot not in self._alive:
                self._alive[slot] = self.start_worker(slot)
            if self._closed:
                self._alive[slot].kill()
            result = self._alive[slot].call(function, *arguments)
        except Exception as failure:
            error = failure
            self._close(slot)
        self._slots.put(slot)
        if error:
            future.set_exception(error)
        else:
            future.set_result(result)

    def _close(self, slot: int) -> None:
        if worker := self._alive.pop(slot, None):
            worker.close()

    def close_idle(self) -> None:
        """End the workers without a task: another one may wait for their memory, cores or GPU."""
        slots = []
        with suppress(queue.Empty):
            while True:
                slots.append(self._slots.get_nowait())
        for slot in slots:
            self._close(slot)
            self._slots.put(slot)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """End all workers at once, whatever they compute."""
        self._closed = True
        for worker in list(self._alive.values()):
            worker.kill()
        if wait:
            futures.wait(list(self._tasks))
        self.close_idle()


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
