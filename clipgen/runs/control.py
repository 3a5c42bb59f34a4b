"""Where threads meet: what is asked of a run while it goes on."""

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
    """Pause, stop, and changes that wait for the next step: live ones, and those that a spec brings along.

    Args:
        spec: the run; its changes are those of a resumed or replayed one.
        journal: where live changes are recorded.
        step: the step that the run goes on from. Changes before it are in force already, and so is one of ``step``
            itself that concerns no step.
    """

    def __init__(self, spec: RunSpec, journal: Journal, step: int):
        self._spec, self._journal = spec, journal
        self._lock = threading.Lock()
        past = [change for change in spec.changes if change["step"] < step + (not is_steering(change))]
        self.past: list[Mapping[str, Any]] = past
        self.settings: Settings = spec.apply_changes(spec.settings, past)  # as they are now
        self._planned = [change for change in spec.changes if change not in past]
        self._waiting: list[Mapping[str, Any]] = []
        self._step = step  # the next one
        self._latest = self._expected()
        self._stopped, self._going = threading.Event(), threading.Event()
        self._going.set()
        self._closed = False

    @property
    def stopped(self) -> bool:
        """Whether the run was asked to end."""
        return self._stopped.is_set()

    @property
    def closed(self) -> bool:
        """Whether there is no further step that a change could steer."""
        return self._closed or self._step >= self.settings.steps

    def pause(self) -> None:
        self._going.clear()

    def unpause(self) -> None:
        self._going.set()

    def stop(self) -> None:
        self._stopped.set()
        self._going.set()

    def wait(self) -> None:
        """Hold while the run is paused."""
        self._going.wait()

    def change(self, asked: Mapping[str, Any]) -> None:
        """Let a change wait for the next step.

        It has to work after those that wait already and before those planned for later steps. A refused one leaves no
        trace. After the last step only what concerns no step can change, and does at once.
        """
        with self._lock, self._spec.inputs.tentative() as inputs:
            before = set(inputs.all)
            asked = inputs.named(asked)
            latest = self._spec.change(self._latest, asked)
            if self.closed and is_steering(asked):
                raise ClipgenError(
                    f"{min(asked)}=...: no step follows step {self._step} of this run that could change; branch, or "
                    "start another; what was stopped early goes on with Run.resume"
                )
            self._spec.apply_changes(latest, [change for change in self._planned if change["step"] > self._step])
            self._keep_inputs(inputs.all.keys() - before)
            warn_of_titles(latest.prompts if asked.keys() & {"prompt", "negative"} else ())
            self._latest = latest
            self._waiting.append(asked)
            if self.closed:
                self._take_up()

    def due(self, step: int) -> None:
        """Take up what is due at a step."""
        with self._lock:
            self._step = step
            self._take_up()
            self._step = step + 1
            self._latest = self._expected()

    def close(self, over: bool = True) -> bool:
        """Refuse changes from now on if the run is ``over`` and no change waits for a next step.

        Returns:
            Whether changes are refused.
        """
        with self._lock:
            waiting = any(map(is_steering, [*self._waiting, *self._due()])) and self._step < self.settings.steps
            self._closed = self._closed or (over and not waiting)
            return self._closed

    def end(self) -> None:
        """Refuse changes from now on; those that wait are recorded, for whoever resumes the run."""
        with self._lock:
            self._closed = True
            self._record()

    def _due(self) -> list[Mapping[str, Any]]:
        return [change for change in self._planned if change["step"] == self._step]

    def _expected(self) -> Settings:
        """The settings of the next step if nothing more is asked for: checked here, so that ``due`` only takes them."""
        return self._spec.apply_changes(self.settings, self._due())

    def _take_up(self) -> None:
        self.past += [*self._due(), *self._record()]
        self._planned = [change for change in self._planned if change["step"] > self._step]
        self.settings = self._latest

    def _record(self) -> list[Mapping[str, Any]]:
        changes: list[Mapping[str, Any]] = [{"step": self._step, **asked} for asked in self._waiting]
        self._waiting = []
        with suppress(OSError):  # a full disk: said once, when frames cannot be kept
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
