"""The steps of a run once more, to look at any of them as it was."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from tqdm.auto import tqdm

from clipgen.inspect.steps import Seen, look
from clipgen.optimize import Render
from clipgen.progress import check
from clipgen.runs.journal import Journal
from clipgen.runs.recipes import Recipes
from clipgen.runs.spec import Models, RunSpec


class Rerun:
    """A run made again from its seed and its ``changes`` (which may grow), as far as somebody looks.

    A latent and its random numbers follow from those before, so that a run that may be looked at keeps nothing for it
    and is no slower for it; who looks waits. Looks from step to step go on from one another.
    """

    def __init__(self, spec: RunSpec, models: Models, journal: Journal, changes: Sequence[Mapping[str, Any]]):
        self._spec, self._models, self._journal, self._changes = spec, models, journal, changes
        self._render: Render | None = None
        self._lock = threading.Lock()

    def look(self, step: int, progress: bool = True) -> Seen:
        """What CLIP was shown in a step, which counts from 1. Warns if that is not what the journal says it scored."""
        with self._lock:
            render, self._render = self._render, None  # whoever interrupts leaves none half way
            if render is None or render.step >= step:
                self._settings = self._spec.settings
                self._recipes, self._now = Recipes(self._spec, self._models), self._settings.at(0)
                render = self._recipes.begin(self._now)
            done = render.step
            with (
                closing(render.memory),
                tqdm(total=step, initial=done, disable=not progress, leave=False, unit="step", delay=1) as bar,
            ):
                while self._follow(render) < step - 1:
                    check()
                    self._advance(render)
                    bar.update()
                seen, self._render = look(render), render
        had = next((row["clip"] for row in self._journal.scores if row["step"] == step), seen.score)
        if abs(had - seen.score) > 0.01:
            warnings.warn(
                f"step {step} has a CLIP score of {seen.score:.3f} now and had {had:.3f}: the run was made by another "
                "machine or version, whose views were others",
                stacklevel=3,
            )
        return seen

    def _follow(self, render: Render) -> int:
        """Take up what was changed before the next step; returns how many are made."""
        due = [change for change in self._changes if change["step"] == render.step]
        self._settings = self._spec.apply_changes(self._settings, due)
        if (then := self._settings.at(render.step)) != self._now:
            self._now = then
            self._recipes.follow(render, then)
        render.turn()
        return render.step

    def _advance(self, render: Render) -> None:
        render.advance()
        if render.recipe.camera and self._settings.is_frame_step(render.step):
            render.move_camera(render.picture())
