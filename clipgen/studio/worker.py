"""A run in a thread of its own, and a second thread that tells how far it is."""

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

    from clipgen.runs.course import Frame
    from clipgen.runs.run import Run

RATE = 20  # looks a second: at what is new to tell, and at what the controls say
WINDOW = 5.0  # seconds of a download that its speed is taken from


class Speed:
    """How fast something arrives, lately."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()  # when how much of it was here

    def note(self, done: int) -> None:
        """So much of it is here now."""
        self._seen.append((self._clock(), done))
        while self._seen[0][0] < self._clock() - WINDOW:
            self._seen.popleft()

    @property
    def now(self) -> float:
        """So much a second; 0 until that can be told."""
        seen = list(self._seen)
        seconds = self._clock() - seen[0][0] if seen else 0.0
        return (seen[-1][1] - seen[0][1]) / seconds if seconds >= 0.5 else 0.0


class Job:
    """One run: made, models and all, and then iterated to its end in a daemon thread.

    ``make(like)`` returns the Run; ``like`` is the run of the job ``before``, if there was one: it is stopped, and
    its models can be shared. ``tell(job)`` is called at most RATE times a second from another thread, and once when
    all is over: whoever shows the newest state misses what lies between, so that a slow line never slows the run;
    so is ``steer(run)``. What is downloaded for the run is listened to.
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
        self._rows: list[Mapping[str, float]] = []  # of every frame, as the journal has them
        self.error: BaseException | None = None
        self.paused = False
        self._make, self._tell, self._steer, self._before = make, tell, steer, before
        self._pace: deque[float] = deque(maxlen=9)
        self._download: Download | None = None
        self.speed = Speed()  # of the download, in bytes
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
            if self.download:
                return "Downloading…"
            return "Loading the models…" if self.run is None else "Paused" if self.paused else "Running"
        return "Ended by an error" if self.error else "Done" if self.run and self.run.finished else "Stopped"

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self._stopped.is_set()

    @property
    def download(self) -> Download | None:
        """What is on its way."""
        return self._download

    @download.setter
    def download(self, news: Download | None) -> None:
        if not (news and self._download and news.name == self._download.name):
            self.speed = Speed()
        self._download = news
        if news:
            self.speed.note(news.done)

    @property
    def film(self) -> tuple[Run | None, list[Mapping[str, float]], Image | None]:
        """The run, the steps and scores of its frames so far, and the newest of them if it is at hand."""
        run, frame = self.run, self.frame
        rows = [row for row in self._rows if frame is None or row["step"] <= frame.step]
        return run, rows, frame.image if frame else None

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
            with listening(self):
                self._iterate()
        except Stopped:
            pass
        except BaseException as error:
            self.error = error

    def _iterate(self) -> None:
        like = None
        if self._before:
            self._before._worker.join()
            like, self._before = self._before.run, None
        run = self._make(like)
        del like  # models that are not shared make room
        self._rows = [*run.journal.scores]
        self.run = run
        if self._stopped.is_set():
            run.stop()
        step, seconds = run.step, 0.0
        for frame in run:
            if step:  # the first step warms up
                self._pace.append((frame.seconds - seconds) / (frame.step - step))
            step, seconds = frame.step, frame.seconds
            self._rows.append({"step": frame.step} | frame.scores)
            self.frame = frame

    def _watch(self) -> None:
        while self._worker.is_alive():
            self._tell(self)
            if self._steer and self.run:
                self._steer(self.run)
            self._worker.join(1 / RATE)
        self._tell(self)
        del self._make, self._tell, self._steer  # which hold a Studio, and this job may outlive it
