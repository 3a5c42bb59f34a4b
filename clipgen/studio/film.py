"""What can be made of the shown film: files to download, and a mask painted on its frame."""

from __future__ import annotations

import html
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from clipgen.export.film import export
from clipgen.prompts import slug
from clipgen.registry import WRITERS
from clipgen.runs.course import write
from clipgen.runs.drawings import frames
from clipgen.runs.saved import base_names
from clipgen.studio.parts import Brush
from clipgen.studio.pictures import encode, from_url, to_url
from clipgen.studio.preview import Preview

LINKED = 2_000_000  # bytes of a file in a link: Jupyter drops messages above 3 MB in 3 seconds


class Exporter(widgets.VBox):
    """Writes the shown film (as a picture the shown frame) beside the frames of its run, and offers it as a link."""

    def __init__(self, preview: Preview, guard: Callable):
        self._preview = preview
        suffixes = sorted(WRITERS, key=lambda suffix: not WRITERS[suffix].film)  # films first
        named = [(suffix.removeprefix(".").upper(), suffix) for suffix in suffixes]
        self._format = widgets.Dropdown(options=named, description="Format")
        self.button = widgets.Button(description="Export", icon="download")
        self.button.on_click(guard(self._export))
        self.link = widgets.HTML().add_class("clipgen-download")
        super().__init__([widgets.HBox([self._format, self.button]), self.link])

    def _export(self, _: Any) -> None:
        journal, step = self._preview.shown
        writer = WRITERS[self._format.value]
        name = slug(journal.settings["prompt"]) + self._format.value
        if writer.film:
            file = write(journal, journal.folder / name)
        else:
            made = frames(journal, name, [step]) if writer.vectors else [self._preview.picture]
            file = export(made, journal.folder / name, base_names(journal.history), scores=[self._preview.row])
        self.link.value = offered(file, writer.mime)


def offered(file: Path, mime: str) -> str:
    """A link to a file as HTML, or only where it is, if it is too large for one; Colab downloads it at once."""
    if "google.colab" in sys.modules:
        from google.colab import files

        files.download(str(file))
    where = f"<small>{html.escape(file.as_posix())}</small>"
    if file.stat().st_size > LINKED:
        return f"{where} is written; it is too large for a link"
    return f'<a download="{file.name}" href="{to_url(file.read_bytes(), mime)}">Download {file.name}</a> {where}'


class Painter:
    """A brush in the place of the preview, while ``button`` is pressed.

    ``put(name, data)`` is given every mask that is painted; ``clear()`` is called when it is wiped off.
    """

    def __init__(self, preview: Preview, put: Callable[[str, bytes], None], clear: Callable[[], None], guard: Callable):
        self._preview, self._put, self._clear = preview, put, clear
        tooltip = "Only there the run paints from then on"
        self.button = widgets.ToggleButton(description="Paint a mask", icon="paint-brush", tooltip=tooltip)
        self.button.observe(guard(self._toggle), "value")
        self.brush = Brush(layout={"display": "none"})
        self.brush.observe(guard(self._painted), "mask")
        preview.screen.children = [preview.image, self.brush]

    def _toggle(self, change: Any) -> None:
        if change["new"]:
            self.brush.ground = to_url(encode(self._preview.picture, 512), "image/jpeg")
        self.brush.layout.display = "" if change["new"] else "none"
        self._preview.image.layout.display = "none" if change["new"] else ""

    def _painted(self, change: Any) -> None:
        if change["new"]:
            self._put("mask.png", from_url(change["new"]))
        else:
            self._clear()
