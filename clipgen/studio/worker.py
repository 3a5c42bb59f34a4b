"""A run in a thread of its own, and a second thread that tells how far it is."""

from __future__ import annotations

import statistics
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

    from clipgen.runs.run import Frame, Run

RATE, LOOKS = 5, 4  # news a second, at most; and looks at the controls for each


class Job:
    """One run: made, models and all, and then iterated to its end in a daemon thread.

    ``make(like)`` returns the Run; ``like`` is the run of the job ``before``, if there was one: it is stopped, and
    its models can be shared. ``tell(job)`` is called at most RATE times a second from another thread, and once when
    all is over: whoever shows the newest state misses what lies between, so that a slow line never slows the run.
    ``steer(run)`` is called more often, for a change to arrive soon.
    """

    def __init__(
        self,
        make: Callable[[Run | None], Run],
        tell: Callable[[Job], None],
        before: Job | None = None,
        steer: Callable[[Run], None] | None = None,
    ):
        self.run: Run | None = None
        self.frame: Frame | None = None  # the newest
        self._points: list[tuple[int, float]] = []  # the step and the CLIP score of every frame
        self.error: BaseException | None = None
        self.paused = False
        self._make, self._tell, self._steer, self._before = make, tell, steer, before
        self._pace: deque[float] = deque(maxlen=9)
        self._stopped = threading.Event()
        if before:
            before.stop()
        self._worker = threading.Thread(target=self._work, name="clipgen run", daemon=True)
        self._watcher = threading.Thread(target=self._watch, name="clipgen studio", daemon=True)
        self._worker.start()
        self._watcher.start()

    @property
    def alive(self) -> bool:
        """Whether it is still going to make frames."""
        return self._worker.is_alive()

    @property
    def phase(self) -> str:
        """What it does, in words."""
        if self.alive:
            if self.stopping:
                return "Stopping…"
            return "Loading the models…" if self.run is None else "Paused" if self.paused else "Running"
        return "Ended by an error" if self.error else "Done" if self.run and self.run.finished else "Stopped"

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self._stopped.is_set()

    @property
    def film(self) -> tuple[Run | None, list[tuple[int, float]], Image | None]:
        """The run, the steps and scores of its frames so far, and the newest of them if it is at hand."""
        run, frame = self.run, self.frame
        points = [point for point in self._points if frame is None or point[0] <= frame.step]
        return run, points, frame.image if frame else None

    @property
    def pace(self) -> float | None:
        """Seconds per step, lately; a pause does not count."""
        return statistics.median(self._pace) if self._pace else None

    def pause(self, paused: bool = True) -> None:
        """Hold before the next step, or go on."""
        if self.run:
            self.paused = paused
            (self.run.pause if paused else self.run.unpause)()

    def stop(self) -> None:
        """End after the step in the making; what is made is kept."""
        self._stopped.set()
        if self.run:
            self.run.stop()

    def join(self, timeout: float | None = None) -> None:
        """Wait until everything is made and told."""
        self._worker.join(timeout)
        if not self.alive:
            self._watcher.join(timeout)

    def _work(self) -> None:
        try:
            like = None
            if self._before:
                self._before._worker.join()
                like, self._before = self._before.run, None
            run = self._make(like)
            del like  # models that are not shared make room
            self._points = [(int(row["step"]), row["clip"]) for row in run.journal.scores]
            self.run = run
            if self._stopped.is_set():
                run.stop()
            step, seconds = run.step, 0.0
            for frame in run:
                if step:  # the first step warms up
                    self._pace.append((frame.seconds - seconds) / (frame.step - step))
                step, seconds = frame.step, frame.seconds
                self._points.append((frame.step, frame.scores["clip"]))
                self.frame = frame
        except BaseException as error:
            self.error = error

    def _watch(self) -> None:
        looks = 0
        while self._worker.is_alive():
            if looks % LOOKS == 0:
                self._tell(self)
            if self._steer and self.run:
                self._steer(self.run)
            looks += 1
            self._worker.join(1 / (RATE * LOOKS))
        self._tell(self)
