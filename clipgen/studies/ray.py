"""Rows made by Ray: on this machine, or on a cluster whose nodes have clipgen and share the study's folder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipgen.errors import ClipgenError
from clipgen.studies.local import crew


class Ray:
    """Actors, each with the models of its rows; one row at a time waits for each, so that nothing piles up.

    ``address``: "ray", which goes to RAY_ADDRESS or else starts Ray here, or "ray://head:10001". With more workers than
    GPUs several share one. Raises ClipgenError where Ray is missing or nobody answers.
    """

    def __init__(self, workers: int | None, rows: int, gpus: list[str], address: str = "ray"):
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
        there, least = (int(fold(node["CPU"] for node in nodes)) for fold in (sum, min))
        cards = int(sum(node.get("GPU", 0) for node in nodes))
        self.workers, threads = crew(workers, rows, cards, there)
        self.threads = min(threads, least)  # no worker is spread over two nodes
        share = 1 / math.ceil(self.workers / cards) if cards else 0
        self._options = {"num_cpus": self.threads, "num_gpus": share, "max_restarts": 0}

    def start(self) -> Any:
        from clipgen.studies.maker import Maker

        self._actors.append(self._ray.remote(Maker).options(**self._options).remote(self.threads))
        return self._actors[-1]

    def give(self, worker: Any, folders: Sequence[Path]) -> None:
        self._making[worker.make.remote([folder.resolve() for folder in folders])] = worker

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
