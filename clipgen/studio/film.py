"""What can be made of the shown film: files to download, and a mask painted on its frame."""

from __future__ import annotations

import html
import sys
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from clipgen.export import export
from clipgen.prompts import slug
from clipgen.studio.parts import Brush
from clipgen.studio.pictures import encode, from_url, to_url
from clipgen.studio.preview import Preview

LINKED = 2_000_000  # bytes of a file in a link: Jupyter drops messages above 3 MB in 3 seconds
KINDS = {"GIF": "image/gif", "MP4": "video/mp4", "WebP": "image/webp", "PNG": "image/png"}


class Exporter(widgets.VBox):
    """Writes the shown film (as PNG the shown frame) beside the frames of its run, and offers it as a link."""

    def __init__(self, preview: Preview, guard: Callable):
        self._preview = preview
        self._format = widgets.Dropdown(options=list(KINDS), description="Format")
        self.button = widgets.Button(description="Export", icon="download")
        self.button.on_click(guard(self._export))
        self.link = widgets.HTML().add_class("clipgen-download")
        super().__init__([widgets.HBox([self._format, self.button]), self.link])

    def _export(self, _: Any) -> None:
        journal, _ = self._preview.shown
        name = f"{slug(journal.settings['prompt'])}.{self._format.value.lower()}"
        frames = [self._preview.picture] if self._format.value == "PNG" else journal.frames()
        file = export(frames, journal.folder / name, journal.history)
        where = f"<small>{html.escape(file.as_posix())}</small>"
        if file.stat().st_size > LINKED:
            self.link.value = f"{where} is written; it is too large for a link"
        else:
            address = to_url(file.read_bytes(), KINDS[self._format.value])
            self.link.value = f'<a download="{name}" href="{address}">Download {name}</a> {where}'
        if "google.colab" in sys.modules:
            from google.colab import files

            files.download(str(file))


class Painter:
    """A brush in the place of the preview, while ``button`` is pressed.

    ``put(name, data)`` is given every mask that is painted; ``clear()`` is called when it is wiped off.
    """

    def __init__(self, preview: Preview, put: Callable[[str, bytes], None], clear: Callable[[], None], guard: Callable):
        self._preview, self._put, self._clear = preview, put, clear
        self.button = widgets.ToggleButton(description="Paint a mask", icon="paint-brush",
                                           tooltip="Only there the run paints from then on")  # fmt: skip
        self.button.observe(guard(self._toggle), "value")
        self.brush = Brush(layout={"display": "none"})
        self.brush.observe(guard(self._painted), "mask")
        preview.screen.children = [preview.image, self.brush]

    def _toggle(self, change: Any) -> None:
        if change["new"]:
            self.brush.ground = to_url(encode(self._preview.picture, 512), "image/webp")
        self.brush.layout.display = "" if change["new"] else "none"
        self._preview.image.layout.display = "none" if change["new"] else ""

    def _painted(self, change: Any) -> None:
        if change["new"]:
            self._put("mask.png", from_url(change["new"]))
        else:
            self._clear()
