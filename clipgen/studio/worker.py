"""A run in a thread of its own, and a second thread that reports how far it is."""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from clipgen.progress import Download, Stopped, listening

if TYPE_CHECKING:
    from PIL.Image import Image

    from clipgen.runs.history import Frame
    from clipgen.runs.run import Run

RATE = 20  # reports a second
WINDOW = 5.0  # seconds over which the speed of a download is measured


class Speed:
    """The speed of a download over the last seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock, self._name = clock, ""
        self._points: deque[tuple[float, int]] = deque()  # time, bytes

    def update(self, download: Download) -> None:
        """Note how far a download is; another one begins anew."""
        if download.name != self._name:
            self._name = download.name
            self._points.clear()
        self._points.append((self._clock(), download.done))
        while self._points[0][0] < self._clock() - WINDOW:
            self._points.popleft()

    @property
    def bytes_per_second(self) -> float:
        """The speed, 0 while it is not known."""
        points = list(self._points)
        seconds = self._clock() - points[0][0] if points else 0.0
        return (points[-1][1] - points[0][1]) / seconds if seconds >= 0.5 else 0.0


class Job:
    """One run, made with its models and iterated to its end in a daemon thread.

    ``make`` gets the run of the ``previous`` job, which is stopped, to share its models. ``report`` is called from
    another thread, at most RATE times a second and once at the end: a slow connection never slows the run.
    """

    def __init__(self, make: Callable[[Run | None], Run], report: Callable[[Job], None], previous: Job | None = None):
        self.run: Run | None = None
        self.frame: Frame | None = None  # the newest
        self.error: BaseException | None = None
        self.is_paused = False
        self.download: Download | None = None  # set by ``listening``
        self.speed = Speed()  # of the download
        # The step and scores of every frame, as the journal has them, and the newest frame: replaced together.
        self.film: tuple[list[Mapping[str, float]], Image | None] = [], None
        self._step_seconds: deque[float] = deque(maxlen=9)
        self._stop = threading.Event()
        self._make, self._report, self._previous = make, report, previous
        if previous:
            previous.stop()
        self._worker = threading.Thread(target=self._work, name="clipgen run", daemon=True)
        self._reporter = threading.Thread(target=self._report_until_end, name="clipgen studio", daemon=True)
        self._worker.start()
        self._reporter.start()

    @property
    def is_alive(self) -> bool:
        """Whether the run is still being made or iterated."""
        return self._worker.is_alive()

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop; read by downloads, too."""
        return self._stop.is_set()

    @property
    def phase(self) -> str:
        """What it does, in words."""
        if not self.is_alive:
            if self.error:
                return "Ended by an error"
            return "Done" if self.run and self.run.finished else "Stopped"
        if self.stopping:
            return "Stopping…"
        if self.download:
            return "Downloading…"
        if self.run is None:
            return "Loading the models…"
        return "Paused" if self.is_paused else "Running"

    @property
    def seconds_per_step(self) -> float | None:
        """The median of the last steps, without pauses."""
        return statistics.median(self._step_seconds) if self._step_seconds else None

    def pause(self, paused: bool = True) -> None:
        """Hold before the next step, or go on."""
        if self.run:
            self.is_paused = paused
            (self.run.pause if paused else self.run.unpause)()

    def stop(self) -> None:
        """End after the current step; what is made is kept."""
        self._stop.set()
        if self.run:
            self.run.stop()

    def join(self, timeout: float | None = None) -> None:
        """Wait until everything is made and reported."""
        self._worker.join(timeout)
        if not self.is_alive:
            self._reporter.join(timeout)

    def _work(self) -> None:
        try:
            with listening(self):
                self._iterate()
        except Stopped:
            pass
        except BaseException as error:
            self.error = error

    def _iterate(self) -> None:
        previous_run = None
        if self._previous:
            self._previous._worker.join()
            previous_run, self._previous = self._previous.run, None
        run = self._make(previous_run)
        del previous_run  # frees the models that are not shared
        rows: list[Mapping[str, float]] = [*run.journal.scores]
        self.film = rows, None
        self.run = run
        if self.stopping:
            run.stop()
        step, seconds = run.step, 0.0
        for frame in run:
            if step:  # the first step is slower
                self._step_seconds.append((frame.seconds - seconds) / (frame.step - step))
            step, seconds = frame.step, frame.seconds
            rows = [*rows, {"step": frame.step} | frame.scores]
            self.frame, self.film = frame, (rows, frame.image)

    def _report_until_end(self) -> None:
        while self.is_alive:
            if download := self.download:
                self.speed.update(download)
            self._report(self)
            self._worker.join(1 / RATE)
        self._report(self)
        del self._make, self._report  # they hold a Studio, which this job may outlive
