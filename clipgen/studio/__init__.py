"""The Studio: type a prompt in a notebook, press Generate, watch and steer."""

from __future__ import annotations

import atexit
import sys
import threading
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar

import ipywidgets as widgets

from clipgen.runs.journal import Journal
from clipgen.runs.run import Run
from clipgen.runs.settings import build
from clipgen.studio.controls import Controls
from clipgen.studio.film import Exporter, Painter
from clipgen.studio.gallery import Gallery, settings_of
from clipgen.studio.parts import Access, close_all
from clipgen.studio.preview import Preview, progress
from clipgen.studio.seeing import Seeing
from clipgen.studio.steering import Steering
from clipgen.studio.studying import Studying
from clipgen.studio.words import InWords
from clipgen.studio.worker import Job


class Studio(widgets.VBox):
    """Controls, preview and gallery in a notebook cell: ``clipgen.Studio("a red apple", steps=200)``.

    ``settings``: the fields of Settings, as they are shown first; ``folder``: where run folders are. A new Studio stops
    the run of the one before, which can be resumed from its gallery, and its study, and closes it. Raises ClipgenError
    for what cannot work.
    """

    _latest: ClassVar[Job | None] = None  # of any Studio: the next one waits for its end and shares its models
    _open: ClassVar[Studio | None] = None
    closed = True  # until it is complete

    def __init__(self, prompt: str = "a red apple", *, folder: str | Path = "clipgen-runs", **settings: Any):
        asked = build(prompt, {"settled": 0.0} | settings)  # who looks on may still want to steer
        if Studio._latest:
            Studio._latest.stop()
        if Studio._open:
            Studio._open.close()
        if "google.colab" in sys.modules:
            from google.colab import output

            output.enable_custom_widget_manager()
        self.folder = Path(folder)
        self.job: Job | None = None
        self._lock = threading.RLock()  # what is shown changes in the job's thread and in the kernel's
        guard = self._guarded
        self.controls = Controls(asked, self.folder, guard, guard(self._start))
        self.preview = Preview()
        self.steering = Steering(self.controls, self.preview.say)
        actions = {"Open": self.view, "Resume": self.resume, "Replay": self.replay}
        self.gallery = Gallery(self.folder, {name: guard(action) for name, action in actions.items()})
        self._generate = self._button("Generate", self._start, "play", button_style="primary")
        self._pause = self._button("Pause", self.pause, "pause")
        self._stop = self._button("Stop", self.stop, "stop")
        tooltip = "A new run from the shown frame, with these settings"
        self._branch = self._button("Branch from here", self.branch, "code-fork", tooltip=tooltip)
        self._best = self._button("Best frame", self.preview.rewind, "star-o")
        self.exporter = Exporter(self.preview, guard)
        self.seeing = Seeing(self.preview, lambda: Studio._latest.run if Studio._latest else None, guard)
        self.studying = Studying(self.preview, self.folder, guard)
        mask = self.controls.mask
        self.words = InWords(self.preview, lambda: self.job.run if self.job else None, guard)
        self.painter = Painter(self.preview, mask.put, lambda: self.controls.put({"mask": ""}), guard)
        super().__init__(self._laid_out())
        self.add_class("clipgen-studio")
        self._enable()
        Studio._open, self.closed = self, False

    def __repr__(self) -> str:
        return f"Studio(folder={str(self.folder)!r})"

    # --- what the buttons do --------------------------------------------------------------------------

    def generate(self) -> None:
        """Start a run with what the controls say; one that goes on is stopped."""
        knobs = self.controls.asked
        self._begin(lambda like: Run(folder=self.folder, like=like, **knobs))

    def branch(self) -> None:
        """Start a run from the frame that is shown, with what the controls say."""
        journal, step = self.preview.shown
        knobs, picture = self.controls.asked, self.preview.picture
        same = all(knobs[name] == journal.settings.get(name) for name in ("generator", "relax"))
        knobs |= {"init": journal.latent(step) if same else picture, "size": picture.size}  # a latent is its decoder's
        self._begin(lambda like: Run(folder=self.folder, like=like, **knobs))

    def pause(self) -> None:
        """Hold the run before its next step, or let it go on."""
        if self.job:
            self.job.pause(not self.job.paused)
            self._enable()

    def stop(self) -> None:
        """End the run after the step in the making; it can be resumed from the gallery."""
        if self.job:
            self.job.stop()
            self._enable()

    def wait(self, timeout: float | None = None) -> Run | None:
        """The run, when it has ended (or after so many seconds). Raises what it ended by, if that was an error."""
        if not self.job:
            return None
        self.job.join(timeout)
        if self.job.error:
            raise self.job.error
        return self.job.run

    def view(self, folder: Path) -> None:
        """Show an earlier run and its settings."""
        journal = Journal.open(folder)
        settings = settings_of(journal, self.folder)
        self.controls.put(settings)
        self.stop()
        with self._lock:
            self.job = None
            self.preview.say(None)
            rows = journal.scores
            self.preview.show(journal, rows)
            self.preview.tell("An earlier run", f"step {rows[-1]['step'] if rows else 0:.0f}/{settings['steps']}")
            self._enable()

    def resume(self, folder: Path) -> None:
        """Go on with an interrupted run."""
        self.controls.put(settings_of(Journal.open(folder), self.folder))
        self._begin(lambda like: Run.resume(folder, like=like))

    def replay(self, folder: Path) -> None:
        """Make an earlier run again, with all that was changed on its way."""
        self.controls.put(settings_of(Journal.open(folder), self.folder, changed=False))
        self._begin(lambda like: Run.replay(folder, folder=self.folder, like=like))

    def close(self) -> None:
        """End its run, its study and its look at views, and give back its widgets and their channels to the page."""
        if self.closed:
            return
        self.stop()
        self.seeing.stopping = True
        self.studying.stop()
        with self._lock:
            self.closed = True
            close_all(self)
        super().close()
        if Studio._open is self:
            Studio._open = None

    # --- how they do it -------------------------------------------------------------------------------

    def _begin(self, make: Callable[[Run | None], Run]) -> None:
        with self._lock:
            self.preview.say(None)
            self.exporter.link.value = ""
            self.steering.begin()
            tell, steer = self._guarded(self._follow), self._guarded(self._steer)
            self.job = Studio._latest = Job(make, tell, Studio._latest, steer)
            self._enable()

    def _start(self) -> None:
        """Generate, unless a run goes on: Enter, and a second click that was under way."""
        if not self._going:
            self.generate()

    @property
    def _going(self) -> bool:
        return self.job is not None and self.job.alive and not self.job.stopping

    def _follow(self, job: Job) -> None:
        """Show the newest of a run; in the thread of the job."""
        run, rows, newest = job.film
        with self._lock:
            if self.closed:
                return
            if job is self.job:  # else another has taken its place
                if run and rows:
                    self.preview.show(run.journal, rows, newest, more=job.alive and not job.paused)
                loading = job.download
                share = loading.done / loading.total if loading and loading.total else None
                self.preview.tell(job.phase, progress(job), share)
                if job.error:
                    self.preview.say(job.error)
                self._enable()
            if not job.alive:
                self.gallery.refresh()

    def _steer(self, run: Run) -> None:
        """Tell a run what the controls say; in the thread of its job."""
        if self.job and run is self.job.run:
            self.steering.follow(run)

    def _button(self, name: str, action: Callable[[], None], icon: str, **look: Any) -> widgets.Button:
        button = widgets.Button(description=name, icon=icon, **look)
        button.on_click(self._guarded(lambda _: action()))
        return button

    def _guarded(self, action: Callable) -> Callable:
        """The callback, its errors shown in the Studio."""

        @wraps(action)
        def guarded(*values: Any) -> None:
            try:
                action(*values)
            except Exception as error:
                self.preview.say(error)

        return guarded

    def _enable(self) -> None:
        """Offer what can be done now."""
        going = self._going
        self._generate.disabled = going
        self._stop.disabled = not going
        self._pause.disabled = not (going and self.job and self.job.run)
        paused = bool(going and self.job and self.job.paused)
        self._pause.description, self._pause.icon = ("Resume", "play") if paused else ("Pause", "pause")
        for button in (self._branch, self._best, self.exporter.button, self.painter.button, self.seeing.look):
            button.disabled = self.preview.journal is None or (button is self.seeing.look and self.seeing.busy)
        self.studying.enable()

    def _laid_out(self) -> list[widgets.Widget]:
        style = widgets.HTML(f"<style>{(Path(__file__).parent / 'studio.css').read_text()}</style>")
        buttons = widgets.HBox([self._generate, self._pause, self._stop])
        from_here = widgets.HBox([self._branch, self._best, self.painter.button]).add_class("clipgen-wrapped")
        parts = {
            "ask": [self.controls.models, self.controls.rows, buttons],
            "see": [self.preview, from_here, self.exporter, self.words, self.seeing, self.studying],
            "set": [self.controls],
        }
        columns = [widgets.VBox(children).add_class(f"clipgen-{name}") for name, children in parts.items()]
        return [style, widgets.Box(columns).add_class("clipgen-columns"), self.gallery, Access()]


@atexit.register
def _end() -> None:
    """A thread that is still inside torch when Python ends would abort it."""
    if Studio._latest:
        Studio._latest.stop()
        Studio._latest.join(10)
