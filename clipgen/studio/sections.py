"""Sections about the shown frame: its file, a mask, what CLIP was shown and reads in it."""

import html
import mimetypes
import sys
import threading
from pathlib import Path

import ipywidgets as widgets

from clipgen.errors import ClipgenError
from clipgen.export import export
from clipgen.export.html import to_url
from clipgen.inspect.describe import describe
from clipgen.inspect.explain import explain
from clipgen.progress import Listener, Stopped, listening
from clipgen.prompts import slug
from clipgen.registry import WRITERS
from clipgen.runs.frames import export_frames, export_run
from clipgen.runs.inputs import strip_paths
from clipgen.runs.run import Run
from clipgen.runs.spec import RunSpec
from clipgen.studio.controls import Controls
from clipgen.studio.parts import Brush, Fold, button, hidden_image, html_widget, note, on_change, show, to_jpeg
from clipgen.studio.preview import Preview

SHEET_SIDE = 1024  # pixels of the longer side of the sheet of cutouts
MAX_LINK_BYTES = 2_000_000  # of a file in a link: Jupyter drops messages above 3 MB in 3 seconds


class ExportSection(widgets.VBox):
    """Writes the film, or as a picture the shown frame, into the run's folder, with a link to it."""

    def __init__(self, preview: Preview):
        self._preview = preview
        suffixes = sorted(WRITERS, key=lambda suffix: not WRITERS[suffix].is_animated)  # films first
        options = [(suffix.removeprefix(".").upper(), suffix) for suffix in suffixes]
        self._format = widgets.Dropdown(options=options, description="Format")
        self.button = button("Export", preview.error.guard(self._export), "download")
        self.link = html_widget("download")
        super().__init__([widgets.HBox([self._format, self.button]), self.link])

    def _export(self) -> None:
        self.link.value = ""
        journal, _ = self._preview.position
        writer = WRITERS[self._format.value]
        file = journal.folder / (slug(journal.settings["prompt"]) + self._format.value)
        if writer.is_animated:
            export_run(journal, file)
        else:
            row = self._preview.row
            pictures = export_frames(journal, file, [row]) if writer.takes_drawings else [self._preview.picture]
            export(pictures, file, strip_paths(journal.settings_and_changes), scores=[row])
        self.link.value = download_link(file)


def download_link(file: Path) -> str:
    """Return a link to a file as HTML, or its path if it is too large for one; Colab downloads the file at once."""
    if "google.colab" in sys.modules:
        from google.colab import files

        files.download(str(file))
    path = f"<small>{html.escape(file.as_posix())}</small>"
    if file.stat().st_size > MAX_LINK_BYTES:
        return f"{path} is written; it is too large for a link"
    mime, _ = mimetypes.guess_type(file.name, strict=False)  # not strict: Python 3.12 knows no WebP otherwise
    return f'<a download="{file.name}" href="{to_url(file.read_bytes(), mime or "")}">Download {file.name}</a> {path}'


class MaskPainter:
    """A brush in the place of the preview, while ``button`` is pressed; what it paints is the setting ``mask``."""

    def __init__(self, preview: Preview, controls: Controls):
        self._preview, self._controls = preview, controls
        tooltip = "Restrict painting to the masked area"
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


class CutoutsSection(Fold, Listener):
    """A sheet of the cutouts that CLIP was shown in the step of the shown frame, made in a thread of its own."""

    def __init__(self, preview: Preview):
        self._preview = preview
        self.is_busy = False
        self._run: Run | None = None  # whose cutouts were shown last
        self.show_button = button("Show the cutouts", preview.error.guard(self._begin), "eye")
        text = "The cutouts of the shown frame's step, each with its score and its share of the gradient."
        self.note, self.image = html_widget("help", note(text)), hidden_image("views")
        super().__init__("What CLIP sees", [self.show_button, self.note, self.image])

    def enable(self) -> None:
        """Enable the button if there is a frame and no sheet is being made."""
        self.show_button.disabled = self.is_busy or self._preview.journal is None

    def _begin(self) -> None:
        journal, step = self._preview.position
        if not step:
            raise ClipgenError("CLIP has not seen the draft; move the timeline to one of its steps")
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
        self._run = Run(RunSpec.open(folder, resume=True), like=newest)
        return self._run


class WordsSection(Fold):
    """While it is open, the words of the shown frame stand under the timeline, and a text can be found in the frame.

    The run's own CLIP reads it, or for an earlier run mini CLIP.
    """

    def __init__(self, preview: Preview):
        self._preview = preview
        self.words = html_widget("words")
        self._text = widgets.Text(description="Find", placeholder="what to look for in the frame: apple")
        self._text.add_class("clipgen-sought")
        self._find = widgets.ToggleButton(description="Show it", icon="search")
        self.map = hidden_image("where")
        show(self.words, False)
        preview.below_timeline.children = [*preview.below_timeline.children, self.words]
        super().__init__("What CLIP reads in this frame", [widgets.HBox([self._text, self._find]), self.map])
        on_change(preview.error.guard(self._read), self.button, self._find, self._text, preview.image)

    def _read(self) -> None:
        preview, text = self._preview, self._find.value and self._text.value.strip()
        show(self.map, text)
        show(self.words, self.button.value)
        if not (self.button.value and preview.journal):
            return
        journal, step = preview.position
        run, perceptor, name = preview.newest_run, None, "mini"
        if run and run.journal is journal:
            perceptor = run.models.perceptors[0][0]
            name = perceptor.name
        words = describe(preview.picture, perceptor=perceptor)
        origin = f"{'step ' * (step > 0)}{step or 'draft'}, as {html.escape(name)} sees it; cosine {words.cosine:.2f}"
        self.words.value = f"<b>{html.escape(str(words))}</b> <small>{origin}</small>"
        if text:
            self.map.value = to_jpeg(explain(preview.picture, text, perceptor).overlay, 512)
