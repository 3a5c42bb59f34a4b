"""Frames and states on their way into a journal, one after the other."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

from torch import Tensor

from clipgen.runs.journal import Journal

if TYPE_CHECKING:
    from clipgen.runs.course import Frame


class Keeper:
    """Writes what a run has made. A disk that is full is told once, and the run goes on, its frames in memory.

    ``beside``: in a thread, in order, while the next steps are made: for a device that computes while the processor
    packs a PNG. Whoever reads the journal waits until all is written.
    """

    _BEHIND = 2  # frames that may wait for the disk

    def __init__(self, journal: Journal, beside: bool):
        self._journal, self._unsaved = journal, False
        self._pool = ThreadPoolExecutor(1, "clipgen journal") if beside else None
        self._jobs: deque[Future[OSError | None]] = deque()
        journal.flush = self.flush

    def keep(self, frame: Frame, latent: Tensor, tensors: Mapping[str, Tensor], notes: dict[str, Any]) -> None:
        """A frame, what its latent was packed to, and the state after it."""
        if self._pool is None:
            self._tell(self._write(frame, latent, tensors, notes))
            return
        while len(self._jobs) >= self._BEHIND:
            self._tell(self._jobs.popleft().result())
        own = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}  # the next step moves it
        self._jobs.append(self._pool.submit(self._write, frame, latent.to("cpu", copy=True), own, notes))

    def flush(self) -> None:
        """Wait until all is written."""
        wait(list(self._jobs))

    def end(self) -> None:
        """No more frames will come."""
        while self._jobs:
            self._tell(self._jobs.popleft().result())
        if self._pool:
            self._pool.shutdown()

    def _write(
        self, frame: Frame, latent: Tensor, tensors: Mapping[str, Tensor], notes: dict[str, Any]
    ) -> OSError | None:
        try:
            self._journal.add(frame.step, frame.image, latent, frame.scores)
            self._journal.save_state(frame.step, tensors, notes)
        except OSError as error:
            return error
        return None

    def _tell(self, error: OSError | None) -> None:
        if error and not self._unsaved:
            self._unsaved = True
            warn_unsaved(self._journal, error)


def warn_unsaved(journal: Journal, error: OSError) -> None:
    """Say that the disk of a journal has no room."""
    warnings.warn(
        f"{journal.folder}: frames cannot be saved any more ({error.strerror}); the run goes on, and keeps "
        "them in memory: make room, or export them before this process ends",
        stacklevel=5,
    )
