"""The parts of the page that ipywidgets does not have: a webcam, a brush for masks, and what can be folded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import traitlets

_HERE = Path(__file__).parent


class Webcam(anywidget.AnyWidget):
    """``picture``: what was taken last, as a data: URL."""

    _esm = _HERE / "webcam.js"
    picture = traitlets.Unicode().tag(sync=True)


class Brush(anywidget.AnyWidget):
    """A picture to be painted on. ``ground``: the picture; ``mask``: white where it was painted; data: URLs."""

    _esm = _HERE / "brush.js"
    ground = traitlets.Unicode().tag(sync=True)
    mask = traitlets.Unicode().tag(sync=True)


class Fold(widgets.VBox):
    """Widgets behind a button that shows and hides them.

    Neither an Accordion nor a Tab: Colab draws none once it draws anywidgets (googlecolab/colabtools#3571, #3105).
    """

    def __init__(self, heading: str, children: Sequence[widgets.Widget]):
        self.button = widgets.ToggleButton(description=heading)
        self._box = widgets.VBox(children)
        self.button.observe(self._look, "value")
        super().__init__([self.button, self._box])
        self.add_class("clipgen-fold")
        self._look()

    def _look(self, _: Any = None) -> None:
        shown = self.button.value
        self.button.icon = "caret-down" if shown else "caret-right"
        self.button.tooltip = "Open; press to close" if shown else "Closed; press to open"
        self._box.layout.display = "" if shown else "none"
