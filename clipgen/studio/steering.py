"""What is changed in the controls while a run goes on reaches the run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from clipgen.errors import ClipgenError
from clipgen.runs.run import Run
from clipgen.studio.controls import Controls

QUIET = 0.15  # seconds, about what lies between two keys


class Steering:
    """Looks at the controls now and then, so that half a word is no prompt yet. ``say`` shows an error, or none."""

    def __init__(self, controls: Controls, say: Callable[[ClipgenError | None], None]):
        self._controls, self._say = controls, say
        self.begin()
        controls.observe(self._pass_over, "usual")

    def begin(self) -> None:
        """A run starts with what the controls say."""
        self._told: dict[str, Any] = self._controls.changeable  # what the run knows
        self._seen = self._refused = self._told  # at the last look; and what could not work
        self._wrong, self._moved = False, 0.0

    def _pass_over(self, change: Any) -> None:
        """What suits another generator is for the next run."""
        suits = {name: value for name, value in change["new"].items() if value != change["old"][name]}
        self._told = self._told | {name: value for name, value in suits.items() if name in self._told}

    def follow(self, run: Run) -> None:
        """Ask the run for what has changed, if the controls were left alone for QUIET seconds."""
        if run.control.closed:  # what is set now is for the next run
            return
        try:
            now = self._controls.changeable
            if now != self._seen:
                self._seen, self._moved = now, time.monotonic()
            if time.monotonic() - self._moved >= QUIET and now not in (self._told, self._refused):
                self._refused = now
                run.change(**{name: value for name, value in now.items() if value != self._told[name]})
                self._told = now
            if now == self._told and self._wrong:
                self._say(None)
                self._wrong = False
        except ClipgenError as error:
            self._say(error)
            self._wrong = True
