"""What is seen: the shown frame, the timeline, how far it is, the curve of the scores."""

from __future__ import annotations

import html
import math
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import ipywidgets as widgets
from PIL import Image

from clipgen.errors import ClipgenError
from clipgen.export.parting import parted
from clipgen.images.sheets import repeated
from clipgen.progress import Download
from clipgen.runs.course import liked
from clipgen.runs.journal import Journal
from clipgen.studio.parts import hint
from clipgen.studio.pictures import encode
from clipgen.studio.worker import Job

LONGEST = 512  # pixels of a side that are sent
BYTES = 600_000  # a second, of pictures and curves: Jupyter drops what is above 1 MB/s, and Colab pays a third more


class Line:
    """What is sent is paid for before the next is: so many ``BYTES`` a second, however large a picture is."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep):
        self._clock, self._sleep = clock, sleep
        self._free = -math.inf  # when the last is through

    @property
    def busy(self) -> bool:
        """Whether something is under way."""
        return self._clock() < self._free

    def wait(self) -> None:
        """Until it is through: at most the time of one picture."""
        left = self._free - self._clock()  # looked at once: the clock goes on, and no sleep is negative
        if left > 0:
            self._sleep(left)

    def sent(self, size: int) -> None:
        """So many bytes are under way now."""
        self._free = max(self._free, self._clock()) + size / BYTES


class Preview(widgets.VBox):
    """The film of a run: follows the newest frame while the timeline stands there, else stays where it was put."""

    def __init__(self, line: Line | None = None) -> None:
        self.line = line or Line()
        self.journal: Journal | None = None
        self._rows: Sequence[Mapping[str, float]] = ()
        self._newest: Image.Image | None = None
        self._drawn: tuple[Path, int, bool, bool] | None = None
        self._more = False
        self._lock = threading.RLock()  # the timeline is moved by the person and by the run
        self.image = widgets.Image(format="jpeg").add_class("clipgen-preview")
        # Colab's slider cannot be drawn from 1 to 1.
        self.timeline = widgets.IntSlider(1, min=1, max=2, description="Frame", disabled=True)
        self.timeline.observe(lambda _: self._draw(), "value")
        self.repeat = widgets.ToggleButton(description="3 by 3", icon="th", layout={"display": "none"})
        hint(self.repeat, "a seamless picture beside itself, nine times")
        self.repeat.observe(lambda _: self._draw(), "value")
        self.under = widgets.VBox([self.repeat])  # what is said of the shown frame, directly under its timeline
        self.phase = widgets.HTML()
        self.status = widgets.HTML().add_class("clipgen-status")
        self.curve = widgets.HTML().add_class("clipgen-curve")
        self.error = widgets.HTML().add_class("clipgen-error")
        self.screen = widgets.Box([self.image]).add_class("clipgen-screen")
        super().__init__([self.error, self.screen, self.timeline, self.under, self.phase, self.status, self.curve])
        self.tell("Write what you want to see, and press Generate")

    @property
    def shown(self) -> tuple[Journal, int]:
        """The run, and the step of the frame that is shown. Raises ClipgenError before the first."""
        if not self.journal or not self._rows:
            raise ClipgenError("there is no frame yet; press Generate, or open an earlier run")
        return self.journal, int(self._rows[self._index]["step"])

    @property
    def _index(self) -> int:
        """The shown frame's among the rows."""
        return min(self.timeline.value, len(self._rows)) - 1

    @property
    def picture(self) -> Image.Image:
        """The shown frame. Raises ClipgenError before the first."""
        journal, step = self.shown
        at_hand = self._newest if self._index == len(self._rows) - 1 else None
        return at_hand or journal.frame(step)

    @property
    def row(self) -> Mapping[str, float]:
        """The step and the scores of the shown frame."""
        return self._rows[self._index]

    def show(
        self,
        journal: Journal,
        rows: Sequence[Mapping[str, float]],
        newest: Image.Image | None = None,
        more: bool = False,
    ) -> None:
        """Show a film: the steps and scores of its frames so far, and the last one if it is at hand.

        ``more`` will be shown soon: what the line does not carry now is left out, or coarser.
        """
        with self._lock:
            other = self.journal is None or journal.folder != self.journal.folder
            follow = other or self.timeline.value >= len(self._rows)
            self.journal, self._rows, self._newest, self._more = journal, rows, newest, more
            self.timeline.max = max(2, len(rows))
            if follow:
                self.timeline.value = max(1, len(rows))
            self.timeline.disabled = len(rows) < 2
            self.repeat.layout.display = "" if journal.settings.get("tile") else "none"
            self._draw()
            self._more = False

    def rewind(self) -> None:
        """Show the best frame: the judge's, or without one CLIP's."""
        with self._lock:
            self.timeline.value = 1 + max(range(len(self._rows)), key=lambda index: liked(self._rows[index]), default=0)

    def _draw(self) -> None:
        with self._lock:
            if not self._rows or (self._more and self.line.busy):
                return
            self.line.wait()
            journal, step = self.shown
            said = curve(self._rows, self._index)
            nine = bool(self.repeat.value and journal.settings.get("tile"))
            if self._drawn not in ((journal.folder, step, nine, self._more), (journal.folder, step, nine, False)):
                self._drawn = journal.folder, step, nine, self._more
                self.screen.add_class("clipgen-filled")
                try:
                    picture = repeated(self.picture) if nine else self.picture
                    self.image.value = encode(picture, LONGEST, BYTES / 5 if self._more else math.inf)
                    self.line.sent(len(self.image.value))
                except ClipgenError as error:
                    self.say(error)
            if said != self.curve.value:
                self.curve.value = said
                self.line.sent(len(said))

    def tell(self, phase: str, status: str = "", share: float | None = None) -> None:
        """Say what goes on, and how far it is; with a bar if there is a ``share``, from 0 to 1."""
        bar = "" if share is None else f'<progress value="{share:.3f}" max="1"></progress>'
        self.phase.value = f'<span role="status" aria-live="polite">{html.escape(phase)}</span>{bar}'
        self.status.value = f"<span>{html.escape(status)}</span>"

    def say(self, error: BaseException | None) -> None:
        """Show an error with its remedy, or none."""
        self.error.value = "" if error is None else explained(error)


def progress(job: Job) -> str:
    """``step 36/120 · 0.03 s per iteration · 3 s left · CLIP score 0.41``, as far as it is known.

    Or of a download ``clip/ViT-B-32.pt · 121 of 354 MB (34%) · 5.2 MB/s · 45 s left``.
    """
    if job.download:
        return arriving(job.download, job.speed.now)
    run = job.run
    if not run:
        return ""
    said = [f"step {run.step}/{run.settings.steps}"]
    if job.pace:
        said.append(f"{job.pace:.2g} s per iteration")
        if job.alive:
            said.append(f"{_duration(job.pace * (run.settings.steps - run.step))} left")
    if job.frame:
        said.append(scored(job.frame.scores))
    return " · ".join(said)


def arriving(download: Download, speed: float) -> str:
    """How far a download is, at so many bytes a second."""
    done, total = download.done / 1e6, (download.total or 0) / 1e6
    said = [download.name, f"{done:.0f} of {total:.0f} MB ({done / total:.0%})" if total else f"{done:.0f} MB"]
    if speed:
        said.append(f"{speed / 1e6:.1f} MB/s")
        if total:
            said.append(f"{_duration((total - done) / speed * 1e6)} left")
    return " · ".join(said)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def scored(scores: Mapping[str, float]) -> str:
    """``CLIP score 0.412 · judge 0.305``, the second where there is one."""
    judge = f" · judge {scores['judge']:.3f}" if "judge" in scores else ""
    return f"CLIP score {scores['clip']:.3f}{judge}"


def curve(rows: Sequence[Mapping[str, float]], shown: int) -> str:
    """The scores as SVG lines, the judge's dashed, with a dot on the row of index ``shown``.

    Each line has a scale of its own. Shaded is where CLIP's rises and the judge's falls.
    """
    first, wide = rows[0]["step"], 300 / max(1, rows[-1]["step"] - rows[0]["step"])
    places = [wide * (row["step"] - first) for row in rows]
    dashes = {"clip": "", "judge": ' stroke-dasharray="5 3"'}
    lines, told = "", []
    for name, dash in dashes.items():
        if name not in rows[-1]:
            continue
        scores = [row[name] for row in rows]
        low, high = min(scores), max(scores)
        spots = [(f"{x:.1f}", f"{55 - 50 * (score - low) / (high - low or 1):.1f}") for x, score in zip(places, scores)]
        thin = spots[: -1 : len(spots) // 300 + 1] + spots[-1:]
        lines += f'<polyline points="{" ".join(map(",".join, thin))}" fill="none" stroke="currentColor"'
        lines += f' stroke-width="1.5"{dash}/>'
        lines += f'<circle cx="{spots[shown][0]}" cy="{spots[shown][1]}" r="3.5" fill="currentColor"/>'
        told.append(f"{'CLIP score' if name == 'clip' else name} from {low:.3f} to {high:.3f}")
    apart = [(places[a], max(places[b] - places[a], 1.5)) for a, b in parted(rows)]
    shades = "".join(f'<rect x="{x:.1f}" width="{w:.1f}" height="60" opacity="0.15"/>' for x, w in apart)
    note = "<small>dashed: the judge; shaded: CLIP likes it more and more, the judge less and less</small>"
    return (
        f"<small>step {rows[shown]['step']:.0f}: {scored(rows[shown])}</small>"
        f'<svg viewBox="-5 0 310 60" role="img" aria-label="{"; ".join(told)}">'
        f'<g fill="currentColor">{shades}</g>{lines}</svg>'
        + (note if apart else "<small>dashed: the judge</small>" if len(told) > 1 else "")
    )


def explained(error: BaseException) -> str:
    """An error as HTML: what a person can mend as it stands, anything else with its traceback folded away."""
    if isinstance(error, ClipgenError):
        return f'<div role="alert">{html.escape(str(error))}</div>'
    lines = html.escape("".join(traceback.format_exception(error)))
    what = html.escape(f"{type(error).__name__}: {error}")
    return f'<div role="alert">{what}</div><details><summary>Traceback</summary><pre>{lines}</pre></details>'
