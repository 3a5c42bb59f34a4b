"""Widgets that ipywidgets lacks, or that Colab does not draw: folds, dials, uploads, prompt rows."""

import base64
import hashlib
import html
import io
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import numpy as np
import traitlets
from PIL import Image

from clipgen.errors import ClipgenError, explain_os_errors
from clipgen.images.reading import to_picture
from clipgen.prompts import Prompt, format_prompt, parse_parts, slug

MAX_WEIGHT = 5.0  # of the slider of a prompt row


def script(name: str) -> str:
    """Return a script of this folder as text: anywidget watches a path for changes, and keeps every widget alive."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def button(label: str, action: Callable[[], Any], icon: str = "", **options: Any) -> widgets.Button:
    """Return a button that calls ``action`` without arguments."""
    widget = widgets.Button(description=label, icon=icon, **options)
    widget.on_click(lambda _: action())
    return widget


def on_change(action: Callable[[], Any], *parts: widgets.Widget, trait: str = "value") -> None:
    """Call ``action`` without arguments whenever the value of one of the widgets changes."""
    for part in parts:
        part.observe(lambda _: action(), trait)


def html_widget(name: str, text: str = "") -> widgets.HTML:
    """Return an HTML widget of the CSS class ``clipgen-name``."""
    return widgets.HTML(text).add_class(f"clipgen-{name}")


def hidden_image(name: str) -> widgets.Image:
    """Return an image of the CSS class ``clipgen-name`` that is hidden until ``show`` shows it."""
    return widgets.Image(format="jpeg", layout={"display": "none"}).add_class(f"clipgen-{name}")


def show(widget: widgets.Widget, visible: Any = True) -> None:
    """Show or hide a widget."""
    widget.layout.display = "" if visible else "none"


def note(text: str) -> str:
    """Return a text as small HTML that screen readers announce."""
    return f'<small role="status">{html.escape(text)}</small>'


def add_tooltip(widget: Any, text: str) -> Any:
    """Return the widget with a tooltip. Colab draws few of them: what must be known stands on the page."""
    setattr(widget, "tooltip" if widget.has_trait("tooltip") else "description_tooltip", text)  # ipywidgets 8, 7
    return widget


def close_all(root: widgets.Widget) -> None:
    """Close a widget and its children, layouts and styles, whose channels to the page would stay open otherwise."""
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


class ErrorMessage(widgets.HTML):
    """The place where errors of callbacks are shown."""

    def __init__(self) -> None:
        super().__init__()
        self.add_class("clipgen-error")

    def show(self, error: BaseException | None) -> None:
        """Show an error, or none: a ClipgenError as it is, anything else with its traceback folded away."""
        if error is None:
            self.value = ""
        elif isinstance(error, ClipgenError):
            self.value = f'<div role="alert">{html.escape(str(error))}</div>'
        else:
            text, lines = f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error))
            self.value = (
                f'<div role="alert">{html.escape(text)}</div>'
                f"<details><summary>Traceback</summary><pre>{html.escape(lines)}</pre></details>"
            )

    def guard(self, action: Callable[..., Any]) -> Callable[..., None]:
        """Return the function, with its errors shown here."""

        def guarded(*values: Any) -> None:
            try:
                action(*values)
            except Exception as error:
                self.show(error)

        return guarded


class Fold(widgets.VBox):
    """Widgets behind a button that shows and hides them.

    Neither an Accordion nor a Tab: Colab draws none once it draws anywidgets (googlecolab/colabtools#3571, #3105).
    """

    def __init__(self, heading: str, children: Sequence[widgets.Widget]):
        self.button = widgets.ToggleButton(description=heading)
        self._box = widgets.VBox(children)
        on_change(self._toggle, self.button)
        super().__init__([self.button, self._box])
        self.add_class("clipgen-fold")
        self._toggle()

    def _toggle(self) -> None:
        is_open = self.button.value
        self.button.icon = "caret-down" if is_open else "caret-right"
        self.button.tooltip = "Open; press to close" if is_open else "Closed; press to open"
        show(self._box, is_open)


class Dial(widgets.HBox):
    """A number on a slider, or, for a schedule over the steps, a text field in the slider's place."""

    value = traitlets.Union([traitlets.Float(), traitlets.Unicode()])

    def __init__(self, description: str, help: str, low: float, high: float):
        self.slider = add_tooltip(widgets.FloatSlider(low, min=low, max=high, step=0.05, description=description), help)
        self.field = add_tooltip(widgets.Text(description=description, continuous_update=False), help)
        super().__init__([self.slider, self.field])
        for part in self.children:
            part.observe(self._read, "value")
        on_change(self._draw, self)
        self.value = low
        self._draw()

    def _read(self, change: Any) -> None:
        value = change["new"]
        with suppress(ValueError):
            value = float(value)
        self.value = value

    def _draw(self) -> None:
        is_number = isinstance(self.value, float)
        if is_number:
            self.slider.max = max(self.slider.max, self.value)
            self.slider.min = min(self.slider.min, self.value)
        (self.slider if is_number else self.field).value = self.value
        show(self.slider, is_number)
        show(self.field, not is_number)


class Upload(anywidget.AnyWidget):
    """A button to choose a picture, which is saved below a folder; ``write`` turns its path into the value of ``text``.

    No FileUpload: Colab's front end sends another version's message, which ipywidgets 7 drops without a word.
    """

    _esm = script("upload.js")
    label = traitlets.Unicode().tag(sync=True)

    def __init__(
        self, label: str, text: widgets.Text, folder: Path, error: ErrorMessage, write: Callable[[str], str] = str
    ):
        super().__init__(label=label)
        self._text, self._folder, self._write = text, folder, write
        self.on_msg(error.guard(lambda _, content, __: self.put(content["name"], content["picture"])))
        self.add_class("clipgen-upload")

    def put(self, name: str, url: str) -> None:
        """Save the picture of a data: URL, and name it in the text."""
        picture = base64.b64decode(url.partition(",")[2])
        self._text.value = self._write(save_input(self._folder, name, picture))

    def __repr__(self) -> str:
        return f"Upload({self.label!r})"


class Webcam(anywidget.AnyWidget):
    """A camera; ``picture`` is the newest photograph as a data: URL."""

    _esm = script("webcam.js")
    picture = traitlets.Unicode().tag(sync=True)

    def __repr__(self) -> str:
        return "Webcam()"


class Brush(anywidget.AnyWidget):
    """A picture to paint on, ``ground``; ``mask`` is white where it was painted. Both are data: URLs."""

    _esm = script("brush.js")
    ground = traitlets.Unicode().tag(sync=True)
    mask = traitlets.Unicode().tag(sync=True)


class Access(anywidget.AnyWidget):
    """Names the sliders and pictures of its Studio for screen readers; nothing is drawn."""

    _esm = script("access.js")


class PromptRows(widgets.VBox):
    """All prompt rows; ``line`` is the prompt that they make together."""

    def __init__(self, line: str, folder: Path, error: ErrorMessage, on_enter: Callable[[], None]):
        self.folder, self.error, self.on_enter = folder, error, on_enter
        self._rows: list[PromptRow] = []
        self._add = button("Add prompt", lambda: self._show([*self._rows, PromptRow(Prompt(""), self)]), "plus")
        super().__init__()
        self.line = line

    @property
    def line(self) -> str:
        """The prompts in the grammar. Raises ClipgenError for numbers that are not weights."""
        return " | ".join(row.line for row in self._rows if row.text.value.strip())

    @line.setter
    def line(self, line: str) -> None:
        self._show([PromptRow(prompt, self) for prompt in parse_parts(line)])

    def remove(self, row: "PromptRow") -> None:
        """Take a row away."""
        self._show([other for other in self._rows if other is not row])

    def _show(self, rows: "list[PromptRow]") -> None:
        removed, self._rows = [row for row in self._rows if row not in rows], rows
        for number, row in enumerate(rows, 1):
            row.set_number(number)
        self.children = [*rows, self._add]
        for row in removed:
            close_all(row)


class PromptRow(widgets.VBox):
    """A prompt, its weight and an upload button for a picture in its place."""

    def __init__(self, prompt: Prompt, rows: PromptRows):
        fits_slider = abs(prompt.weight) <= MAX_WEIGHT and round(prompt.weight, 1) == prompt.weight
        text = format_prompt(replace(prompt, weight=1.0) if fits_slider else prompt)
        weight = prompt.weight if fits_slider else 1.0
        self.text = widgets.Text(text, placeholder="what you want to see, or a picture's path or address")
        self.weight = widgets.FloatSlider(weight, min=-MAX_WEIGHT, max=MAX_WEIGHT, step=0.1, readout_format=".1f")
        add_tooltip(self.weight, "how much this prompt counts; negative values repel")
        self._remove = button("Remove", lambda: rows.remove(self))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the value alone does not say that it was Enter
            self.text.on_submit(lambda _: rows.on_enter())
        upload = Upload("Picture", self.text, rows.folder, rows.error, lambda path: format_prompt(Prompt(path)))
        super().__init__([widgets.HBox([self.text, self._remove]), widgets.HBox([self.weight, upload])])
        self.add_class("clipgen-row")

    @property
    def line(self) -> str:
        """The text, with every weight in it times that of the slider."""
        if self.weight.value == 1:
            return self.text.value.strip()
        prompts = parse_parts(self.text.value)
        return " | ".join(format_prompt(replace(one, weight=one.weight * self.weight.value)) for one in prompts)

    def set_number(self, number: int) -> None:
        """Label the row with its number, from 1; the first cannot be removed."""
        self.text.description, self.weight.description = f"Prompt {number}", f"Weight {number}"
        self._remove.tooltip = f"Remove prompt {number}"
        show(self._remove, number > 1)


def save_input(folder: Path, name: str, value: bytes | Image.Image | np.ndarray) -> str:
    """Write a picture, the bytes of its file, or a latent below ``folder``/uploads; return the path.

    Raises ClipgenError for bytes that are not a picture, and for a folder that cannot be written.
    """
    out, suffix = io.BytesIO(), ".npy" if isinstance(value, np.ndarray) else ".png"
    if isinstance(value, np.ndarray):
        np.save(out, value, allow_pickle=False)
    else:
        to_picture(value).save(out, "PNG")
    digest = hashlib.sha256(out.getvalue()).hexdigest()[:8]
    path = folder / "uploads" / f"{slug(Path(name).stem, 30)}-{digest}{suffix}"
    with explain_os_errors("folder", folder, "choose another one"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(out.getvalue())
    return path.as_posix()


def to_jpeg(picture: Image.Image, max_side: int) -> bytes:
    """Return a picture as JPEG, scaled down to ``max_side`` pixels a side.

    At this quality a WebP is a quarter smaller, and takes ten times as long to make.
    """
    picture, out = picture.convert("RGB"), io.BytesIO()
    picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    picture.save(out, "JPEG", quality=85, subsampling=0)
    return out.getvalue()
