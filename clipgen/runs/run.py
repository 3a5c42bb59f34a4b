"""A run: a render that a journal keeps, as an iterator of frames."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from clipgen.errors import ClipgenError
from clipgen.images.reading import to_image
from clipgen.images.sheets import png_bytes
from clipgen.inspect.describe import Words, describe
from clipgen.inspect.steps import Seen
from clipgen.optimize import Render
from clipgen.prompts import Prompt
from clipgen.runs.control import RunControl
from clipgen.runs.course import Course, Frame, write
from clipgen.runs.inputs import Ask, Inputs, Value
from clipgen.runs.interrupts import interrupts
from clipgen.runs.journal import Journal
from clipgen.runs.keeper import Keeper
from clipgen.runs.lock import Lock
from clipgen.runs.recipes import Recipes
from clipgen.runs.rerun import Rerun
from clipgen.runs.settings import Settings, list_settings
from clipgen.runs.spec import Losses, Models, RunSpec


@list_settings
class Run:
    """One generation, as an iterator of frames that keeps everything it shows in its journal.

    ``Run("a cat:2 | dog:-0.5", steps=200, seed=1)``; the keyword arguments are the fields of Settings, and
    ``folder`` is where run folders are made. A prompt may also be a picture, or a list of pictures and prompts;
    ``init`` and ``mask`` may be pictures, and ``init`` what a journal kept of a latent. ``losses``: functions
    ``(image, latent, step) -> loss`` that are added, in a list or by name, or objectives. ``like``: a run with the same
    models, which are shared then. Nothing is computed before the first frame is asked for. Raises ClipgenError for what
    a person can mend.
    """

    render: Render | None = None  # once it has begun

    def __init__(
        self,
        prompt: Ask | RunSpec,
        *,
        folder: str | Path = "clipgen-runs",
        losses: Losses = (),
        like: Run | None = None,
        **settings: Value,
    ):
        self.spec = prompt if isinstance(prompt, RunSpec) else RunSpec.create(prompt, settings, losses)
        self.models: Models = self.spec.load_models(like.models if like else None)
        self.journal = self.spec.journal or self.spec.create_journal(folder)
        self._state = self.journal.load_state()
        self.step = self._state[0] if self._state else 0
        self.control = RunControl(self.spec, self.journal, self.step)
        self._course = Course(self.journal, self.step, self.control.past)
        self._rerun = Rerun(self.spec, self.models, self.journal, self.control.past)
        self._frames: Iterator[Frame] | None = None

    @classmethod
    def resume(cls, folder: str | Path, losses: Losses = (), like: Run | None = None, *, trust: bool = False) -> Run:
        """Go on with an interrupted run from its last saved step; its frames are those that it would have had.

        ``trust``: read what the folder names and has no copy of. Raises ClipgenError for a run that goes on elsewhere.
        """
        with Journal.open(folder).lock():
            run = cls(RunSpec.resume(folder, losses, trust), like=like)
            steps, every = run.settings.steps, run.settings.every
            run.journal.keep_until(run.step, {1, steps, *range(every, steps, every)})
        run._course = Course(run.journal, run.step, run.control.past)
        return run

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
        return cls(RunSpec.replay(source, losses, trust), folder=folder, like=like)

    def branch(self, step: int, *, folder: str | Path = "clipgen-runs", **settings: Value) -> Run:
        """A new run that starts from the frame of ``step``, with these settings instead of those that this one has."""
        if step not in self.journal.steps:
            raise ClipgenError(f"step={step}: there is no such frame; there are {self.journal.steps}")
        asked = asdict(self.settings) | {"near": 0.0, "size": self.settings.at(step - 1).size} | settings
        same = all(asked[name] == getattr(self.settings, name) for name in ("generator", "relax"))
        asked["init"] = (
            self.journal.latent(step) if same else self.journal.frame(step)
        )  # another's latent means nothing
        spec = RunSpec.create(asked.pop("prompt"), asked, self.spec.losses, Inputs(self.spec.inputs.all))
        return Run(spec, folder=folder, like=self)

    # --- control, from any thread ---------------------------------------------------------------------

    def pause(self) -> None:
        """Hold before the next step."""
        self.control.pause()

    def unpause(self) -> None:
        """Go on after ``pause``."""
        self.control.unpause()

    def stop(self) -> None:
        """End after the current step; everything made so far is kept, and ``Run.resume`` goes on from it."""
        self.control.stop()

    def change(self, **settings: Value | Ask) -> None:
        """Change settings from the next step on: the prompt, lr, near, mask, cutouts...

        Each change is in the journal, so that a replay gives the same film. Raises ClipgenError for what cannot be
        changed, for values that cannot work, alone or with changes that wait, and where no step follows that could be
        changed; the run goes on as it was. ``keep`` can change after the last step, too.
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
        """Whether every step was made, ``patience`` is at its end, or the picture has ``settled``."""
        return self.step >= self.settings.steps or self._course.over

    @property
    def best(self) -> Frame:
        """The frame that the judge likes best; without a judge, the one with the highest CLIP score.

        Of those since the prompts were changed last, or one of their spans began or ended.
        """
        return self._course.best

    @property
    def image(self) -> Image.Image:
        """The newest frame, or with ``keep="best"`` the best."""
        return self._shown.image

    @property
    def score(self) -> float:
        """The CLIP score of ``image``."""
        return self._shown.scores["clip"]

    @property
    def _shown(self) -> Frame:
        return self.best if self.settings.keep == "best" else self._course.newest

    def views(self, step: int, *, progress: bool = True) -> Seen:
        """What CLIP was shown in a step, counted from 1: every cutout, what it scored, and how it pulled.

        The steps before are made again, from the seed and what was changed: nothing is kept for it while the run goes
        on. Raises ClipgenError for a step that is not made yet.
        """
        if not 1 <= step <= self.step:
            raise ClipgenError(f"step={step}: there are views of the steps that are made, 1 to {self.step}")
        return self._rerun.look(step, progress)

    def words(self, step: int | None = None, **options: Any) -> Words:
        """What a frame shows, the newest or that of ``step``, as the run's own perceptor sees it: see ``describe``."""
        picture = self.image if step is None else self.journal.frame(step)
        return describe(picture, **{"perceptor": self.models.perceptors[0][0]} | options)

    def export(self, file: str | Path, *, keep: str = "", what: str = "picture", **options: Any) -> Path:
        """Write the film, or the picture, by suffix: .gif .mp4 .webp .png .html .svg.

        ``keep``: as the setting, whose value it has by default; with "best" the film ends with the best frame, and the
        picture is that one. ``what``: "picture"; with "views" the cutouts that CLIP was shown stand beside it. Other
        options as of ``clipgen.export.film.export``.
        """
        if what not in ("picture", "views"):
            raise ClipgenError(f"what={what!r}: choose one of: picture, views")
        seen = (lambda step: self.views(step, progress=False).beside()) if what == "views" else None
        return write(self.journal, file, keep, seen, **options)

    def _repr_png_(self) -> bytes | None:
        return png_bytes(self.image) if self._course else None

    # --- the loop -------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Frame]:
        if self._frames is None:
            self._frames = self._alone()
        return self._frames

    def _alone(self) -> Iterator[Frame]:
        scores, going = None, self.going()
        with suppress(StopIteration):
            while True:
                if isinstance(said := going.send(scores), Frame):
                    yield said
                scores = None if isinstance(said, Frame) else said.advance()

    def going(self) -> Generator[Frame | Render, dict[str, Tensor] | None, None]:
        """The frames, and before every step the render: whoever sends its scores has made the step."""
        with self.journal.lock(self.step) as lock:
            yield from self._make(lock)

    def _make(self, lock: Lock) -> Generator[Frame | Render, dict[str, Tensor] | None, None]:
        recipes = Recipes(self.spec, self.models)
        now = self.settings.at(max(0, self.step - 1))
        self.render = render = recipes.begin(now)
        judging, began = recipes.judging(now), time.monotonic()
        keeper = Keeper(self.journal, render.latent.device.type != "cpu")
        if self._state:
            with self.journal.restoring():
                render.restore(*self._state)
        try:
            while not (self.control.stopped or self.control.close(self.finished)):
                self.control.wait()
                self.control.due(self.step)
                if (then := self.settings.at(self.step)) != now:
                    recipes.follow(render, then)
                    now, judging = then, recipes.judging(then)
                render.turn()
                scores = (yield render) or {}
                lock.check()
                self.step = render.step
                if render.stuck:
                    self.stop()
                last = self.finished or self.control.stopped
                due = self.settings.is_frame_step(self.step)
                if due or last:
                    picture, latent = render.picture(), render.packed()
                    image, told = to_image(picture[0]), {name: float(score) for name, score in scores.items()}
                    if judging:
                        told["judge"] = judging.score(image, self.step - 1)
                    frame = Frame(self.step, image, told, time.monotonic() - began)
                    self._course.add(frame)
                    if due and not self.control.close(self.finished):
                        render.move_camera(picture)
                    keeper.keep(frame, latent, *render.state())
                    yield frame
                    lock.check()
        finally:
            render.memory.close()
            keeper.end()
            if not lock.lost:
                self.control.end()


@list_settings
def stream(
    prompt: Ask,
    *,
    folder: str | Path = "clipgen-runs",
    losses: Losses = (),
    like: Run | None = None,
    **settings: Value,
) -> Iterator[Frame]:
    """Frames of a new run, as they are made. Arguments as for Run."""
    return iter(Run(prompt, folder=folder, losses=losses, like=like, **settings))


@list_settings
def generate(
    prompt: Ask,
    *,
    progress: bool = True,
    folder: str | Path = "clipgen-runs",
    losses: Losses = (),
    like: Run | None = None,
    **settings: Value,
) -> Run:
    """Make a picture with a progress bar; returns the Run. Arguments as for Run, and those of ``finish``."""
    return finish(Run(prompt, folder=folder, losses=losses, like=like, **settings), progress)


def finish(run: Run, progress: bool = True) -> Run:
    """Let a run go on to its end, with a progress bar.

    An interrupt (Ctrl-C, a notebook's stop button) ends it after the current step, with everything kept: ``finished``
    is False then, and ``Run.resume(run.journal.folder)`` goes on. A second one stops at once.
    """
    from tqdm.auto import tqdm

    bar = tqdm(total=run.settings.steps, initial=run.step, disable=not progress, unit="step", dynamic_ncols=True)
    with bar, interrupts(run.stop):
        for frame in run:
            bar.update(frame.step - bar.n)
            bar.set_postfix({name: f"{frame.scores[name]:.3f}" for name in ("clip", "judge") if name in frame.scores})
        if run.finished:
            bar.total = bar.n  # it may have settled before its last step
    return run
