"""Widgets that ipywidgets lacks, or that Colab does not draw, and the pictures that come in through them."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import math
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import numpy as np
import traitlets
from PIL import Image

from clipgen.errors import ClipgenError
from clipgen.images.reading import to_picture
from clipgen.prompts import slug

MAX_LINK_BYTES = 2_000_000  # of a file in a link: Jupyter drops messages above 3 MB in 3 seconds


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


def html_widget(name: str, text: str = "", **options: Any) -> widgets.HTML:
    """Return an HTML widget of the CSS class ``clipgen-name``."""
    return widgets.HTML(text, **options).add_class(f"clipgen-{name}")


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
    """Close a widget and all that it is made of: children, layouts, styles.

    Closing it alone leaves these, and their channels to the page, open for good.
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


class ErrorMessage(widgets.HTML):
    """The place where errors of callbacks are shown."""

    def __init__(self) -> None:
        super().__init__()
        self.add_class("clipgen-error")

    def show(self, error: BaseException | None) -> None:
        """Show an error, or none: what a person can mend as it is, anything else with its traceback folded away."""
        if error is None:
            self.value = ""
            return
        is_mendable = isinstance(error, ClipgenError)
        text = html.escape(str(error) if is_mendable else f"{type(error).__name__}: {error}")
        self.value = f'<div role="alert">{text}</div>'
        if not is_mendable:
            lines = html.escape("".join(traceback.format_exception(error)))
            self.value += f"<details><summary>Traceback</summary><pre>{lines}</pre></details>"

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
    """A button to choose a picture; ``take(name, url)`` gets its file's name and its content as a data: URL.

    No FileUpload: Colab's front end sends another version's message, which ipywidgets 7 drops without a word.
    """

    _esm = script("upload.js")
    label = traitlets.Unicode().tag(sync=True)

    def __init__(self, label: str, take: Callable[[str, str], None]):
        super().__init__(label=label)
        self.on_msg(lambda _, content, __: take(content["name"], content["picture"]))
        self.add_class("clipgen-upload")


class Webcam(anywidget.AnyWidget):
    """A camera; ``picture`` is the newest photograph as a data: URL."""

    _esm = script("webcam.js")
    picture = traitlets.Unicode().tag(sync=True)


class Brush(anywidget.AnyWidget):
    """A picture to paint on, ``ground``; ``mask`` is white where it was painted. Both are data: URLs."""

    _esm = script("brush.js")
    ground = traitlets.Unicode().tag(sync=True)
    mask = traitlets.Unicode().tag(sync=True)


class Access(anywidget.AnyWidget):
    """Nothing to see: names the sliders and pictures of its Studio for screen readers."""

    _esm = script("access.js")


class Picker(widgets.HBox):
    """An upload button for a text that may name a picture, and a thumbnail of what it names.

    ``write`` turns the path of a picture into the text, ``read`` the text into the path.
    """

    def __init__(
        self,
        text: widgets.Text,
        folder: Path,
        error: ErrorMessage,
        label: str,
        write: Callable[[str], str] = str,
        read: Callable[[str], str] = str,
    ):
        self._text, self._folder, self._write, self._read = text, folder, write, read
        self.upload = Upload(label, error.guard(self.put))
        self.thumbnail = widgets.Image(format="jpeg", layout={"height": "32px", "display": "none"})
        super().__init__([self.upload, self.thumbnail])
        self.add_class("clipgen-picker")
        on_change(self._draw_thumbnail, text)
        self._draw_thumbnail()

    def put(self, name: str, url: str) -> None:
        """Save the picture of a data: URL, and name it in the text."""
        self._text.value = self._write(save_input(self._folder, name, from_url(url)))

    def _draw_thumbnail(self) -> None:
        file = Path(self._read(self._text.value))
        self.thumbnail.value = b""
        with suppress(ClipgenError, OSError, ValueError):  # reported when the run reads it
            if file.suffix and file.is_file():
                self.thumbnail.value = to_jpeg(to_picture(file), 64)
        show(self.thumbnail, self.thumbnail.value)


def save_input(folder: Path, name: str, value: bytes | Image.Image | np.ndarray) -> str:
    """Write a picture, the bytes of its file, or a latent below ``folder``/uploads; return the path.

    Raises ClipgenError for bytes that are no picture, and for a folder that cannot be written.
    """
    if isinstance(value, bytes):
        value = to_picture(value)
    out, suffix = io.BytesIO(), ".png"
    if isinstance(value, Image.Image):
        value.save(out, "PNG")
    else:
        suffix = ".npy"
        np.save(out, value, allow_pickle=False)
    digest = hashlib.sha256(out.getvalue()).hexdigest()[:8]
    path = folder / "uploads" / f"{slug(Path(name).stem, 30)}-{digest}{suffix}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(out.getvalue())
    except OSError as error:
        raise ClipgenError(f"folder={str(folder)!r}: {error.strerror}; choose a folder that can be written") from error
    return path.as_posix()


def to_url(data: bytes, mime: str) -> str:
    """Return bytes as a data: URL; ``mime`` is a type such as image/png."""
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def from_url(url: str) -> bytes:
    """Return the bytes of a data: URL."""
    return base64.b64decode(url.partition(",")[2])


def to_jpeg(picture: Image.Image, max_side: int, max_bytes: float = math.inf) -> bytes:
    """Return a picture as JPEG, scaled down to ``max_side`` pixels a side, and coarser above ``max_bytes``.

    At this quality a WebP is a quarter smaller, and takes ten times as long to make.
    """
    picture = picture.convert("RGB")
    picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    for quality in (85, 60, 30):
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=quality, subsampling=0)
        if out.tell() <= max_bytes:
            break
    return out.getvalue()


def download_link(file: Path, mime: str) -> str:
    """Return a link to a file as HTML, or its path if it is too large for one; Colab downloads the file at once."""
    if "google.colab" in sys.modules:
        from google.colab import files

        files.download(str(file))
    path = f"<small>{html.escape(file.as_posix())}</small>"
    if file.stat().st_size > MAX_LINK_BYTES:
        return f"{path} is written; it is too large for a link"
    return f'<a download="{file.name}" href="{to_url(file.read_bytes(), mime)}">Download {file.name}</a> {path}'
