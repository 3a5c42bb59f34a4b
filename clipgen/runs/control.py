"""Steering a run from any thread: pause, stop, and changes of settings that wait for the next step."""

import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from clipgen.errors import ClipgenError
from clipgen.prompts import warn_of_titles
from clipgen.runs.journal import Journal, is_steering
from clipgen.runs.settings import Settings
from clipgen.runs.spec import Models, RunSpec


class RunControl:
    """Pending requests to a live run: pause, stop and changes of settings. ``step``: the number of steps taken."""

    def __init__(self, spec: RunSpec, models: Models, journal: Journal, step: int):
        self._spec, self._models, self._journal, self._lock = spec, models, journal, threading.Lock()

        def is_applied(change: Mapping[str, Any]) -> bool:  # of a resumed run's; ``keep`` needs no further step
            return change["step"] < step or (change["step"] == step and not is_steering(change))

        self.applied = [change for change in spec.changes if is_applied(change)]
        self.settings: Settings = spec.apply_changes(spec.settings, self.applied)  # as they are now
        self._pending = [change for change in spec.changes if not is_applied(change)]  # in the order of their steps
        self._unrecorded: list[Mapping[str, Any]] = []  # live changes that the journal does not have yet
        self._step = step  # the next one
        self._next_settings = spec.apply_changes(self.settings, self._due)  # checked before the step needs them
        self.stopped, self._ended = False, False
        self.unpaused = threading.Event()  # cleared while the run is paused
        self.unpaused.set()

    @property
    def has_ended(self) -> bool:
        """Whether there is no further step that a change could affect."""
        return self._ended or self._step >= self.settings.steps

    def stop(self) -> None:
        """End the run after its current step, or at once while it is paused."""
        self.stopped = True
        self.unpaused.set()

    def change(self, options: Mapping[str, Any]) -> None:
        """Queue a change for the next step.

        It must be valid after the changes that are already due and before those of later steps; a refused change has
        no effect. After the last step a change that affects no step is made at once, and others are refused.
        """
        with self._lock, self._spec.inputs.tentative() as inputs:
            before = set(inputs.by_name)
            change = inputs.name_values(options)
            settings = inputs.name_files(self._spec.change(self._next_settings, change))
            self._spec.check_models(settings, self._models)
            lines = change.keys() & {"prompt", "negative"}
            change |= {name: getattr(settings, name) for name in lines}  # files have their names in them now
            if self.has_ended and is_steering(change):
                name = min(change.keys() - {"keep"})
                raise ClipgenError(
                    f"{name}=...: the run ended at step {self._step}, so the change has no effect; branch, or "
                    "start a new run, or continue with Run.resume if it was stopped early"
                )
            self._spec.apply_changes(settings, self._later)
            self._journal.keep_inputs({name: inputs.by_name[name] for name in inputs.by_name.keys() - before})
            warn_of_titles(settings.prompts if lines else ())
            change["step"], self._next_settings = self._step, settings
            self._pending = [*self._due, change, *self._later]
            self._unrecorded.append(change)
            if self.has_ended:
                self._apply_keep()

    def apply_changes(self, step: int) -> None:
        """Apply the changes that are due at a step, and let new ones wait for the next."""
        with self._lock:
            self._step = step
            self._record()  # first, so that whoever sees the new settings finds the change in the journal
            self.applied += self._due
            self._pending, self.settings = self._later, self._next_settings
            self._step = step + 1
            self._next_settings = self._spec.apply_changes(self.settings, self._due)

    def end_if_finished(self, finished: bool) -> bool:
        """Refuse further changes if the run has ``finished`` and none is due; return whether it has ended.

        A due change lets a run that stopped early (``patience``, ``settled``) continue, but not beyond ``steps``.
        """
        with self._lock:
            has_change = any(map(is_steering, self._due))
            self._ended = self._ended or (finished and not (has_change and self._step < self.settings.steps))
            return self._ended

    def check_can_continue(self, finished: bool) -> None:
        """Raise ClipgenError if an error ended the run before it was stopped or had ``finished``."""
        if self._ended and not (finished or self.stopped):
            folder = str(self._journal.folder)
            raise ClipgenError(
                f"{folder}: an error or interrupt ended this Run object; continue with clipgen.Run.resume({folder!r})"
            )

    def end(self) -> None:
        """Refuse changes from now on; record those that are due, for when the run is resumed, and apply ``keep``."""
        with self._lock:
            self._ended = True
            self._apply_keep()

    @property
    def _due(self) -> list[Mapping[str, Any]]:
        """The pending changes of the next step."""
        return [change for change in self._pending if change["step"] <= self._step]

    @property
    def _later(self) -> list[Mapping[str, Any]]:
        return [change for change in self._pending if change["step"] > self._step]

    def _apply_keep(self) -> None:
        """Apply the due changes of ``keep``, which need no further step."""
        self._record()
        changes = [change for change in self._due if not is_steering(change)]
        self._pending = [change for change in self._pending if change not in changes]
        self.applied += changes
        self.settings = self._spec.apply_changes(self.settings, changes)

    def _record(self) -> None:
        with suppress(OSError):  # a full disk: the run warns of it once, when frames cannot be saved
            self._journal.add_changes(self._unrecorded)
        self._unrecorded = []
