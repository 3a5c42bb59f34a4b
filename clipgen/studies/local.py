"""Workers that are processes on this machine.

``concurrent.futures.ProcessPoolExecutor`` does not do here: its workers import the main module of whoever makes the
study, and what lies in the current folder; one that is lost ends all others.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from typing import Any

import clipgen
from clipgen.studies import executor
from clipgen.studies.executor import WorkerExecutor, WorkerLost, worker_counts

# A worker imports nothing from the current folder, which may be one that somebody sent. Its path begins without that
# folder from Python 3.11 on (-P); before, nothing is imported until its entry, the empty one, is removed. The package
# is the study's, wherever that was imported from, even if that is the current folder.
_SAFE_PATH = ["-P"] if sys.version_info >= (3, 11) else []
_MAIN = """
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
_TAIL = 10_000  # bytes at the end of what a worker printed, whose last line says why it ended


class ProcessExecutor(WorkerExecutor):
    """Processes of this Python: one for each GPU, or on a CPU so many as ``worker_counts`` says.

    Args:
        workers: Number of workers, None for the default.
        batches: Number of tasks that there will be.
        gpus: Values of CUDA_VISIBLE_DEVICES, which workers take in turns.
    """

    def __init__(self, workers: int | None, batches: int, gpus: list[str], engine: str = "local"):
        super().__init__(*worker_counts(workers, batches, len(gpus), executor.count_cores()))
        self._gpus = gpus

    def start_worker(self, slot: int) -> ProcessWorker:
        return ProcessWorker(self.threads, self._gpus[slot % len(self._gpus)] if self._gpus else None)


class ProcessWorker:
    """A process with a channel of its own to this one: what it prints is no message, and its input is empty."""

    def __init__(self, threads: int, gpu: str | None = None):
        environment = dict(os.environ)
        path = environment.get("PYTHONPATH", "").split(os.pathsep)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))  # an empty entry would be the current folder
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            environment[name] = str(threads)
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - see close
        self._channel, far = Pipe()
        inherited: dict[str, Any] = {"pass_fds": [far.fileno()]}
        if sys.platform == "win32":
            os.set_handle_inheritable(far.fileno(), True)
            inherited = {"close_fds": False}
        with far:
            arguments = str(clipgen.__file__), str(threads), str(far.fileno())
            self.process = subprocess.Popen(
                [sys.executable, "-u", *_SAFE_PATH, "-c", _MAIN, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                env=environment,
                start_new_session=True,  # an interrupt is for the study, which ends its workers
                **inherited,
            )

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            self._channel.send_bytes(pickle.dumps((function, arguments)))
            return self._channel.recv()
        except (EOFError, OSError) as error:
            raise WorkerLost(self._reason()) from error

    def _reason(self) -> str:
        """Return the signal or exit status, and the last line that was printed."""
        code = self.process.wait()
        names = {int(number): number.name for number in signal.Signals}  # real-time signals have none
        reason = f"exit status {code}" if code >= 0 else names.get(-code, f"signal {-code}")
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - _TAIL))
        return ": ".join([reason, *self._log.read().decode(errors="replace").strip().splitlines()[-1:]])

    def kill(self) -> None:
        self.process.kill()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._channel.close()
        self._log.close()


def serve(threads: int, handle: int) -> None:
    """Compute the tasks that come in through a channel; ends with the process that sends them.

    Args:
        threads: Number of CPU threads.
        handle: Of the channel's end, as ``ProcessWorker`` passes it on.
    """
    if sys.platform == "win32":
        from multiprocessing.connection import PipeConnection

        channel = PipeConnection(handle)
    else:
        channel = Connection(handle)
        os.set_inheritable(handle, False)  # processes that libraries start are not to keep it open
    tasks: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def receive() -> None:
        try:
            while True:
                tasks.put(channel.recv_bytes())
        finally:
            os._exit(0)

    threading.Thread(target=receive, daemon=True).start()  # before torch is loaded, which takes a while
    from clipgen.studies.worker import initialize

    initialize(threads)
    while True:
        function, arguments = pickle.loads(tasks.get())
        channel.send(function(*arguments))
