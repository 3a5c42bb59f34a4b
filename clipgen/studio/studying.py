"""A study of the shown run: one of its settings varied, all else as it was."""

from __future__ import annotations

import html
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import ipywidgets as widgets

from clipgen.errors import ClipgenError
from clipgen.prompts import slug
from clipgen.studies.grid import expand_grid
from clipgen.studies.progress import ProgressGrid
from clipgen.studies.row import Row
from clipgen.studies.storage import StudyStorage
from clipgen.studies.study import Study
from clipgen.studies.tables import told, values
from clipgen.studio.controls import DEFAULTS, KNOBS, STEERED, SUITING, usual_of
from clipgen.studio.film import offered
from clipgen.studio.gallery import settings_of
from clipgen.studio.parts import Fold, close_all
from clipgen.studio.preview import Preview


class Studying(Fold):
    """A setting, values for it, and the grid of the runs that have them, which processes beside this one make.

    ``folder``: where studies are kept. ``guard`` shows the errors of a callback.
    """

    _going: ClassVar[threading.Event] = threading.Event()  # ends the study that goes on, in whichever Studio

    def __init__(self, preview: Preview, folder: Path, guard: Callable):
        Studying._going.set()
        self._preview, self._folder, self.busy = preview, folder, False
        self.study: Study | None = None
        names = sorted((STEERED.get(name, (name,))[0], name) for name in KNOBS if name != "device")
        self._setting = widgets.Dropdown(options=names, value="seed", description="Vary")
        self._values = widgets.Text(description="Values")
        self.begin = self._button("Study", "th", guard(self._begin))
        self._stop = self._button("Stop study", "stop", lambda _: self.stop())
        self._export = self._button("Export page", "download", guard(self._write))
        self.note, self.link = widgets.HTML().add_class("clipgen-help"), widgets.HTML().add_class("clipgen-download")
        self.grid = widgets.VBox()
        self._make, suggest = guard(self._work), guard(lambda _: self._suggest())
        buttons = widgets.HBox([self.begin, self._stop, self._export]).add_class("clipgen-wrapped")
        super().__init__("Vary one setting", [self._setting, self._values, buttons, self.note, self.grid, self.link])
        self._setting.observe(suggest, "value")
        self.button.observe(suggest, "value")
        self._say("The shown run once for each value, everything else the same. Commas between values, or semicolons.")
        self._export.disabled = True
        self.enable()

    def _button(self, name: str, icon: str, action: Callable) -> widgets.Button:
        button = widgets.Button(description=name, icon=icon)
        button.on_click(action)
        return button

    def stop(self) -> None:
        """End the study that goes on; what is made is kept."""
        Studying._going.set()

    def enable(self) -> None:
        """Offer what can be done now."""
        self.begin.disabled = self.busy or self._preview.journal is None
        self._stop.disabled = not self.busy

    @property
    def _settings(self) -> dict[str, Any]:
        """Those of the shown run."""
        return settings_of(self._preview.shown[0], self._folder)

    def _suggest(self) -> None:
        """Some values to begin with."""
        knob, settings = KNOBS[self._setting.value], self._settings if self._preview.journal else DEFAULTS
        self._values.value = suggested(knob, settings[knob.name])

    def _begin(self, _: Any) -> None:
        found, name = self._settings, self._setting.value
        suits = usual_of(*(found[one] for one in SUITING))  # of which another generator wants its own
        settings = {one: found[one] for one in KNOBS if one != "device" and found[one] != suits[one]}
        if not (wanted := values(name, self._values.value)):
            raise ClipgenError(f"{name}: write some values for it, such as {suggested(KNOBS[name], found[name])}")
        prompt = found["prompt"]
        settings |= {"size": found["size"]} if found["size"] else {}
        place = StudyStorage(self._folder / f"study-{slug(prompt)}")
        known = place.names
        runs = expand_grid(prompt.replace("{", "{{").replace("}", "}}"), settings | {name: wanted})
        self.study = study = Study([Row(one, place.folder, known) for one in runs], place, prompt)
        grid, Studying._going = ProgressGrid(study.rows), threading.Event()
        before, self.grid.children = self.grid.children, [grid.widget]
        for widget in before:
            close_all(widget)
        self.busy, self.link.value = True, ""
        self._export.disabled = True
        self.enable()
        asked = study, grid, Studying._going
        threading.Thread(target=self._make, args=asked, name="clipgen study", daemon=True).start()

    def _work(self, study: Study, grid: ProgressGrid, stopped: threading.Event) -> None:
        try:
            with closing(study.make()) as going:
                for _ in going:
                    grid.look()
                    if stopped.is_set():
                        break
        finally:
            grid.look(last=True)
            self.busy, self._export.disabled = False, not any(row.image for row in study.rows)
            self.enable()
            best = "" if self._export.disabled else f"; the best, by its score: {study.best().label}"
            self._say(f"{'Done' if study.finished else 'Stopped'}{best}. Kept in {study.folder}")

    def _write(self, _: Any) -> None:
        if self.study:
            page = self.study.export(self.study.folder / f"{self.study.folder.name}.html")
            self.link.value = offered(page, "text/html")

    def _say(self, text: str) -> None:
        self.note.value = f'<small role="status">{html.escape(text)}</small>'


def suggested(knob: Any, value: Any) -> str:
    """Some values for a setting that has this one now, as a person would write them."""
    facts = knob.metadata
    common = tuple(facts["common"]() if callable(facts["common"]) else facts["common"])
    if some := [word for word in facts["choices"] or common if word][:4]:
        return ", ".join(some)
    if isinstance(knob.default, bool):
        return "False, True"
    if knob.name == "seed":
        return ", ".join(str(value + i) for i in range(4))
    if isinstance(value, (int, float)):
        around = (value // 2, value, 2 * value) if isinstance(knob.default, int) else (value / 2, value, 2 * value)
        inside = [min(max(one, facts["low"]), facts["high"]) for one in (around if value else (0, 0.5, 1))]
        return ", ".join(dict.fromkeys(f"{one:g}" for one in inside))
    return told(value) + ";" * ("," in told(value))
