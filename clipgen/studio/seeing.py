"""What CLIP was shown in the step of the shown frame, for who asks."""

from __future__ import annotations

import html
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from clipgen.progress import Download, Stopped, listening
from clipgen.runs.run import Run
from clipgen.runs.spec import RunSpec
from clipgen.studio.parts import Fold
from clipgen.studio.pictures import encode
from clipgen.studio.preview import Preview

LONGEST = 1024  # pixels of the sheet's longer side


class Seeing(Fold):
    """A fold with a button that makes a sheet of the views of the shown frame, in a thread of its own.

    ``running()``: the newest run, if there is one, whose models are used where they are the same. ``guard`` shows the
    errors of a callback.
    """

    def __init__(self, preview: Preview, running: Callable[[], Run | None], guard: Callable):
        self._preview, self._running, self.busy = preview, running, False
        self._run: Run | None = None  # the one that was looked at last
        self.stopping = False  # whether nobody looks any more
        self.download: Download | None = None
        self.look = widgets.Button(description="Show its views", icon="eye")
        self.look.on_click(guard(self._begin))
        self.note = widgets.HTML().add_class("clipgen-help")
        self.image = widgets.Image(format="jpeg", layout={"display": "none"}).add_class("clipgen-views")
        self._make = guard(self._look_at)
        super().__init__("What CLIP sees", [self.look, self.note, self.image])
        self._say("The cutouts of the shown frame's step: what each scores, and its share of the pull on the picture.")

    def _begin(self, _: Any) -> None:
        journal, step = self._preview.shown
        self.busy = self.look.disabled = True
        self._say(f"Making the steps to {step} again…")
        threading.Thread(target=self._make, args=(journal.folder, step), name="clipgen views", daemon=True).start()

    def _look_at(self, folder: Path, step: int) -> None:
        try:
            with listening(self):
                seen = self._of(folder).views(step, progress=False)
            self._preview.line.wait()
            self.image.value = encode(seen.sheet(), LONGEST)
            self._preview.line.sent(len(self.image.value))
            self.image.layout.display = ""
            self._say(f"Step {step}: {len(seen.views)} views, CLIP score {seen.score:.3f}")
        except Stopped:
            self._run = None
        except BaseException:
            self._say("")
            raise
        finally:
            self.busy = self.look.disabled = False

    def _of(self, folder: Path) -> Run:
        """The run of a folder: the running one, the last that was looked at, or that of the folder, not to go on."""
        running = self._running()
        for run in (running, self._run):
            if run and run.journal.folder == folder:
                return run
        self._run = Run(RunSpec.resume(folder), like=running)
        return self._run

    def _say(self, text: str) -> None:
        self.note.value = f'<small role="status">{html.escape(text)}</small>'
