"""Engines of studies: executors whose workers may be lost, processes of this machine or actors of Ray.

``concurrent.futures.ProcessPoolExecutor`` is unsuitable: its workers import the main module of whoever makes the
study, and what lies in the current folder; and all of them end when one is lost.
"""

import math
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any

import clipgen
from clipgen.errors import ClipgenError

# A worker imports nothing from the current folder (-P), which may be one that somebody sent. The package is the
# study's, wherever that was imported from, even if that is the current folder.
_MAIN = """
import sys
from importlib.util import module_from_spec, spec_from_file_location
_, package, threads, handle = sys.argv
spec = spec_from_file_location("clipgen", package)
sys.modules["clipgen"] = module = module_from_spec(spec)
spec.loader.exec_module(module)
from clipgen.studies.worker import serve
serve(int(threads), int(handle))
"""
_TAIL = 10_000  # bytes at the end of a worker's output; the last line says why it ended


class WorkerLost(RuntimeError):
    """A worker has ended before its task; the message says why."""


class WorkerExecutor(ThreadPoolExecutor):
    """An executor whose threads wait for workers: the future of a lost one raises WorkerLost, the others continue.

    A worker stays between tasks, with the models it loaded.

    Args:
        workers: Largest number of workers.
        threads: Number of threads of each, on a CPU.
    """

    shares_folders = True  # whether workers see the folders of this machine

    def __init__(self, workers: int, threads: int):
        super().__init__(workers)
        self.workers, self.threads = workers, threads
        self._workers: dict[int, Any] = {}  # workers by slot
        self._slots: queue.LifoQueue[int] = queue.LifoQueue()  # without a task; those with a worker come first
        for slot in reversed(range(workers)):
            self._slots.put(slot)
        self._closed = False

    def start_worker(self, slot: int) -> Any:
        """Return a new worker, in place of an earlier one in the same slot.

        ``worker.call(function, *arguments)`` raises WorkerLost if the worker ends; ``worker.kill()``, from any thread,
        makes it do so; ``worker.close()`` also frees what it holds in this process.
        """
        raise NotImplementedError

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future:  # type: ignore[override]
        """Have a worker call a function, which is pickled by its name."""
        return super().submit(self._call, function, *arguments)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        slot = self._slots.get()
        try:
            if slot not in self._workers:
                self._workers[slot] = self.start_worker(slot)
            if self._closed:
                self._workers[slot].kill()
            return self._workers[slot].call(function, *arguments)
        except Exception:
            self._close(slot)
            raise
        finally:
            self._slots.put(slot)

    def _close(self, slot: int) -> None:
        if worker := self._workers.pop(slot, None):
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
        for worker in list(self._workers.values()):
            worker.kill()
        super().shutdown(wait, cancel_futures=cancel_futures)
        self.close_idle()


class ProcessExecutor(WorkerExecutor):
    """Processes of this Python, as many as ``plan_workers`` returns.

    Args:
        workers: Number of workers, None for the default.
        batches: Number of tasks that there will be.
        gpus: Values of CUDA_VISIBLE_DEVICES, which workers take in turns.
    """

    def __init__(self, workers: int | None, batches: int, gpus: list[str], engine: str = "local"):
        super().__init__(*plan_workers(workers, batches, len(gpus), count_cores()))
        self._gpus = gpus

    def start_worker(self, slot: int) -> "ProcessWorker":
        return ProcessWorker(self.threads, self._gpus[slot % len(self._gpus)] if self._gpus else None)


class ProcessWorker:
    """A process with its own channel to this one, so that what it prints is not taken for a message."""

    def __init__(self, threads: int, gpu: str | None = None):
        path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        libraries = "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"
        environment = os.environ | dict.fromkeys(libraries, str(threads))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))  # an empty entry would be the current folder
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - see close
        self._channel, far = Pipe()
        inherited: dict[str, Any] = {"pass_fds": [far.fileno()]}
        if sys.platform == "win32":
            os.set_handle_inheritable(far.fileno(), True)
            inherited = {"close_fds": False}
        with far:
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-P", "-c", _MAIN, str(clipgen.__file__), str(threads), str(far.fileno())],
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


class RayExecutor(WorkerExecutor):
    """Actors of Ray, which see the folders of the study, or copy them from its address.

    With more workers than GPUs several share one.

    Args:
        workers: Number of workers, None for the default.
        batches: Number of tasks that there will be.
        gpus: Unused: Ray knows its own.
        engine: "ray", which goes to RAY_ADDRESS or else starts Ray here, or an address such as "ray://head:10001".

    Raises:
        ClipgenError: Where Ray is missing, cannot be reached, or has no CPU.
    """

    shares_folders = False

    def __init__(self, workers: int | None, batches: int, gpus: list[str], engine: str = "ray"):
        try:
            import ray
        except ImportError as error:
            raise ClipgenError('engine="ray" needs Ray: pip install "clipgen-notebook[ray]"') from error
        self._ray, self._started_ray = ray, not ray.is_initialized()
        try:
            if self._started_ray:
                ray.init(engine if "://" in engine else None, log_to_driver=False, configure_logging=False)
        except Exception as error:  # a timeout raises plain Exception
            reason = " ".join(str(error).split())
            raise ClipgenError(f"engine={engine!r}: Ray cannot be reached ({reason}); check the address") from error
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
        cores, card_count = (int(sum(node.get(kind, 0) for node in nodes)) for kind in ("CPU", "GPU"))
        count, threads = plan_workers(workers, batches, card_count, cores)
        # No worker is spread over two nodes.
        super().__init__(count, min([threads, *(int(node["CPU"]) for node in nodes)]))
        self._gpu_share = 1 / math.ceil(count / card_count) if card_count else 0
        if not nodes:
            self.shutdown()
            raise ClipgenError(f"engine={engine!r}: this cluster has no CPU to compute with; add a node to it")

    def start_worker(self, slot: int) -> "RayWorker":
        options = {"num_cpus": self.threads, "num_gpus": self._gpu_share, "max_restarts": 0}
        arguments = self.threads, os.getcwd(), str(Path(clipgen.__file__).parents[1])
        return RayWorker(self._ray, self._ray.remote(_actor_class()).options(**options).remote(*arguments))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        super().shutdown(wait, cancel_futures=cancel_futures)
        if self._started_ray:
            self._ray.shutdown()


class RayWorker:
    """An actor of Ray."""

    def __init__(self, ray: Any, actor: Any):
        self._ray, self.actor = ray, actor

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return self._ray.get(self.actor.call.remote(function, *arguments))
        except self._ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error  # of an error in the function; its own text is a traceback
            raise WorkerLost(str(cause).strip().partition("\n")[0] or type(cause).__name__) from error

    def kill(self) -> None:
        self._ray.kill(self.actor)

    close = kill


def _actor_class() -> type:
    """Return the class of the actors. Being local it goes to them whole, so that nothing is imported for it before it
    removes the study's current folder, which may be one that somebody sent, and which Ray puts first on their path.
    """

    class Actor:
        def __init__(self, threads: int, folder: str, package: str):
            import os
            import sys

            sys.path[:] = [path for path in sys.path if path and os.path.abspath(path) not in (folder, os.getcwd())]
            sys.path.append(package)  # where the study has clipgen, for nodes that do not have their own
            from clipgen.studies.worker import initialize

            initialize(threads)

        def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
            return function(*arguments)

    return Actor


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def plan_workers(workers: int | None, rows: int, gpus: int, cores: int) -> tuple[int, int]:
    """Return the number of workers, and of threads of each, which share the cores.

    By default there is one worker for each GPU; on a CPU there are two, or one for every four cores.
    """
    default = gpus or min(cores, max(2, cores // 4))
    count = max(1, min(workers or default, rows))
    return count, max(1, cores // count)


def visible_gpus(specs: Sequence[Any]) -> list[str]:
    """Return a value of CUDA_VISIBLE_DEVICES for each worker of these runs (``RunSpec``); none on a CPU.

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
