"""Where threads meet: what is asked of a run while it goes on."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from clipgen.runs.journal import Journal
from clipgen.runs.plan import Plan
from clipgen.runs.prompts import note_titles
from clipgen.runs.settings import Settings


class Control:
    """Pause, stop, and changes that wait for the next step: live ones, and those that a plan brings along.

    ``step``: where the run goes on from; what was changed before it holds already.
    """

    def __init__(self, plan: Plan, journal: Journal, step: int):
        self._plan, self._journal = plan, journal
        self._lock = threading.Lock()
        self.past = [change for change in plan.changes if change["step"] < step]  # what holds already
        self.settings: Settings = plan.follow(plan.settings, self.past)  # as they are now
        self._planned = [change for change in plan.changes if change["step"] >= step]
        self._asked: list[Mapping[str, Any]] = []
        self._stopped, self._going = threading.Event(), threading.Event()
        self._going.set()

    @property
    def stopped(self) -> bool:
        """Whether the run was asked to end."""
        return self._stopped.is_set()

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
        """Let a change wait for the next step, if it can work after those that wait already and before the planned."""
        with self._lock:
            inputs = self._plan.inputs
            known = set(inputs.all)
            asked = inputs.named(asked)
            self._plan.follow(self.settings, [*self._asked, asked, *self._planned])
            note_titles(asked.get("prompt", ""), asked.get("negative", ""))
            for name in inputs.all.keys() - known:
                self._journal.keep_input(name, inputs.all[name])
            self._asked.append(asked)

    def due(self, step: int) -> None:
        """Take up what is due at a step."""
        with self._lock:
            changes = [change for change in self._planned if change["step"] == step]
            self._planned = [change for change in self._planned if change["step"] > step]
            for asked in self._asked:
                with suppress(OSError):  # a full disk: said once, when frames cannot be kept
                    self._journal.change(step, asked)
            changes += [{"step": step, **asked} for asked in self._asked]
            self._asked = []
            self.settings = self._plan.follow(self.settings, changes)
            self.past += changes
