"""What is seen of a run: the shown frame, the timeline, how far the run is, the curve of the scores."""

from __future__ import annotations

import html
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import ipywidgets as widgets
from PIL import Image

from clipgen.errors import ClipgenError
from clipgen.export.disagreement import find_disagreements
from clipgen.images.sheets import repeat_picture
from clipgen.progress import Download
from clipgen.runs.history import frame_score
from clipgen.runs.journal import Journal
from clipgen.runs.run import Run
from clipgen.studio.parts import ErrorMessage, add_tooltip, html_widget, on_change, show, to_jpeg
from clipgen.studio.worker import Job

MAX_SIDE = 512  # pixels of a picture that is sent
BYTES_PER_SECOND = 600_000  # Jupyter drops messages above 1 MB/s, and Colab adds a third
Rows = Sequence[Mapping[str, float]]  # the step and the scores of each frame, as the journal has them


class Connection:
    """Limits what is sent to BYTES_PER_SECOND: each message takes the time that its bytes need."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep):
        self._clock, self._sleep = clock, sleep
        self._free_at = -math.inf

    @property
    def is_busy(self) -> bool:
        """Whether the last message still takes its time."""
        return self._clock() < self._free_at

    def wait(self) -> None:
        """Wait until the connection is free."""
        seconds = self._free_at - self._clock()  # read once: it may get negative until the sleep
        if seconds > 0:
            self._sleep(seconds)

    def add(self, size: int) -> None:
        """Count a message of so many bytes."""
        self._free_at = max(self._free_at, self._clock()) + size / BYTES_PER_SECOND


class Preview(widgets.VBox):
    """The film of a run. It follows the newest frame while the timeline is at its end, and else stays."""

    def __init__(self, connection: Connection | None = None) -> None:
        self.connection = connection or Connection()
        self.journal: Journal | None = None
        self.newest_run: Run | None = None  # whose models sections can share
        self._rows: Rows = ()
        self._newest: Image.Image | None = None
        self._drawn: tuple[Path, int, bool, bool] | None = None
        self._more = False
        self._lock = threading.RLock()  # the person and the run both move the timeline
        self.image = widgets.Image(format="jpeg").add_class("clipgen-preview")
        self.timeline = widgets.IntSlider(1, min=1, max=2, description="Frame", disabled=True)  # Colab: min < max
        self.repeat = widgets.ToggleButton(description="Preview 3 x 3 tiles", icon="th")
        add_tooltip(self.repeat, "a seamless picture beside itself, nine times")
        show(self.repeat, False)
        on_change(self._draw, self.timeline, self.repeat)
        self.under = widgets.VBox([self.repeat])  # texts about the shown frame, directly under its timeline
        self.phase, self.status, self.curve = widgets.HTML(), html_widget("status"), html_widget("curve")
        self.error = ErrorMessage()
        self.screen = widgets.Box([self.image]).add_class("clipgen-screen")
        super().__init__([self.error, self.screen, self.timeline, self.under, self.phase, self.status, self.curve])
        self.show_progress("Write what you want to see, and press Generate")

    @property
    def position(self) -> tuple[Journal, int]:
        """The journal and the step of the shown frame. Raises ClipgenError if there is none."""
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
        is_newest = self._index == len(self._rows) - 1
        return self._newest if self._newest and is_newest else journal.frame(step)

    @property
    def row(self) -> Mapping[str, float]:
        """The step and the scores of the shown frame."""
        return self._rows[self._index]

    def show(self, journal: Journal, rows: Rows, newest: Image.Image | None = None, more: bool = False) -> None:
        """Show a film: the steps and scores of its frames so far, and the newest one if it need not be read.

        ``more``: further frames follow soon, so that what the connection cannot take is left out or coarser.
        """
        with self._lock:
            is_other = self.journal is None or journal.folder != self.journal.folder
            follows = is_other or self.timeline.value >= len(self._rows)
            self.journal, self._rows, self._newest, self._more = journal, rows, newest, more
            self.timeline.max = max(2, len(rows))
            if follows:
                self.timeline.value = max(1, len(rows))
            self.timeline.disabled = len(rows) < 2
            show(self.repeat, journal.settings.get("tile"))
            self._draw()
            self._more = False

    def show_best(self) -> None:
        """Show the best frame: by the judge, or without one by CLIP."""
        with self._lock:
            scores = [frame_score(row) for row in self._rows]
            self.timeline.value = 1 + (scores.index(max(scores)) if scores else 0)

    def show_progress(self, phase: str, status: str = "", share: float | None = None) -> None:
        """Show what happens and how far it is; with a bar if there is a ``share`` from 0 to 1."""
        bar = "" if share is None else f'<progress value="{share:.3f}" max="1"></progress>'
        self.phase.value = f'<span role="status" aria-live="polite">{html.escape(phase)}</span>{bar}'
        self.status.value = f"<span>{html.escape(status)}</span>"

    def send_image(self, widget: widgets.Image, jpeg: bytes) -> None:
        """Set the value of an image, when the connection is free."""
        self.connection.wait()
        widget.value = jpeg
        self.connection.add(len(jpeg))

    def _draw(self) -> None:
        with self._lock:
            if not self._rows or (self._more and self.connection.is_busy):
                return
            journal, step = self.position
            is_tiled = bool(self.repeat.value and journal.settings.get("tile"))
            drawing = journal.folder, step, is_tiled
            # A frame that was sent coarser is sent again once nothing follows.
            if self._drawn not in ((*drawing, self._more), (*drawing, False)):
                self._drawn = (*drawing, self._more)
                self.screen.add_class("clipgen-filled")
                try:
                    picture = repeat_picture(self.picture) if is_tiled else self.picture
                    max_bytes = BYTES_PER_SECOND / 5 if self._more else math.inf
                    self.send_image(self.image, to_jpeg(picture, MAX_SIDE, max_bytes))
                except ClipgenError as error:
                    self.error.show(error)
            curve = draw_curve(self._rows, self._index)
            if curve != self.curve.value:
                self.curve.value = curve
                self.connection.add(len(curve))


def describe_progress(job: Job) -> str:
    """Return ``step 36/120 · 0.03 s per iteration · 3 s left · CLIP score 0.41``, as far as it is known.

    During a download ``clip/ViT-B-32.pt · 121 of 354 MB (34%) · 5.2 MB/s · 45 s left``.
    """
    if job.download:
        return describe_download(job.download, job.speed.bytes_per_second)
    run = job.run
    if not run:
        return ""
    parts = [f"step {run.step}/{run.settings.steps}"]
    if seconds := job.seconds_per_step:
        parts.append(f"{seconds:.2g} s per iteration")
        if job.is_alive:
            parts.append(f"{format_duration(seconds * (run.settings.steps - run.step))} left")
    if job.frame:
        parts.append(format_scores(job.frame.scores))
    return " · ".join(parts)


def describe_download(download: Download, bytes_per_second: float) -> str:
    """Return how far a download is."""
    done, total = download.done / 1e6, (download.total or 0) / 1e6
    parts = [download.name, f"{done:.0f} of {total:.0f} MB ({done / total:.0%})" if total else f"{done:.0f} MB"]
    if bytes_per_second:
        parts.append(f"{bytes_per_second / 1e6:.1f} MB/s")
        if total:
            parts.append(f"{format_duration((total - done) / bytes_per_second * 1e6)} left")
    return " · ".join(parts)


def format_duration(seconds: float) -> str:
    """Return ``2 min 30 s`` or ``20 s``."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def format_scores(scores: Mapping[str, float]) -> str:
    """Return ``CLIP score 0.412 · judge 0.305``, the second where there is one."""
    judge = f" · judge {scores['judge']:.3f}" if "judge" in scores else ""
    return f"CLIP score {scores['clip']:.3f}{judge}"


def draw_curve(rows: Rows, index: int) -> str:
    """Return the scores as an SVG: a line for CLIP, a dashed one for the judge, a dot at the row of the index.

    Each line has its own scale. Spans where CLIP's score rises and the judge's falls are shaded.
    """
    first, per_step = rows[0]["step"], 300 / max(1, rows[-1]["step"] - rows[0]["step"])
    xs = [per_step * (row["step"] - first) for row in rows]
    lines, labels = "", []
    for name, label, dash in (("clip", "CLIP score", ""), ("judge", "judge", ' stroke-dasharray="5 3"')):
        if name not in rows[-1]:
            continue
        scores = [row[name] for row in rows]
        low, high = min(scores), max(scores)
        points = [f"{x:.1f},{55 - 50 * (score - low) / (high - low or 1):.1f}" for x, score in zip(xs, scores)]
        some = points[: -1 : len(points) // 300 + 1] + points[-1:]
        x, y = points[index].split(",")
        lines += f'<polyline points="{" ".join(some)}" fill="none" stroke="currentColor" stroke-width="1.5"{dash}/>'
        lines += f'<circle cx="{x}" cy="{y}" r="3.5" fill="currentColor"/>'
        labels.append(f"{label} from {low:.3f} to {high:.3f}")
    spans = [(xs[begin], max(xs[end] - xs[begin], 1.5)) for begin, end in find_disagreements(rows)]
    shades = "".join(f'<rect x="{x:.1f}" width="{width:.1f}" height="60" opacity="0.15"/>' for x, width in spans)
    legend = "dashed: the judge" if len(labels) > 1 else ""
    if spans:
        legend += "; shaded: CLIP likes it more and more, the judge less and less"
    return (
        f"<small>step {rows[index]['step']:.0f}: {format_scores(rows[index])}</small>"
        f'<svg viewBox="-5 0 310 60" role="img" aria-label="{"; ".join(labels)}">'
        f'<g fill="currentColor">{shades}</g>{lines}</svg>' + (f"<small>{legend}</small>" if legend else "")
    )
