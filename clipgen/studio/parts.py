"""The parts of the page that ipywidgets does not have: a webcam, and a brush for masks."""

from __future__ import annotations

from pathlib import Path

import anywidget
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
