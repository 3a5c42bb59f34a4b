"""What is seen: the shown frame, the timeline, how far it is, the curve of the scores."""

from __future__ import annotations

import html
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path

import ipywidgets as widgets
from PIL import Image

from clipgen.errors import ClipgenError
from clipgen.runs.journal import Journal
from clipgen.studio.pictures import encode
from clipgen.studio.worker import Job

LONGEST = 512  # pixels of a side that are sent: five of them a second stay below Jupyter's limit of 1 MB/s


class Preview(widgets.VBox):
    """The film of a run: follows the newest frame while the timeline stands there, else stays where it was put."""

    def __init__(self) -> None:
        self.journal: Journal | None = None
        self._points: Sequence[tuple[int, float]] = ()
        self._newest: Image.Image | None = None
        self._drawn: tuple[Path, int] | None = None
        self._lock = threading.RLock()  # the timeline is moved by the person and by the run
        self.image = widgets.Image(format="webp").add_class("clipgen-preview")
        self.timeline = widgets.IntSlider(1, min=1, max=1, description="Frame", disabled=True)
        self.timeline.observe(lambda _: self._draw(), "value")
        self.phase = widgets.HTML()
        self.status = widgets.HTML().add_class("clipgen-status")
        self.curve = widgets.HTML().add_class("clipgen-curve")
        self.error = widgets.HTML().add_class("clipgen-error")
        self.screen = widgets.Box([self.image]).add_class("clipgen-screen")
        super().__init__([self.error, self.screen, self.timeline, self.phase, self.status, self.curve])
        self.tell("Write what you want to see, and press Generate")

    @property
    def shown(self) -> tuple[Journal, int]:
        """The run, and the step of the frame that is shown. Raises ClipgenError before the first."""
        if not self.journal or not self._points:
            raise ClipgenError("there is no frame yet; press Generate, or open an earlier run")
        return self.journal, self._points[self.timeline.value - 1][0]

    @property
    def picture(self) -> Image.Image:
        """The shown frame. Raises ClipgenError before the first."""
        journal, step = self.shown
        at_hand = self._newest if self.timeline.value == len(self._points) else None
        return at_hand or journal.frame(step)

    def show(self, journal: Journal, points: Sequence[tuple[int, float]], newest: Image.Image | None = None) -> None:
        """Show a film: (step, score) of its frames so far, and the last one if it is at hand."""
        with self._lock:
            other = self.journal is None or journal.folder != self.journal.folder
            follow = other or self.timeline.value == self.timeline.max
            self.journal, self._points, self._newest = journal, points, newest
            self.timeline.max = max(1, len(points))
            if follow:
                self.timeline.value = self.timeline.max
            self.timeline.disabled = len(points) < 2
            self._draw()

    def _draw(self) -> None:
        with self._lock:
            if not self._points:
                return
            journal, step = self.shown
            if self._drawn != (journal.folder, step):
                self._drawn = journal.folder, step
                self.screen.add_class("clipgen-filled")
                try:
                    self.image.value = encode(self.picture, LONGEST)
                except ClipgenError as error:
                    self.say(error)
            self.curve.value = curve(self._points, self.timeline.value)

    def tell(self, phase: str, status: str = "") -> None:
        """Say what goes on, and how far it is."""
        self.phase.value = f'<span role="status" aria-live="polite">{html.escape(phase)}</span>'
        self.status.value = f"<span>{html.escape(status)}</span>"

    def say(self, error: BaseException | None) -> None:
        """Show an error with its remedy, or none."""
        self.error.value = "" if error is None else explained(error)


def progress(job: Job) -> str:
    """``step 36/120 · 0.03 s per iteration · 3 s left · CLIP score 0.41``, as far as it is known."""
    run = job.run
    if not run:
        return ""
    said = [f"step {run.step}/{run.settings.steps}"]
    if job.pace:
        said.append(f"{job.pace:.2g} s per iteration")
        if job.alive:
            said.append(f"{_duration(job.pace * (run.settings.steps - run.step))} left")
    if job.frame:
        said.append(f"CLIP score {job.frame.scores['clip']:.3f}")
    return " · ".join(said)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def curve(points: Sequence[tuple[int, float]], shown: int) -> str:
    """The scores as an SVG line, with a dot on the frame that is shown."""
    first, last = points[0][0], points[-1][0]
    scores = [score for _, score in points]
    low, high = min(scores), max(scores)
    wide, tall = 300 / max(1, last - first), 50 / (high - low or 1)
    spots = [(f"{wide * (step - first):.1f}", f"{55 - tall * (score - low):.1f}") for step, score in points]
    thin = spots[: -1 : len(spots) // 300 + 1] + spots[-1:]
    (step, score), (x, y) = points[shown - 1], spots[shown - 1]
    return (
        f"<small>step {step}: CLIP score {score:.3f}</small>"
        f'<svg viewBox="-5 0 310 60" role="img" aria-label="CLIP score from {low:.3f} to {high:.3f}">'
        f'<polyline points="{" ".join(map(",".join, thin))}" fill="none" stroke="currentColor" stroke-width="1.5"/>'
        f'<circle cx="{x}" cy="{y}" r="3.5" fill="currentColor"/></svg>'
    )


def explained(error: BaseException) -> str:
    """An error as HTML: what a person can mend as it stands, anything else with its traceback folded away."""
    if isinstance(error, ClipgenError):
        return f'<div role="alert">{html.escape(str(error))}</div>'
    lines = html.escape("".join(traceback.format_exception(error)))
    what = html.escape(f"{type(error).__name__}: {error}")
    return f'<div role="alert">{what}</div><details><summary>Traceback</summary><pre>{lines}</pre></details>'
