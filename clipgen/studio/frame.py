"""Sections about the shown frame: its file, a mask painted on it, what CLIP was shown of it, what CLIP reads in it."""

from __future__ import annotations

import html
import threading
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from clipgen.export.film import export
from clipgen.inspect.describe import describe
from clipgen.inspect.explain import explain
from clipgen.progress import Download, Stopped, listening
from clipgen.prompts import slug
from clipgen.registry import WRITERS
from clipgen.runs.output import export_frames, export_run
from clipgen.runs.run import Run
from clipgen.runs.saved import base_names
from clipgen.runs.spec import RunSpec
from clipgen.studio.controls import Controls
from clipgen.studio.parts import (
    Brush,
    Fold,
    button,
    download_link,
    hidden_image,
    html_widget,
    note,
    on_change,
    show,
    to_jpeg,
    to_url,
)
from clipgen.studio.preview import Preview

SHEET_SIDE = 1024  # pixels of the longer side of the sheet of cutouts


class ExportSection(widgets.VBox):
    """Writes the film, or as a picture the shown frame, into the run's folder, with a link to it."""

    def __init__(self, preview: Preview):
        self._preview = preview
        suffixes = sorted(WRITERS, key=lambda suffix: not WRITERS[suffix].film)  # films first
        options = [(suffix.removeprefix(".").upper(), suffix) for suffix in suffixes]
        self._format = widgets.Dropdown(options=options, description="Format")
        self.button = button("Export", preview.error.guard(self._export), "download")
        self.link = html_widget("download")
        super().__init__([widgets.HBox([self._format, self.button]), self.link])

    def _export(self) -> None:
        journal, step = self._preview.position
        writer = WRITERS[self._format.value]
        file = journal.folder / (slug(journal.settings["prompt"]) + self._format.value)
        if writer.film:
            export_run(journal, file)
        else:
            pictures = export_frames(journal, file, [step]) if writer.vectors else [self._preview.picture]
            export(pictures, file, base_names(journal.history), scores=[self._preview.row])
        self.link.value = download_link(file, writer.mime)


class MaskPainter:
    """A brush in the place of the preview, while ``button`` is pressed; what it paints is the setting ``mask``."""

    def __init__(self, preview: Preview, controls: Controls):
        self._preview, self._controls = preview, controls
        tooltip = "From then on the run paints only there"
        self.button = widgets.ToggleButton(description="Paint a mask", icon="paint-brush", tooltip=tooltip)
        self._brush = Brush(layout={"display": "none"})
        on_change(preview.error.guard(self._toggle), self.button)
        on_change(preview.error.guard(self._set_mask), self._brush, trait="mask")
        preview.screen.children = [preview.image, self._brush]

    def _toggle(self) -> None:
        is_painting = self.button.value
        if is_painting:
            self._brush.ground = to_url(to_jpeg(self._preview.picture, 512), "image/jpeg")
        show(self._brush, is_painting)
        show(self._preview.image, not is_painting)

    def _set_mask(self) -> None:
        if self._brush.mask:
            self._controls.mask.put("mask.png", self._brush.mask)
        else:
            self._controls.put({"mask": ""})


class CutoutsSection(Fold):
    """A sheet of the cutouts that CLIP was shown in the step of the shown frame, made in a thread of its own."""

    stopping = False  # whether nobody waits for it any more; read by downloads, too
    download: Download | None = None  # set by ``listening``

    def __init__(self, preview: Preview):
        self._preview = preview
        self.is_busy = False
        self._run: Run | None = None  # whose cutouts were shown last
        self.show_button = button("Show the cutouts", preview.error.guard(self._begin), "eye")
        self.note, self.image = html_widget("help"), hidden_image("views")
        super().__init__("What CLIP sees", [self.show_button, self.note, self.image])
        self.note.value = note(
            "The cutouts of the shown frame's step, each with its score and its share of the gradient."
        )

    def enable(self) -> None:
        """Enable the button if there is a frame and no sheet is being made."""
        self.show_button.disabled = self.is_busy or self._preview.journal is None

    def _begin(self) -> None:
        journal, step = self._preview.position
        self.is_busy = True
        self.enable()
        self.note.value = note(f"Repeating the steps to {step}…")
        work = self._preview.error.guard(self._make_sheet)
        threading.Thread(target=work, args=(journal.folder, step), name="clipgen views", daemon=True).start()

    def _make_sheet(self, folder: Path, step: int) -> None:
        text = ""
        try:
            with listening(self):
                report = self._load_run(folder).views(step, progress=False)
            self._preview.send_image(self.image, to_jpeg(report.sheet(), SHEET_SIDE))
            show(self.image)
            text = f"Step {step}: {len(report.views)} cutouts, CLIP score {report.score:.3f}"
        except Stopped:
            self._run = None
        finally:
            self.note.value = note(text)
            self.is_busy = False
            self.enable()

    def _load_run(self, folder: Path) -> Run:
        """Return the run of a folder: the newest, the one shown last, or one that is loaded, with shared models."""
        newest = self._preview.newest_run
        for run in (newest, self._run):
            if run and run.journal.folder == folder:
                return run
        self._run = Run(RunSpec.resume(folder), like=newest)
        return self._run


class WordsSection(Fold):
    """While it is open, the words of the shown frame stand under the timeline, and a text can be found in the frame.

    The run's own CLIP reads it, or for an earlier run mini CLIP.
    """

    def __init__(self, preview: Preview):
        self._preview = preview
        self.words = html_widget("words", layout={"display": "none"})
        self._text = widgets.Text(description="Find", placeholder="what to look for in the frame: apple")
        self._text.add_class("clipgen-sought")
        self._find = widgets.ToggleButton(description="Show it", icon="search")
        self.map = hidden_image("where")
        preview.under.children = [*preview.under.children, self.words]
        super().__init__("What CLIP reads in this frame", [widgets.HBox([self._text, self._find]), self.map])
        on_change(preview.error.guard(self._read), self.button, self._find, self._text, preview.image)

    def _read(self) -> None:
        preview, text = self._preview, self._find.value and self._text.value.strip()
        show(self.map, text)
        show(self.words, self.button.value)
        if not (self.button.value and preview.journal):
            return
        journal, step = preview.position
        run, reader, options = preview.newest_run, "mini", dict[str, Any]()
        if run and run.journal is journal:
            perceptor = run.models.perceptors[0][0]
            reader, options = perceptor.name, {"perceptor": perceptor}
        words = describe(preview.picture, **options)
        origin = f"step {step}, as {html.escape(reader)} sees it; cosine {words.cosine:.2f}"
        self.words.value = f"<b>{html.escape(str(words))}</b> <small>{origin}</small>"
        if text:
            self.map.value = to_jpeg(explain(preview.picture, text, **options).overlay, 512)
