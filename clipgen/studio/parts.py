"""What ipywidgets does not have, or not as Colab draws it: uploads, a webcam, a brush, a dial, names, what folds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import traitlets

_HERE = Path(__file__).parent  # scripts are given as text: for changes of a path anywidget would hold every widget
# Scripts are given as text: of a path anywidget waits for changes, and holds every widget for that.


def hint(widget: Any, help: str) -> Any:
    """The widget with a tooltip. Colab draws few of them: what must be known stands on the page."""
    setattr(widget, "tooltip" if widget.has_trait("tooltip") else "description_tooltip", help)  # ipywidgets 8, 7
    return widget


def close_all(root: widgets.Widget) -> None:
    """Close a widget and all that it is made of: children, layouts, styles.

    To close it alone leaves these where ipywidgets knows them, and their channels to the page open, for good.
    """
    left, closed = [root], set[int]()
    while left:
        widget = left.pop()
        if id(widget) not in closed:
            closed.add(id(widget))
            for value in widget.trait_values(sync=True).values():
                parts = value if isinstance(value, (list, tuple)) else [value]
                left += [part for part in parts if isinstance(part, widgets.Widget)]
            if widget is not root:
                widget.close()
    widgets.Widget.close(root)


class Upload(anywidget.AnyWidget):
    """A button to choose a picture with; ``take(name, address)`` is given its file's name and itself as a data: URL.

    No FileUpload: Colab's front end sends another version's message, which ipywidgets 7 drops without a word.
    """

    _esm = (_HERE / "upload.js").read_text(encoding="utf-8")
    label = traitlets.Unicode().tag(sync=True)

    def __init__(self, label: str, take: Callable[[str, str], None]):
        super().__init__(label=label)
        self.on_msg(lambda _, content, __: take(content["name"], content["picture"]))
        self.add_class("clipgen-upload")


class Webcam(anywidget.AnyWidget):
    """``picture``: what was taken last, as a data: URL."""

    _esm = (_HERE / "webcam.js").read_text(encoding="utf-8")
    picture = traitlets.Unicode().tag(sync=True)


class Brush(anywidget.AnyWidget):
    """A picture to be painted on. ``ground``: the picture; ``mask``: white where it was painted; data: URLs."""

    _esm = (_HERE / "brush.js").read_text(encoding="utf-8")
    ground = traitlets.Unicode().tag(sync=True)
    mask = traitlets.Unicode().tag(sync=True)


class Access(anywidget.AnyWidget):
    """Nothing to see: gives sliders and pictures of the Studio that it stands in their names, for screen readers."""

    _esm = (_HERE / "access.js").read_text(encoding="utf-8")


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


class Dial(widgets.HBox):
    """A number on a slider, or in its place a field for what is no number: a schedule over the steps."""

    value = traitlets.Union([traitlets.Float(), traitlets.Unicode()])

    def __init__(self, description: str, help: str, low: float, high: float):
        self.slider = hint(widgets.FloatSlider(low, min=low, max=high, step=0.05, description=description), help)
        self.field = hint(widgets.Text(description=description, continuous_update=False), help)
        super().__init__([self.slider, self.field])
        for part in self.children:
            part.observe(self._moved, "value")
        self.observe(self._look, "value")
        self.value = low
        self._look()

    def _moved(self, change: Any) -> None:
        with suppress(ValueError):
            change = {"new": float(change["new"])}
        self.value = change["new"]

    def _look(self, _: Any = None) -> None:
        number = isinstance(self.value, float)
        if number:
            self.slider.max = max(self.slider.max, self.value)
            self.slider.min = min(self.slider.min, self.value)
        (self.slider if number else self.field).value = self.value
        self.slider.layout.display = "" if number else "none"
        self.field.layout.display = "none" if number else ""
