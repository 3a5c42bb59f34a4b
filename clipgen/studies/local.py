"""Rows made by processes on this machine: one for each GPU, or on a CPU as many as its cores bear."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import clipgen
from clipgen.errors import ClipgenError

if TYPE_CHECKING:
    from clipgen.runs.plan import Plan


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def crew(asked: int | None, rows: int, gpus: int, here: int) -> tuple[int, int]:
    """How many workers there are, and with how many threads each, so that none of the cores ``here`` has two of them.

    By default one worker for each GPU; on a CPU two, or one for every four cores. Raises ClipgenError for a number of
    workers that cannot be.
    """
    if asked is not None and asked < 1:
        raise ClipgenError(f"workers={asked}: has to be a whole number of at least 1; leave it out for what suits")
    usual = gpus or min(here, max(2, here // 4))
    workers = max(1, min(asked or usual, rows))
    return workers, max(1, here // workers)


def gpus(plans: Sequence[Plan]) -> list[str]:
    """The GPUs that workers can be spread over, as CUDA_VISIBLE_DEVICES names them; none if a run names its own."""
    if {plan.device.type for plan in plans} != {"cuda"} or any(":" in plan.settings.device for plan in plans):
        return []
    import torch

    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return visible or [str(number) for number in range(torch.cuda.device_count())]


class Local:
    """Processes of this Python. ``gpus``: those that the workers share, as CUDA_VISIBLE_DEVICES names them."""

    def __init__(self, workers: int | None, rows: int, gpus: list[str], address: str = "", kept: str = ""):
        self.workers, self.threads = crew(workers, rows, len(gpus), cores())
        self._gpus, self._started = gpus, 0
        self._news: queue.Queue[tuple[Any, str]] = queue.Queue()
        self._processes: list[subprocess.Popen] = []

    def measure(self, folders: Sequence[Path]) -> None:
        """Nothing: there is one worker for each GPU, or as many as are asked for."""

    def start(self) -> subprocess.Popen:
        environment = dict(os.environ)
        package = str(Path(clipgen.__file__).parents[1])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, environment.get("PYTHONPATH")]))
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            environment[name] = str(self.threads)
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[self._started % len(self._gpus)]
        self._started += 1
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by who listens
        worker = subprocess.Popen(
            [sys.executable, "-m", "clipgen.studies.local", str(self.threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            start_new_session=True,  # an interrupt is for the study, which ends its workers
        )
        self._processes.append(worker)
        threading.Thread(target=self._listen, args=(worker, errors), name="clipgen worker", daemon=True).start()
        return worker

    def _listen(self, worker: subprocess.Popen, errors: Any) -> None:
        """Tell what a worker says: a line for each row, and then its end."""
        assert worker.stdout
        with errors, worker.stdout:
            for _ in worker.stdout:
                self._news.put((worker, ""))
            code = worker.wait()
            errors.seek(0)
            last = errors.read().decode(errors="replace").strip().splitlines()[-1:]
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        self._news.put((worker, ": ".join([how, *last])))

    def give(self, worker: subprocess.Popen, folders: Sequence[Path]) -> None:
        assert worker.stdin
        with suppress(OSError):  # it is gone: wait() says so
            worker.stdin.write(json.dumps([str(folder.resolve()) for folder in folders]).encode() + b"\n")
            worker.stdin.flush()

    def wait(self, seconds: float) -> list[tuple[Any, str]]:
        news = []
        with suppress(queue.Empty):
            news.append(self._news.get(timeout=seconds))
            while True:
                news.append(self._news.get_nowait())
        return news

    def end(self, worker: subprocess.Popen) -> None:
        worker.kill()

    def close(self) -> None:
        for worker in self._processes:
            worker.kill()
        for worker in self._processes:
            worker.wait()
            if worker.stdin:
                with suppress(OSError):
                    worker.stdin.close()


def _worker(threads: int) -> None:
    """Make the rows whose folders come in, a line for each batch, and say so; ends when the study's process does."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    orders: queue.Queue[list[Path]] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            orders.put([Path(folder) for folder in json.loads(line)])
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()  # before torch is loaded, which takes a while
    from clipgen.studies.maker import Maker

    maker = Maker(threads)
    while True:
        maker.make(orders.get())
        print("made", file=answers, flush=True)


if __name__ == "__main__":
    _worker(int(sys.argv[1]))
