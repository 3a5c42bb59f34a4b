"""The steps of a run repeated, to inspect any of them as it was."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from tqdm.auto import tqdm

from clipgen.inspect.steps import StepReport, inspect_step
from clipgen.optimize import Optimization
from clipgen.progress import check_stopped
from clipgen.runs.journal import Journal
from clipgen.runs.spec import Models, RunSpec
from clipgen.runs.step_specs import StepSpecBuilder


class Replayer:
    """Repeats a run from its seed and its ``changes``, which may grow, up to a step.

    A run stores nothing to be inspected later, and is no slower for it. A later step continues from an earlier one.
    """

    def __init__(self, spec: RunSpec, models: Models, journal: Journal, changes: Sequence[Mapping[str, Any]]):
        self._spec, self._models, self._journal, self._changes = spec, models, journal, changes
        self._optimization: Optimization | None = None
        self._lock = threading.Lock()

    def inspect(self, step: int, progress: bool = True) -> StepReport:
        """Return what CLIP was shown in a step, counted from 1. Warns if the journal has another score of it."""
        with self._lock:
            optimization, self._optimization = self._optimization, None  # an interrupt leaves none within a step
            if optimization is None or optimization.step >= step:
                self._settings = self._spec.settings
                self._builder = StepSpecBuilder(self._spec, self._models)
                optimization = self._builder.start(self._settings.at(0))
            bar = tqdm(total=step, initial=optimization.step, disable=not progress, leave=False, unit="step", delay=1)
            with closing(optimization.memory), bar:
                self._prepare_step(optimization)
                while optimization.step < step - 1:
                    check_stopped()
                    self._advance(optimization)
                    self._prepare_step(optimization)
                    bar.update()
                report, self._optimization = inspect_step(optimization), optimization
        self._compare(report)
        return report

    def _prepare_step(self, optimization: Optimization) -> None:
        due = [change for change in self._changes if change["step"] == optimization.step]
        self._settings = self._spec.apply_changes(self._settings, due)
        self._builder.update(optimization, self._settings.at(optimization.step))

    def _advance(self, optimization: Optimization) -> None:
        optimization.advance()
        if optimization.spec.camera and self._settings.is_frame_step(optimization.step):
            optimization.move_camera(optimization.image())

    def _compare(self, report: StepReport) -> None:
        rows = (row["clip"] for row in self._journal.scores if row["step"] == report.step)
        score = next(rows, report.score)
        if abs(score - report.score) > 0.01:
            warnings.warn(
                f"step {report.step} has a CLIP score of {report.score:.3f} now and had {score:.3f}: the run was made "
                "by another machine or version, whose cutouts were others",
                stacklevel=4,
            )
