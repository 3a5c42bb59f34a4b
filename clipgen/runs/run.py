"""A run: an optimisation whose frames are kept in a journal."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from clipgen.errors import ClipgenError
from clipgen.images.reading import to_image
from clipgen.images.sheets import png_bytes
from clipgen.inspect import StepReport
from clipgen.inspect.describe import Words, describe
from clipgen.optimize import Optimization
from clipgen.prompts import Prompt
from clipgen.runs.control import RunControl
from clipgen.runs.folder import Lock
from clipgen.runs.frames import FilmRow, Frame, FrameWriter, History, export_run
from clipgen.runs.inputs import Inputs, PromptLike, Value
from clipgen.runs.journal import Journal
from clipgen.runs.settings import Settings, list_settings
from clipgen.runs.spec import Losses, Models, RunSpec, shares_latents
from clipgen.runs.step_specs import StepInspector, StepSpecBuilder
from clipgen.setting import check_count
from clipgen.storage import display_path


@list_settings
class Run:
    """One generation, as an iterable of frames, which are kept in its journal.

    ``Run("a cat:2 | dog:-0.5", steps=200, seed=1)``; the keyword arguments are the fields of Settings, and ``folder``
    is where run folders are created. A prompt may also be a picture, or a list of pictures and prompts; ``init`` and
    ``mask`` may be pictures, and ``init`` a latent read from a journal. ``losses``: additional losses, as functions
    ``(image, latent, step) -> loss`` or ``Loss`` objects, in a list or dict. ``like``: a run whose models are reused if
    the names match. Nothing is computed before the first frame is requested. Raises ClipgenError for invalid arguments.
    """

    optimization: Optimization  # set by ``session``

    def __init__(
        self,
        prompt: PromptLike | RunSpec,
        *,
        folder: str | Path = "clipgen-runs",
        losses: Losses = (),
        like: Run | None = None,
        **settings: Value,
    ):
        self.spec = prompt if isinstance(prompt, RunSpec) else RunSpec.create(prompt, settings, losses)
        self.models: Models = self.spec.load_models(like.models if like else None)
        self.spec.check_models(self.spec.settings, self.models)
        self.journal = self.spec.journal or self.spec.create_journal(folder)
        self.step = self.journal.saved_step
        self.control = RunControl(self.spec, self.models, self.journal, self.step)
        self.film: list[FilmRow] = [*self.journal.film] if self.step else []  # so far, see ``Journal.film``
        self._history = History(self.journal, self.step, self.control.applied, self.spec.settings)
        self._frames: Iterator[Frame] | None = None
        self._inspector = StepInspector(self.spec, self.models, self.control.applied)

    @classmethod
    def resume(cls, folder: str | Path, losses: Losses = (), like: Run | None = None, *, trust: bool = False) -> Run:
        """Continue an interrupted run from its last saved step, with the frames that it would have had.

        ``trust``: read files that the folder names without a copy. Raises ClipgenError while the run is in progress.
        """
        with Lock(Journal.open(folder).folder):
            spec = RunSpec.open(folder, losses, trust, resume=True)
            assert spec.journal
            steps = spec.journal.steps
            frame_steps = set(filter(spec.settings.is_frame_step, steps))
            film_steps = set(filter(spec.settings.is_film_step, steps))
            spec.journal.trim(spec.journal.saved_step, frame_steps, film_steps)
            return cls(spec, like=like)

    @classmethod
    def replay(
        cls,
        source: str | Path,
        *,
        folder: str | Path = "clipgen-runs",
        losses: Losses = (),
        like: Run | None = None,
        trust: bool = False,
    ) -> Run:
        """Make a run again, from its folder or an exported file; steering included. ``trust``: see ``resume``."""
        return cls(RunSpec.open(source, losses, trust), folder=folder, like=like)

    def branch(self, step: int, *, folder: str | Path = "clipgen-runs", **settings: Value) -> Run:
        """Return a new run from the frame of ``step``, with this run's settings, ``near=0``, and the settings given."""
        if step not in self.journal.steps:
            raise ClipgenError(f"step={step}: there is no such frame; there are {self.journal.steps}")
        current = self.settings.at(step - 1)
        values = asdict(self.settings) | {"near": 0.0, "size": current.size} | settings
        values["init"] = self.journal.latent(step) if shares_latents(current, values) else self.journal.frame(step)
        spec = RunSpec.create(values.pop("prompt"), values, self.spec.losses, Inputs(self.spec.inputs.by_name))
        return Run(spec, folder=folder, like=self)

    # --- control, from any thread ---------------------------------------------------------------------

    def pause(self) -> None:
        """Pause before the next step."""
        self.control.unpaused.clear()

    def unpause(self) -> None:
        """Continue after ``pause``."""
        self.control.unpaused.set()

    def stop(self) -> None:
        """End after the current step, or at once while paused. ``Run.resume`` continues from the last frame."""
        self.control.stop()

    def change(self, **settings: Value | PromptLike) -> None:
        """Change settings from the next step on: the prompt, lr, near, mask, cutouts...

        Each change is in the journal, so that a replay gives the same film. Raises ClipgenError for a
        setting that cannot be changed, for an invalid value, by itself or with pending changes, and if no step is
        left; the run is then unaffected. ``keep`` can also change after the last step.
        """
        self.control.change(settings)

    # --- results --------------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """The settings as they are now."""
        return self.control.settings

    @property
    def prompts(self) -> list[Prompt]:
        """The prompts as they are now."""
        return self.settings.prompts

    @property
    def finished(self) -> bool:
        """Whether every step was taken, ``patience`` has run out, or the picture has ``settled``."""
        return self.step >= self.settings.steps or self._history.should_stop

    @property
    def diverged(self) -> bool:
        """Whether the loss was not finite three times in a row, which ends the run."""
        return hasattr(self, "optimization") and self.optimization.diverged

    @property
    def best(self) -> Frame:
        """The frame with the highest judge score, or CLIP score if there is no judge.

        Only frames after the last change of the positive prompts, or of their active spans, count.
        """
        return self._history.best

    @property
    def image(self) -> Image.Image:
        """The newest frame, or with ``keep="best"`` the best."""
        return self._output_frame.image

    @property
    def score(self) -> float:
        """The CLIP score of ``image``."""
        return self._output_frame.scores["clip"]

    @property
    def _output_frame(self) -> Frame:
        return self.best if self.settings.keep == "best" else self._history.newest

    def views(self, step: int, *, progress: bool = True) -> StepReport:
        """Return what CLIP was shown in a step, counted from 1: each cutout, its score and its gradient.

        The steps up to it are repeated from the seed and the changes; a later step continues from an earlier one.
        Raises ClipgenError for a step that is not taken yet; warns if its score differs from the journal's.
        """
        step = check_count("step", step)
        if step > self.step:
            taken = f"views exist for steps 1 to {self.step}" if self.step else "no step was taken yet"
            raise ClipgenError(f"step={step}: {taken}")
        report = self._inspector.inspect(step, progress)
        score = next((row["clip"] for row in self.journal.scores if row["step"] == step), report.score)
        if abs(score - report.score) > 0.01:
            warnings.warn(
                f"step {step} has a CLIP score of {report.score:.3f} now and had {score:.3f}: the run was made by "
                "another machine or version, with different cutouts",
                stacklevel=2,
            )
        return report

    def words(self, step: int | None = None, **options: Any) -> Words:
        """Describe a frame, the newest or that of ``step``, with the run's own perceptor: see ``describe``."""
        picture = self.image if step is None else self.journal.frame(check_count("step", step))
        return describe(picture, **{"perceptor": self.models.perceptors[0][0]} | options)

    def export(self, file: str | Path, *, keep: str = "", what: str = "picture", **options: Any) -> Path:
        """Write the film, or the picture, by suffix: .gif .mp4 .webp .png .html .svg.

        ``keep``: by default the setting's value; with "best" the best frame is the picture, and the film's last one.
        ``what``: "picture", or "views", with the cutouts that CLIP was shown. Others: ``clipgen.export.export``.
        """
        if what not in ("picture", "views"):
            raise ClipgenError(f"what={what!r}: choose one of: picture, views")
        picture = (lambda step: self.views(step, progress=False).beside()) if what == "views" else None
        until = self.step if picture else math.inf  # there may be frames after the saved state
        return export_run(self.journal, file, keep, picture, until, **options)

    def _repr_png_(self) -> bytes | None:
        return png_bytes(self.image) if self._history else None

    def __repr__(self) -> str:
        return f"Run(folder={display_path(self.journal.folder)!r})"

    # --- the loop -------------------------------------------------------------------------------------
    def __iter__(self) -> Iterator[Frame]:
        """Return the iterator of frames, the same one as long as no error has ended it.

        A second loop continues where the first stopped; a loop after an error raises ClipgenError.
        """
        if self._frames is None:
            self._frames = self._iterate()
        return self._frames

    def _iterate(self) -> Iterator[Frame]:
        try:
            with self.session():
                while self.prepare_step():
                    scores = self.optimization.advance()
                    if frame := self.record_step(scores):
                        yield frame
        finally:
            if not (self.finished or self.control.stopped):  # an error or a break ended it: the next loop begins anew
                self._frames = None

    @contextmanager
    def session(self) -> Iterator[None]:
        """Hold the folder's lock and an ``Optimization`` while the body runs."""
        self.control.check_can_continue(self.finished)
        with Lock(self.journal.folder) as self._lock:
            self.journal.check_step(self.step)
            self._writer = FrameWriter(self.journal, in_background=self.spec.device.type != "cpu")
            self._saved_step = self.step
            self._in_step = False  # whether a step has begun and is not recorded yet
            try:
                self._create_optimization()
                with closing(self.optimization.memory):
                    yield
            finally:
                self._save_state()
                self._writer.close()
                if not self._lock.lost:
                    self.control.end()

    def _create_optimization(self) -> None:
        """Set ``optimization`` to one that continues from the saved state, or begins at the start."""
        show_draft = None if self.step else self._record_film_picture
        self._step_specs = StepSpecBuilder(self.spec, self.models, show_draft)
        # The saved latent has the size that the last step's settings have.
        self.optimization = self._step_specs.create_optimization(self.settings.at(max(0, self.step - 1)))
        self._started_at = time.monotonic()
        if state := self.journal.load_state():
            with self.journal.restoring():
                self.optimization.restore(*state)

    def prepare_step(self) -> bool:
        """Wait while paused and apply the changes that are due; return whether there is another step."""
        self._lock.claim()
        if self.control.end_if_finished(self.finished):
            return False
        if not (self.control.stopped or self.control.unpaused.is_set()):
            self._save_state()  # the run is paused
            self.control.unpaused.wait()
        if self.control.stopped:
            return False
        self._in_step = True
        self.control.apply_changes(self.step)
        self._step_specs.update(self.optimization, self.settings.at(self.step))
        return True

    def record_step(self, scores: Mapping[str, Tensor]) -> Frame | None:
        """Record the step just taken. Return its frame, already saved, or None if the step makes none."""
        self._lock.claim()
        self.step = self.optimization.step
        if self.diverged:
            self.stop()
        frame = None
        if self.settings.is_frame_step(self.step) or self.finished or self.control.stopped:
            frame = self._record_frame(scores)
        elif self.settings.is_film_step(self.step):
            self._record_film_picture(self.optimization.render_frame())
        self._in_step = False
        # Save after the camera's move: a resumed run begins there.
        if frame and (self.finished or self.control.stopped or self._writer.is_state_due(self.optimization.state()[0])):
            self._save_state()
        return frame

    def _record_frame(self, scores: Mapping[str, Tensor]) -> Frame:
        image, latent = self.optimization.render_frame(), self.optimization.packed_latent()
        values = {name: float(score) for name, score in scores.items()}
        frame = Frame(self.step, to_image(image[0]), values, time.monotonic() - self._started_at)
        if judge := self._step_specs.judge():
            values["judge"] = judge.score(frame.image, self.step - 1)
        self._history.add(frame)
        # Also when the run stops early, as a change may continue it; not after the last step.
        if self.settings.is_frame_step(self.step) and self.step < self.settings.steps:
            self.optimization.move_camera(image)
        self._writer.write(self.journal.add, frame.step, frame.image, latent.to("cpu", copy=True), frame.scores)
        self.film.append({"step": frame.step} | frame.scores)
        return frame

    def _save_state(self) -> None:
        """Save the state, unless it is saved, a step failed, or another run has taken over the folder."""
        if not (self.step == self._saved_step or self._in_step or self._lock.lost):
            self._saved_step = self.step
            self._writer.write_state(self.step, *self.optimization.state())

    def _record_film_picture(self, image: Tensor) -> None:
        """Record a picture for the film alone: of a step without a frame, or of the draft after a row of tokens."""
        row = {"step": self.step, "token_row": 0 if self.step else len(self.film) + 1}
        self._writer.write(self.journal.add_film_picture, row, to_image(image[0]))
        self.film.append(row)  # another thread may read the picture from now on


@list_settings
def stream(prompt: PromptLike, **options: Any) -> Iterator[Frame]:
    """Yield the frames of a new run as they are made. Takes the same arguments as Run."""
    return iter(Run(prompt, **options))
