"""What is seen of a run: a job that makes it in a thread, the shown frame, the timeline, the curve of the scores."""

from __future__ import annotations

import html
import math
import statistics
import threading
import time
from bisect import bisect
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets
from PIL import Image
from tqdm import tqdm

from clipgen.errors import ClipgenError
from clipgen.export.html import HEIGHT, WIDTH, caption_source, draw_curves, judge_label
from clipgen.images.sheets import repeat_picture
from clipgen.progress import Listener, Stopped, listening
from clipgen.runs.frames import FilmRow, Frame, frame_score
from clipgen.runs.journal import Journal
from clipgen.runs.run import Run
from clipgen.studio.parts import ErrorMessage, add_tooltip, html_widget, on_change, show, to_jpeg

REPORTS_PER_SECOND = 20
MAX_SIDE = 512  # pixels of a picture that is sent
BYTES_PER_SECOND = 600_000  # Jupyter drops messages above 1 MB/s, and Colab adds a third


class Job(Listener):
    """One run, made with its models and iterated to its end in a daemon thread.

    ``make`` gets the run of the ``previous`` job, which is stopped, to share its models. ``report`` is called from
    another thread, up to REPORTS_PER_SECOND times a second and once at the end: a slow connection never slows the run.
    """

    def __init__(self, make: Callable[[Run | None], Run], report: Callable[[Job], None], previous: Job | None = None):
        self.run: Run | None = None
        self.frame: Frame | None = None  # the newest
        self.error: BaseException | None = None
        self.is_paused = False
        self._step_seconds: deque[float] = deque(maxlen=9)  # of the last steps, without pauses
        self._make, self._report, self._previous = make, report, previous
        if previous:
            previous.stop()
        self._worker = threading.Thread(target=self._work, name="clipgen run", daemon=True)
        self._reporter = threading.Thread(target=self._report_until_end, name="clipgen studio", daemon=True)
        self._worker.start()
        self._reporter.start()

    @property
    def rows(self) -> list[FilmRow]:
        """A row for each picture so far, see ``Journal.film``."""
        return self.run.film if self.run else []

    @property
    def is_alive(self) -> bool:
        """Whether the run is still being made or iterated."""
        return self._worker.is_alive()

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
    def status(self) -> str:
        """How far a download or the run is: ``step 36/120 · 0.03 s per iteration · 00:03 left · CLIP score 0.41``."""
        if self.download:
            return str(self.download)
        if not self.run:
            return ""
        steps = self.run.settings.steps
        parts = [f"step {self.run.step}/{steps}"]
        if self._step_seconds:
            seconds = statistics.median([*self._step_seconds])
            parts.append(f"{seconds:.2g} s per iteration")
            if self.is_alive:
                parts.append(f"{tqdm.format_interval(seconds * (steps - self.run.step))} left")
        if self.frame:
            parts.append(format_scores(self.frame.scores, judge_label(self.run.settings.judge)))
        return " · ".join(parts)

    def pause(self, paused: bool = True) -> None:
        """Pause before the next step, or continue."""
        if self.run:
            self.is_paused = paused
            (self.run.pause if paused else self.run.unpause)()

    def stop(self) -> None:
        """End after the current step; what is made is kept."""
        self.stopping = True
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
        self.run = run
        if self.stopping:
            run.stop()
        for frame in run:
            if self.frame:  # the first step is slower
                seconds = frame.seconds - self.frame.seconds
                self._step_seconds.append(seconds / (frame.step - self.frame.step))
            self.frame = frame

    def _report_until_end(self) -> None:
        while self.is_alive:
            self._report(self)
            self._worker.join(1 / REPORTS_PER_SECOND)
        self._report(self)
        del self._make, self._report  # they hold a Studio, which this job may outlive


class Preview(widgets.VBox):
    """The film of a run. It follows the newest frame while the timeline is at its end, and else stays."""

    def __init__(self) -> None:
        self._free_at = -math.inf  # when what was sent will have arrived
        self.journal: Journal | None = None
        self.newest_run: Run | None = None  # whose models sections can share
        self._rows: Sequence[FilmRow] = ()
        self._newest: Frame | None = None
        self._drawn: tuple[Any, ...] | None = None  # what is on the screen
        self._more = False
        self._lock = threading.RLock()  # the person and the run both move the timeline
        self.image = widgets.Image(format="jpeg").add_class("clipgen-preview")
        self.timeline = widgets.IntSlider(1, min=1, max=2, description="Frame", disabled=True)  # Colab: min < max
        self.repeat = widgets.ToggleButton(description="Preview 3 x 3 tiles", icon="th")
        add_tooltip(self.repeat, "a seamless picture beside itself, nine times")
        show(self.repeat, False)
        on_change(self._draw, self.timeline, self.repeat)
        self.below_timeline = widgets.VBox([self.repeat])  # texts about the shown frame, directly under its timeline
        self.phase, self.status, self.curve = widgets.HTML(), html_widget("status"), html_widget("curve")
        self.error = ErrorMessage()
        self.screen = widgets.Box([self.image]).add_class("clipgen-screen")
        super().__init__(
            [self.error, self.screen, self.timeline, self.below_timeline, self.phase, self.status, self.curve]
        )
        self.show_progress("Write what you want to see, and press Generate")

    @property
    def position(self) -> tuple[Journal, int]:
        """The journal and the step of the shown picture, 0 for a draft. Raises ClipgenError if there is none."""
        if not self.journal or not self._rows:
            raise ClipgenError("there is no frame yet; press Generate, or open an earlier run")
        return self.journal, int(self.row["step"])

    @property
    def _index(self) -> int:
        return min(self.timeline.value, len(self._rows)) - 1

    @property
    def picture(self) -> Image.Image:
        """The shown frame. Raises ClipgenError if there is none."""
        journal, step = self.position
        return self._newest.image if self._newest and self._newest.step == step else journal.picture(self.row)

    @property
    def row(self) -> FilmRow:
        """The step and the scores of the shown picture, see ``Journal.film``."""
        return self._rows[self._index]

    def show(self, journal: Journal, rows: Sequence[FilmRow], newest: Frame | None = None, more: bool = False) -> None:
        """Show a film: the steps and scores of its frames so far, and the newest one if it need not be read.

        ``more``: further frames follow soon, so that a frame is left out while another is sent.
        """
        with self._lock:
            is_other = self.journal is None or journal.folder != self.journal.folder
            follows = is_other or self.timeline.value >= len(self._rows)
            self.journal, self._rows, self._newest, self._more = journal, [*rows], newest, more
            count = len(self._rows)
            self.timeline.max = max(2, count)
            if follows:
                self.timeline.value = max(1, count)
            self.timeline.disabled = count < 2
            show(self.repeat, journal.settings.get("tile"))
            self._draw()
            self._more = False

    def show_best(self) -> None:
        """Show the best frame: by the judge, or without one by CLIP."""
        with self._lock:
            scores = [frame_score(row) if "clip" in row else -math.inf for row in self._rows]
            self.timeline.value = 1 + (scores.index(max(scores)) if scores else 0)

    def show_progress(self, phase: str, status: str = "", fraction: float | None = None) -> None:
        """Show what happens and how far it is; with a bar if there is a ``fraction`` from 0 to 1."""
        bar = "" if fraction is None else f'<progress value="{fraction:.3f}" max="1"></progress>'
        self.phase.value = f'<span role="status" aria-live="polite">{html.escape(phase)}</span>{bar}'
        self.status.value = f"<span>{html.escape(status)}</span>"

    def send_image(self, widget: widgets.Image, jpeg: bytes) -> None:
        """Set the value of an image, when what was sent before has arrived."""
        time.sleep(self._busy_seconds)
        widget.value = jpeg
        self._count_bytes(len(jpeg))

    @property
    def _busy_seconds(self) -> float:
        return max(0.0, self._free_at - time.monotonic())

    def _count_bytes(self, size: int) -> None:
        self._free_at = max(self._free_at, time.monotonic()) + size / BYTES_PER_SECOND

    def _draw(self) -> None:
        with self._lock:
            if not self._rows or (self._more and self._busy_seconds):
                return
            journal, step = self.position
            is_tiled = bool(self.repeat.value and journal.settings.get("tile"))
            drawing = journal.folder, step, self.row.get("token_row"), is_tiled
            if drawing != self._drawn:
                self._drawn = drawing
                self.screen.add_class("clipgen-filled")
                try:
                    picture = repeat_picture(self.picture) if is_tiled else self.picture
                    self.send_image(self.image, to_jpeg(picture, MAX_SIDE))
                except ClipgenError as error:
                    self.error.show(error)
            curve = draw_curve(self._rows, self._index, judge_label(journal.settings.get("judge")))
            if curve != self.curve.value:
                self.curve.value = curve
                self._count_bytes(len(curve))


def format_scores(scores: Mapping[str, float], judge: str = "judge") -> str:
    """Return ``CLIP score 0.412 · judge 0.305``, as far as there are any; ``judge``: see ``judge_label``."""
    if "clip" not in scores:
        return ""
    judge_score = f" · {judge} {scores['judge']:.3f}" if "judge" in scores else ""
    return f"CLIP score {scores['clip']:.3f}{judge_score}"


def draw_curve(rows: Sequence[FilmRow], index: int, judge: str = "judge") -> str:
    """Return who draws the picture of the index and its scores, and below the curves of all scores.

    A dot on each curve is at the last frame up to the index.
    """
    text = " · ".join(filter(None, (caption_source(rows[index]), format_scores(rows[index], judge))))
    scored = [i for i, row in enumerate(rows) if math.isfinite(row.get("clip", math.nan))]
    if not scored:
        return f"<small>{text}</small>"
    curves, dots = draw_curves([rows[i] for i in scored], judge), ""
    for points in curves.points.values():
        for x, y in points[: bisect(scored, index)][-1:]:
            dots += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="7"/>'
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{"; ".join(curves.captions)}">'
    legend = "".join(f"<small>{caption}</small>" for caption in curves.captions[1:])
    return f"<small>{text}</small>{svg}{curves.shapes}{dots}</svg>{legend}"
