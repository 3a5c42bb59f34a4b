"""A Studio without a page, used as a person would: found by name, clicked, waited for."""

from __future__ import annotations

import io
import time

import ipywidgets as widgets
import pytest
from PIL import Image

from clipgen.export.html import to_url
from clipgen.studio.controls import label_of
from clipgen.studio.parts import Dial, Upload

COLABS = widgets.__version__.startswith("7.")  # ipywidgets as Colab has it
SMALL = {"size": (64, 64), "cutouts": 4, "every": 1}


def until(true, what):
    """Wait for something that another thread does."""
    for _ in range(1200):
        if true():
            return
        time.sleep(0.05)
    pytest.fail(f"never happened: {what}")


def below(widget):
    """A widget and everything in it."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from below(child)


def named(widget, name):
    """The widgets with this description."""
    return [part for part in below(widget) if getattr(part, "description", None) == name]


def parts(widget, kind):
    return [part for part in below(widget) if isinstance(part, kind)]


def click(studio, name):
    named(studio, name)[0].click()


def control(controls, name):
    """The widget of a setting, by its label."""
    word = label_of(name)
    dials = [dial for dial in parts(controls, Dial) if dial.slider.description == word]
    (widget,) = dials or named(controls, word)
    return widget


def put(studio, **values):
    """Set the widgets of these settings."""
    for name, value in values.items():
        widget = control(studio.controls, name)
        widget.value = str(value) if isinstance(widget, widgets.Text) else value


def running(studio, steps=5000):
    """A run that goes on until it is stopped, with a frame on the screen."""
    put(studio, steps=steps)
    click(studio, "Generate")
    until(lambda: studio.preview.timeline.max > 2, "frames")
    return studio.job.run


def png(picture):
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def blue(size=(48, 32)):
    return png(Image.new("RGB", size, (20, 60, 220)))


def upload(widget, name, content):
    """What upload.js sends after a file was chosen."""
    (button,) = parts(widget, Upload)
    button._handle_custom_msg({"name": name, "picture": to_url(content, "image/png")}, [])
