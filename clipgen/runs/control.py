"""Steering a run from any thread: pause, stop, and changes of settings that wait for the next step."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from clipgen.errors import ClipgenError
from clipgen.prompts import warn_of_titles
from clipgen.runs.journal import Journal, is_steering
from clipgen.runs.settings import Settings
from clipgen.runs.spec import RunSpec


class RunControl:
    """What is asked of a run while it goes on.

    Args:
        spec: The run; its changes are those of a resumed or replayed one.
        journal: Where live changes are recorded.
        step: Number of steps taken. Changes at earlier steps have been applied, and so have those at this step that
            only set ``keep``.
    """

    def __init__(self, spec: RunSpec, journal: Journal, step: int):
        self._spec, self._journal, self._lock = spec, journal, threading.Lock()
        self.past = [change for change in spec.changes if change["step"] < step + (not is_steering(change))]
        self.settings: Settings = spec.apply_changes(spec.settings, self.past)  # as they are now
        self._planned = [change for change in spec.changes if change not in self.past]
        self._waiting: list[Mapping[str, Any]] = []
        self._step = step  # the next one
        self._latest = self._next_settings()
        self.stopped, self._ended = False, False
        self._running = threading.Event()  # cleared while the run is paused
        self._running.set()

    @property
    def has_ended(self) -> bool:
        """Whether there is no further step that a change could affect."""
        return self._ended or self._step >= self.settings.steps

    def pause(self) -> None:
        """Hold before the next step."""
        self._running.clear()

    def unpause(self) -> None:
        """Go on after ``pause``."""
        self._running.set()

    def stop(self) -> None:
        """End the run after its current step, or at once while it is paused."""
        self.stopped = True
        self._running.set()

    def wait_while_paused(self) -> None:
        """Wait until the run goes on or is stopped."""
        if not self.stopped:
            self._running.wait()

    def change(self, options: Mapping[str, Any]) -> None:
        """Queue a change for the next step.

        It has to work after the changes that wait already and before those planned for later steps; a refused change
        leaves no trace. After the last step a change that affects no step is made at once, and others are refused.
        """
        with self._lock, self._spec.inputs.tentative() as inputs:
            before = set(inputs.all)
            change = inputs.name_values(options)
            latest = inputs.name_files(self._spec.change(self._latest, change))
            prompts = change.keys() & {"prompt", "negative"}
            change |= {name: getattr(latest, name) for name in prompts}
            if self.has_ended and is_steering(change):
                raise ClipgenError(
                    f"{min(change)}=...: the run ended at step {self._step}, so the change has no effect; branch, or "
                    "start a new run, or continue with Run.resume if it was stopped early"
                )
            self._spec.apply_changes(latest, [later for later in self._planned if later["step"] > self._step])
            self._keep_inputs(inputs.all.keys() - before)
            warn_of_titles(latest.prompts if prompts else ())
            self._latest = latest
            self._waiting.append(change)
            if self.has_ended:
                self._apply()

    def apply_changes(self, step: int) -> None:
        """Make the changes that are planned for a step, and those that wait for the next one."""
        with self._lock:
            self._step = step
            self._apply()
            self._step = step + 1
            self._latest = self._next_settings()

    def end_if_finished(self, finished: bool) -> bool:
        """End if the run has ``finished`` and no change is pending; return whether it has ended."""
        with self._lock:
            has_change = any(map(is_steering, [*self._waiting, *self._due()]))
            self._ended = self._ended or (finished and not (has_change and self._step < self.settings.steps))
            return self._ended

    def end(self) -> None:
        """End: refuse changes from now on; record those that wait, for when the run is resumed."""
        with self._lock:
            self._ended = True
            self._record_waiting()

    def _due(self) -> list[Mapping[str, Any]]:
        return [change for change in self._planned if change["step"] == self._step]

    def _next_settings(self) -> Settings:
        """Return the settings of the next step without live changes; checked here, before the step needs them."""
        return self._spec.apply_changes(self.settings, self._due())

    def _apply(self) -> None:
        self.past += [*self._due(), *self._record_waiting()]
        self._planned = [change for change in self._planned if change["step"] > self._step]
        self.settings = self._latest

    def _record_waiting(self) -> list[Mapping[str, Any]]:
        changes: list[Mapping[str, Any]] = [{"step": self._step, **options} for options in self._waiting]
        self._waiting = []
        with suppress(OSError):  # a full disk: the run warns of it once, when frames cannot be saved
            self._journal.add_changes(changes)
        return changes

    def _keep_inputs(self, names: set[str]) -> None:
        try:
            for name in names:
                self._journal.keep_input(name, self._spec.inputs.all[name])
        except OSError as error:
            raise ClipgenError(
                f"{self._journal.folder}: {error.strerror}; make room there: the run could not be resumed without the "
                "picture of this change"
            ) from error
