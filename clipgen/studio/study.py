"""A section that makes a study of the shown run: one of its settings varied, all else as it was."""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import Field
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
from clipgen.studies.tables import format_value, parse_values
from clipgen.studio.controls import CHOICES, DEFAULTS, FIELDS, common_values, defaults_of, label_of
from clipgen.studio.gallery import settings_of
from clipgen.studio.parts import Fold, button, close_all, download_link, html_widget, note, on_change
from clipgen.studio.preview import Preview


class StudySection(Fold):
    """A setting, values for it, and the grid of their runs, which processes beside this one make."""

    _stopped: ClassVar[threading.Event] = threading.Event()  # ends the study of any Studio

    def __init__(self, preview: Preview, folder: Path):
        self.stop()
        self._preview, self._folder, self.is_busy = preview, folder, False
        self.study: Study | None = None
        names = sorted((label_of(name), name) for name in FIELDS if name != "device")
        self._setting = widgets.Dropdown(options=names, value="seed", description="Vary")
        self._values = widgets.Text(description="Values")
        guard = preview.error.guard
        self.start_button = button("Study", guard(self._begin), "th")
        self._stop_button = button("Stop study", self.stop, "stop")
        self._export_button = button("Export page", guard(self._export), "download", disabled=True)
        self.note, self.link, self.grid = html_widget("help"), html_widget("download"), widgets.VBox()
        buttons = widgets.HBox([self.start_button, self._stop_button, self._export_button]).add_class("clipgen-wrapped")
        super().__init__("Vary one setting", [self._setting, self._values, buttons, self.note, self.grid, self.link])
        on_change(guard(self._suggest), self._setting, self.button)
        self.note.value = note("One run for each value, everything else the same. Commas or semicolons between values.")
        self.enable()

    def stop(self) -> None:
        """End the study that goes on; what is made is kept."""
        StudySection._stopped.set()

    def enable(self) -> None:
        """Enable the buttons that can be used now."""
        self.start_button.disabled = self.is_busy or self._preview.journal is None
        self._stop_button.disabled = not self.is_busy

    def _settings(self) -> dict[str, Any]:
        return settings_of(self._preview.position[0], self._folder)

    def _suggest(self) -> None:
        settings = self._settings() if self._preview.journal else DEFAULTS
        name = self._setting.value
        self._values.value = suggest_values(FIELDS[name], settings[name])

    def _begin(self) -> None:
        settings, name = self._settings(), self._setting.value
        varied = parse_values(name, self._values.value)
        if not varied:
            example = suggest_values(FIELDS[name], settings[name])
            raise ClipgenError(f"{name}: write some values for it, such as {example}")
        # Only what differs from the defaults, so that another generator keeps its own.
        defaults = defaults_of(*(settings[choice] for choice in CHOICES))
        given = {key: settings[key] for key in FIELDS if key != "device" and settings[key] != defaults[key]}
        if settings["size"]:
            given["size"] = settings["size"]
        prompt = settings["prompt"]
        storage = StudyStorage(self._folder / f"study-{slug(prompt)}")
        existing = storage.row_names()
        points = expand_grid(prompt.replace("{", "{{").replace("}", "}}"), given | {name: varied})
        study = Study([Row(point, storage.folder, existing) for point in points], storage, prompt)
        grid = ProgressGrid(study.rows)
        for widget in self.grid.children:
            close_all(widget)
        self.grid.children = [grid.widget]
        self.study, self.is_busy, self.link.value, self._export_button.disabled = study, True, "", True
        self.enable()
        StudySection._stopped = stopped = threading.Event()
        work = self._preview.error.guard(self._make)
        threading.Thread(target=work, args=(study, grid, stopped), name="clipgen study", daemon=True).start()

    def _make(self, study: Study, grid: ProgressGrid, stopped: threading.Event) -> None:
        try:
            with closing(study.make()) as steps:
                for _ in steps:
                    grid.update()
                    if stopped.is_set():
                        break
        finally:
            grid.update(last=True)
            has_pictures = any(row.image for row in study.rows)
            self.is_busy, self._export_button.disabled = False, not has_pictures
            self.enable()
            best = f"; the best, by its score: {study.best().label}" if has_pictures else ""
            self.note.value = note(f"{'Done' if study.finished else 'Stopped'}{best}. Kept in {study.folder}")

    def _export(self) -> None:
        if self.study:
            page = self.study.export(self.study.folder / f"{self.study.folder.name}.html")
            self.link.value = download_link(page, "text/html")


def suggest_values(field: Field, value: Any) -> str:
    """Return some values for a setting that has the given one, as a person would write them."""
    facts = field.metadata
    if words := [word for word in facts["choices"] or common_values(field) if word]:
        return ", ".join(words[:4])
    if isinstance(field.default, bool):
        return "False, True"
    if field.name == "seed":
        return ", ".join(str(value + i) for i in range(4))
    if not isinstance(value, (int, float)):
        text = format_value(value)
        return f"{text};" if "," in text else text
    half = value // 2 if isinstance(field.default, int) else value / 2
    numbers = (half, value, 2 * value) if value else (0, 0.5, 1)
    allowed = [min(max(number, facts["low"]), facts["high"]) for number in numbers]
    return ", ".join(dict.fromkeys(f"{number:g}" for number in allowed))
