"""Rows made by Ray: on this machine, or on a cluster whose nodes have clipgen and share the study's folder."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import clipgen
from clipgen.errors import ClipgenError
from clipgen.studies.local import worker_counts
from clipgen.studies.storage import StudyStorage

MARGIN = 1.1  # of a GPU's memory, for steps that take more than the first one


def workers_per_gpu(taken: float, whole: float) -> int:
    """How many workers a GPU of so much memory bears, one of which has taken so much of it."""
    return max(1, int(whole / (MARGIN * max(taken, 1))))


def _worker() -> type:
    """Return the class of the actors. Being local it goes to them whole, so that nothing is imported for it before it
    removes the study's current folder, which may be one that somebody sent, and which Ray puts first on their path.
    """

    class Worker:
        def __init__(self, threads: int, folder: str, package: str):
            import os
            import sys

            sys.path[:] = [path for path in sys.path if path and os.path.abspath(path) not in (folder, os.getcwd())]
            sys.path.append(package)  # where the study has clipgen, for nodes that do not have their own
            from clipgen.studies.worker import Maker

            self._maker = Maker(threads)

        def probe(self, folders: Sequence[Path], address: str) -> tuple[float, float]:
            return self._maker.probe(folders, address)

        def make(self, folders: Sequence[Path], address: str) -> None:
            self._maker.make(folders, address)

    return Worker


class Ray:
    """Actors, each with the models of its rows; one row at a time waits for each, so that nothing piles up.

    ``address``: "ray", which goes to RAY_ADDRESS or else starts Ray here, or "ray://head:10001". ``kept``: the address
    that the rows are copied to, for nodes that do not see their folders. With more workers than GPUs several share one;
    by default so many as one's memory bears. Raises ClipgenError where Ray is missing or nobody answers.
    """

    def __init__(self, workers: int | None, rows: int, gpus: list[str], address: str = "ray", kept: str = ""):
        try:
            import ray
        except ImportError as error:
            raise ClipgenError('engine="ray" needs Ray: pip install "clipgen-notebook[ray]"') from error
        self._ray, self._began = ray, not ray.is_initialized()
        self._actors: list[Any] = []
        self._making: dict[Any, Any] = {}  # what is asked for, and of whom
        if self._began:
            try:
                ray.init(address if "://" in address else None, log_to_driver=False, configure_logging=False)
            except Exception as error:  # a start that takes too long is a bare one
                why = " ".join(str(error).split())
                raise ClipgenError(f"engine={address!r}: Ray cannot be reached ({why}); check the address") from error
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
        if not nodes:
            self.close()
            raise ClipgenError(f"engine={address!r}: this cluster has no CPU to compute with; add a node to it")
        self._cores, self._least = (int(fold(node["CPU"] for node in nodes)) for fold in (sum, min))
        self._cards, self._rows = int(sum(node.get("GPU", 0) for node in nodes)), rows
        self._place, self._open = StudyStorage(kept) if kept else None, not workers and 0 < self._cards < rows
        self._settle(workers)

    def _settle(self, workers: int | None) -> None:
        self.workers, threads = worker_counts(workers, self._rows, self._cards, self._cores)
        self.threads = min(threads, self._least)  # no worker is spread over two nodes
        self._share = 1 / math.ceil(self.workers / self._cards) if self._cards else 0

    def measure(self, folders: Sequence[Path]) -> None:
        """Where there are more rows than GPUs, let one worker with a GPU to itself make the first step of a batch."""
        if self._open:
            self._share, worker = 1, self.start()
            try:
                taken, whole = self._ray.get(worker.probe.remote(*self._asked(folders)))
                self._settle(min(self._cards * workers_per_gpu(taken, whole), self._cores))
            except self._ray.exceptions.RayError:  # whoever makes the rows says what is wrong with them
                self._settle(None)
            self.end(worker)

    def start(self) -> Any:
        options = {"num_cpus": self.threads, "num_gpus": self._share, "max_restarts": 0}
        given = self.threads, os.getcwd(), str(Path(clipgen.__file__).parents[1])
        self._actors.append(self._ray.remote(_worker()).options(**options).remote(*given))
        return self._actors[-1]

    def give(self, worker: Any, folders: Sequence[Path]) -> None:
        self._making[worker.make.remote(*self._asked(folders))] = worker

    def _asked(self, folders: Sequence[Path]) -> tuple[list[Path], str]:
        """What a worker needs to find rows: their folders, and the address, to which they are brought first."""
        if self._place:
            for folder in folders:
                self._place.keep(folder)
        return [folder.resolve() for folder in folders], self._place.address if self._place else ""

    def wait(self, seconds: float) -> list[tuple[Any, str]]:
        made, _ = self._ray.wait(list(self._making), num_returns=len(self._making), timeout=seconds)
        return [(self._making.pop(one), self._why(one)) for one in made]

    def _why(self, made: Any) -> str:
        """Why an actor is gone; nothing for one that is there."""
        try:
            self._ray.get(made)
        except self._ray.exceptions.RayError as error:
            return str(error).strip().splitlines()[0]
        return ""

    def end(self, worker: Any) -> None:
        self._actors.remove(worker)
        self._ray.kill(worker)

    def close(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        if self._began:
            self._ray.shutdown()
