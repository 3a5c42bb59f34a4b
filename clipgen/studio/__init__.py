"""The Studio: type a prompt in a notebook, press Generate, watch and steer."""

from __future__ import annotations

import atexit
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import ipywidgets as widgets

from clipgen.runs.inputs import Inputs, PromptLike
from clipgen.runs.journal import Journal
from clipgen.runs.run import Run
from clipgen.runs.settings import build
from clipgen.setting import check_path
from clipgen.storage import absolute_path, display_path
from clipgen.studio.controls import Controls
from clipgen.studio.gallery import Gallery, read_settings, save_inputs
from clipgen.studio.parts import Access, button, close_all
from clipgen.studio.preview import Job, Preview
from clipgen.studio.sections import CutoutsSection, ExportSection, MaskPainter, WordsSection


class Studio(widgets.VBox):
    """Controls, preview and gallery in a notebook cell: ``clipgen.Studio("a red apple", steps=200)``.

    A new Studio closes the one before and stops its run, which can be resumed from the gallery.

    Args:
        prompt: What the first prompt row shows.
        folder: Where run folders are.
        **settings: The settings that are shown first; see ``clipgen.generate``.

    Raises:
        ClipgenError: A setting that does not exist, or a value that cannot work.
    """

    _newest_job: ClassVar[Job | None] = None  # of any Studio: the next one waits for its end and shares its models
    _open: ClassVar[Studio | None] = None
    is_closed = True  # until it is complete

    def __init__(self, prompt: PromptLike = "a red apple", *, folder: str | Path = "clipgen-runs", **settings: Any):
        self.folder, inputs = absolute_path(check_path("folder", folder)), Inputs()
        values = inputs.name_values(settings | {"prompt": prompt})
        values |= save_inputs(values, inputs.by_name, self.folder)
        initial = build(values.pop("prompt"), {"settled": 0.0} | values)  # runs to the last step, so that one can steer
        if Studio._newest_job:
            Studio._newest_job.stop()
        if Studio._open:
            Studio._open.close()
        if "google.colab" in sys.modules:
            from google.colab import output

            output.enable_custom_widget_manager()
        self.job: Job | None = None
        self._lock = threading.RLock()  # the job's thread and the kernel's both change what is shown
        self.preview = Preview()
        self.preview.newest_run = Studio._newest_job.run if Studio._newest_job else None
        guard = self.preview.error.guard
        start = guard(self._start)
        self.controls = Controls(initial, self.folder, self.preview.error, start)
        actions = {"Open": self.view, "Resume": self.resume, "Replay": self.replay}
        self.gallery = Gallery(self.folder, {label: guard(action) for label, action in actions.items()})
        self._generate = button("Generate", start, "play", button_style="primary")
        self._pause = button("Pause", guard(self.pause), "pause")
        self._stop = button("Stop", guard(self.stop), "stop")
        tooltip = "A new run from the shown frame, with these settings"
        self._branch = button("Branch from here", guard(self.branch), "code-fork", tooltip=tooltip)
        self._best = button("Best frame", guard(self.preview.show_best), "star-o")
        self.exporter = ExportSection(self.preview)
        self.painter = MaskPainter(self.preview, self.controls)
        self.words = WordsSection(self.preview)
        self.cutouts = CutoutsSection(self.preview)
        super().__init__(self._layout())
        self.add_class("clipgen-studio")
        self._enable()
        Studio._open, self.is_closed = self, False

    def __repr__(self) -> str:
        return f"Studio(folder={display_path(self.folder)!r})"

    # --- what the buttons do --------------------------------------------------------------------------

    def generate(self) -> None:
        """Start a run with the values of the controls; a live run is stopped first."""
        values = self.controls.values
        self._begin(lambda previous: Run(folder=self.folder, like=previous, **values))

    def branch(self) -> None:
        """Start a run from the shown frame, with the values of the controls."""
        journal, step = self.preview.position
        values, picture = self.controls.values, self.preview.picture
        is_frame = "token_row" not in self.preview.row  # others have no latent
        same_latent = is_frame and all(values[name] == journal.settings.get(name) for name in ("generator", "relax"))
        values |= {"init": journal.latent(step) if same_latent else picture, "size": picture.size}
        self._begin(lambda previous: Run(folder=self.folder, like=previous, **values))

    def pause(self) -> None:
        """Pause the run before its next step, or unpause it."""
        if self.job:
            self.job.pause(not self.job.is_paused)
            self._enable()

    def stop(self) -> None:
        """End the run after its current step; it can be resumed from the gallery."""
        if self.job:
            self.job.stop()
            self._enable()

    def wait(self, timeout: float | None = None) -> Run | None:
        """Wait for the end of the run, or so many seconds.

        Returns:
            The run; None if there is none.

        Raises:
            BaseException: The error that ended the run.
        """
        if not self.job:
            return None
        self.job.join(timeout)
        if self.job.error:
            raise self.job.error
        return self.job.run

    def view(self, folder: Path) -> None:
        """Show an earlier run and its settings."""
        journal = Journal.open(folder)
        settings = read_settings(journal, self.folder)
        self.controls.put(settings)
        self.stop()
        with self._lock:
            self.job = None
            self.preview.error.show(None)
            rows = journal.film
            self.preview.show(journal, rows)
            step = rows[-1]["step"] if rows else 0
            self.preview.show_progress("An earlier run", f"step {step:.0f}/{settings['steps']}")
            self._enable()

    def resume(self, folder: Path) -> None:
        """Go on with an interrupted run."""
        self.controls.put(read_settings(Journal.open(folder), self.folder))
        self._begin(lambda previous: Run.resume(folder, like=previous))

    def replay(self, folder: Path) -> None:
        """Make an earlier run again, with all changes that were made while it ran."""
        self.controls.put(read_settings(Journal.open(folder), self.folder, changed=False))
        self._begin(lambda previous: Run.replay(folder, folder=self.folder, like=previous))

    def close(self) -> None:
        """End its run and its sheet of cutouts, and close its widgets and their channels to the page."""
        if self.is_closed:
            return
        self.stop()
        self.cutouts.stopping = True
        with self._lock:
            self.is_closed = True
            close_all(self)
        super().close()
        if Studio._open is self:
            Studio._open = None

    # --- the run in its thread ------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """Whether a run is live and was not asked to stop."""
        return self.job is not None and self.job.is_alive and not self.job.stopping

    def _start(self) -> None:
        """Generate, unless a run is live: for Enter, and for a second click meanwhile."""
        if not self.is_running:
            self.generate()

    def _begin(self, make: Callable[[Run | None], Run]) -> None:
        with self._lock:
            self.preview.error.show(None)
            self.exporter.link.value = ""
            self.controls.begin_steering()
            report = self.preview.error.guard(self._report)
            self.job = Studio._newest_job = Job(make, report, Studio._newest_job)
            self._enable()

    def _report(self, job: Job) -> None:
        """Show how far a job is and send changed settings to its run; called by the job's second thread."""
        with self._lock:
            if self.is_closed:
                return
            if job is self.job:
                self._show_job(job)
            if not job.is_alive:
                self.gallery.refresh()
        if job is self.job and job.is_alive and job.run:
            self.controls.steer(job.run)

    def _show_job(self, job: Job) -> None:
        if job.run:
            self.preview.newest_run = job.run
        if job.run and job.rows:
            self.preview.show(job.run.journal, job.rows, job.frame, more=job.is_alive and not job.is_paused)
        download = job.download
        fraction = download.done / download.total if download and download.total else None
        self.preview.show_progress(job.phase, job.status, fraction)
        if job.error:
            self.preview.error.show(job.error)
        self._enable()

    def _enable(self) -> None:
        """Enable the buttons that can be used now."""
        running = self.is_running
        self._generate.disabled = running
        self._stop.disabled = not running
        self._pause.disabled = not (running and self.job and self.job.run)
        is_paused = running and self.job is not None and self.job.is_paused
        self._pause.description, self._pause.icon = ("Resume", "play") if is_paused else ("Pause", "pause")
        for widget in (self._branch, self._best, self.exporter.button, self.painter.button):
            widget.disabled = self.preview.journal is None
        self.cutouts.enable()

    def _layout(self) -> list[widgets.Widget]:
        style = widgets.HTML(f"<style>{(Path(__file__).parent / 'studio.css').read_text()}</style>")
        run_buttons = widgets.HBox([self._generate, self._pause, self._stop])
        frame_buttons = widgets.HBox([self._branch, self._best, self.painter.button]).add_class("clipgen-wrapped")
        columns = {
            "ask": [self.controls.models, self.controls.device, self.controls.rows, run_buttons],
            "see": [self.preview, frame_buttons, self.exporter, self.words, self.cutouts],
            "set": [self.controls],
        }
        boxes = [widgets.VBox(children).add_class(f"clipgen-{name}") for name, children in columns.items()]
        return [style, widgets.Box(boxes).add_class("clipgen-columns"), self.gallery, Access()]


@atexit.register
def _end_newest_job() -> None:
    """Stop the run before Python ends: a thread that is still inside torch would abort it."""
    if Studio._newest_job:
        Studio._newest_job.stop()
        Studio._newest_job.join(10)
