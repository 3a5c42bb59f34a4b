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
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import TYPE_CHECKING, Any

import clipgen
from clipgen.setting import check_count

if TYPE_CHECKING:
    from clipgen.runs.spec import RunSpec

# A worker imports nothing from the current folder, which may be one that somebody sent. Its path begins without that
# folder from Python 3.11 on (-P); before, nothing is imported until its entry, the empty one, is removed. The package
# is the study's, wherever that was imported from, even if that is the current folder.
_SAFE_PATH = ["-P"] if sys.version_info >= (3, 11) else []
_WORKER = """
import sys
sys.path[:] = filter(None, sys.path)
from importlib.util import module_from_spec, spec_from_file_location
_, package, threads, handle = sys.argv
spec = spec_from_file_location("clipgen", package)
sys.modules["clipgen"] = module = module_from_spec(spec)
spec.loader.exec_module(module)
from clipgen.studies.local import serve
serve(int(threads), int(handle))
"""
_LAST = 10_000  # bytes at the end of what a worker printed, among which the reason for its end is looked for


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_counts(asked: int | None, rows: int, gpus: int, here: int) -> tuple[int, int]:
    """How many workers there are, and with how many threads each, so that none of the cores ``here`` has two of them.

    By default one worker for each GPU; on a CPU two, or one for every four cores. Raises ClipgenError for a number of
    workers that cannot be.
    """
    if asked is not None:
        asked = check_count("workers", asked, "; leave it out for what suits")
    usual = gpus or min(here, max(2, here // 4))
    workers = max(1, min(asked or usual, rows))
    return workers, max(1, here // workers)


def gpus(plans: Sequence[RunSpec]) -> list[str]:
    """Return the GPUs that workers can be spread over, as CUDA_VISIBLE_DEVICES names them; on a CPU none.

    Where a run names its GPU by number, every worker sees all of them, and there are as many workers as GPUs in use.
    """
    if {spec.device.type for spec in plans} != {"cuda"}:
        return []
    import torch

    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    visible = visible or [str(number) for number in range(torch.cuda.device_count())]
    if any(":" in spec.settings.device for spec in plans):
        return [",".join(visible)] * len({spec.device for spec in plans})
    return visible


class Local:
    """Processes of this Python. ``gpus``: those that the workers share, as CUDA_VISIBLE_DEVICES names them."""

    def __init__(self, workers: int | None, rows: int, gpus: list[str], address: str = "", kept: str = ""):
        self.workers, self.threads = worker_counts(workers, rows, len(gpus), cores())
        self._gpus, self._started = gpus, 0
        self._news: queue.Queue[tuple[Any, str]] = queue.Queue()
        self._processes: dict[subprocess.Popen, Connection] = {}  # each with its channel

    def measure(self, folders: Sequence[Path]) -> None:
        """Nothing: there is one worker for each GPU, or as many as are asked for."""

    def start(self) -> subprocess.Popen:
        """Start a worker that shares a channel of its own with this process; whatever it prints is no message."""
        environment = dict(os.environ)
        # An empty entry would be the current folder.
        folders = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
        environment["PYTHONPATH"] = os.pathsep.join(folders)
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            environment[name] = str(self.threads)
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[self._started % len(self._gpus)]
        self._started += 1
        log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by who listens
        channel, far = Pipe()
        handle: dict[str, Any] = {"pass_fds": [far.fileno()]}
        if sys.platform == "win32":
            os.set_handle_inheritable(far.fileno(), True)
            handle = {"close_fds": False}
        with far:
            given = str(clipgen.__file__), str(self.threads), str(far.fileno())
            worker = subprocess.Popen(
                [sys.executable, "-u", *_SAFE_PATH, "-c", _WORKER, *given],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # an interrupt is for the study, which ends its workers
                **handle,
            )
        self._processes[worker] = channel
        threading.Thread(target=self._listen, args=(worker, channel, log), name="clipgen worker", daemon=True).start()
        return worker

    def _listen(self, worker: subprocess.Popen, channel: Connection, log: Any) -> None:
        """Report every batch that a worker has made, and in the end, whatever happens, why it is gone."""
        why = "its end could not be read"
        try:
            with channel, suppress(EOFError, OSError):
                while channel.recv_bytes():
                    self._news.put((worker, ""))
            code = worker.wait()
            names = {int(known): known.name for known in signal.Signals}  # real-time signals have none
            why = f"exit status {code}" if code >= 0 else names.get(-code, f"signal {-code}")
            with log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _LAST))
                why = ": ".join([why, *log.read().decode(errors="replace").strip().splitlines()[-1:]])
        finally:
            self._news.put((worker, why))

    def give(self, worker: subprocess.Popen, folders: Sequence[Path]) -> None:
        with suppress(OSError):  # it is gone: wait() says so
            self._processes[worker].send_bytes(json.dumps([str(folder.resolve()) for folder in folders]).encode())

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


def serve(threads: int, handle: int) -> None:
    """Make the rows whose folders come in through a channel, and report each batch; ends when the study's process does.

    Args:
        threads: Of this worker, on a CPU.
        handle: Of the channel's end, as ``Local.start`` passes it on.
    """
    if sys.platform == "win32":
        from multiprocessing.connection import PipeConnection

        channel = PipeConnection(handle)
    else:
        channel = Connection(handle)
        os.set_inheritable(handle, False)  # processes that libraries start are not to keep it open
    orders: queue.Queue[list[Path]] = queue.Queue()

    def listen() -> None:
        try:
            while True:
                orders.put([Path(folder) for folder in json.loads(channel.recv_bytes())])
        finally:
            os._exit(0)

    threading.Thread(target=listen, daemon=True).start()  # before torch is loaded, which takes a while
    from clipgen.studies.worker import Maker

    maker = Maker(threads)
    while True:
        maker.make(orders.get())
        channel.send_bytes(b"made")
