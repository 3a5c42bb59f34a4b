"""Writing frames and states into a journal, one after the other."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

from torch import Tensor

from clipgen.runs.journal import Journal

if TYPE_CHECKING:
    from clipgen.runs.history import Frame

MAX_PENDING = 2  # frames that may wait for the disk


class FrameWriter:
    """Writes the frames of a run. When the disk is full it warns once, and the journal keeps them in memory.

    Args:
        journal: Where to; reading from it waits for pending frames.
        in_background: Write in a thread while the next steps run, for a device that leaves the processor idle.
    """

    def __init__(self, journal: Journal, in_background: bool):
        self._journal, self._has_failed = journal, False
        self._executor = ThreadPoolExecutor(1, "clipgen journal") if in_background else None
        self._pending: deque[Future[OSError | None]] = deque()
        journal.flush = self.flush

    def write(self, frame: Frame, latent: Tensor, tensors: Mapping[str, Tensor], values: dict[str, Any]) -> None:
        """Write a frame, its packed latent, and the state after it, as of ``Optimization.state``."""
        if self._executor is None:
            self._warn(self._write(frame, latent, tensors, values))
            return
        while len(self._pending) >= MAX_PENDING:
            self._warn(self._pending.popleft().result())
        # Copies, because the next step overwrites the tensors.
        copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
        self._pending.append(self._executor.submit(self._write, frame, latent.to("cpu", copy=True), copies, values))

    def flush(self) -> None:
        """Wait until everything is written."""
        wait(list(self._pending))

    def close(self) -> None:
        """Write what is pending, and end the thread."""
        while self._pending:
            self._warn(self._pending.popleft().result())
        if self._executor:
            self._executor.shutdown()

    def _write(
        self, frame: Frame, latent: Tensor, tensors: Mapping[str, Tensor], values: dict[str, Any]
    ) -> OSError | None:
        try:
            self._journal.add(frame.step, frame.image, latent, frame.scores)
            self._journal.save_state(frame.step, tensors, values)
        except OSError as error:
            return error
        return None

    def _warn(self, error: OSError | None) -> None:
        if error and not self._has_failed:
            self._has_failed = True
            warn_unsaved(self._journal, error)


def warn_unsaved(journal: Journal, error: OSError) -> None:
    """Warn that the disk of a journal is full."""
    warnings.warn(
        f"{journal.folder}: frames cannot be saved any more ({error.strerror}); the run goes on, and keeps "
        "them in memory: make room, or export them before this process ends",
        stacklevel=5,
    )
