"""Workers of Ray: on this machine, or on a cluster whose nodes have clipgen."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import clipgen
from clipgen.errors import ClipgenError
from clipgen.studies.executor import WorkerExecutor, WorkerLost, plan_workers


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
        if self._started_ray:
            try:
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
            raise WorkerLost(str(error).strip().partition("\n")[0] or type(error).__name__) from error

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
