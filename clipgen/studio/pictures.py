"""Pictures that come in through the page. They become files, so that the settings of a run can name them."""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Callable
from pathlib import Path

import ipywidgets as widgets
import numpy as np
from PIL import Image

from clipgen.errors import ClipgenError
from clipgen.images.reading import to_picture
from clipgen.prompts import slug
from clipgen.studio.parts import Upload


def keep(folder: Path, name: str, value: bytes | Image.Image | np.ndarray) -> str:
    """Write a picture (the bytes of its file, or itself), or a latent, below ``folder``/uploads; returns the path.

    Raises ClipgenError for bytes that are no picture, and for a folder that cannot be written.
    """
    if isinstance(value, bytes):
        value = to_picture(value)
    out = io.BytesIO()
    if isinstance(value, Image.Image):
        value.save(out, "PNG")
    else:
        np.save(out, value, allow_pickle=False)
    mark = hashlib.sha256(out.getvalue()).hexdigest()[:8]
    suffix = ".png" if isinstance(value, Image.Image) else ".npy"
    kept = folder / "uploads" / f"{slug(Path(name).stem, 30)}-{mark}{suffix}"
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(out.getvalue())
    except OSError as error:
        raise ClipgenError(f"folder={str(folder)!r}: {error.strerror}; choose a folder that can be written") from error
    return kept.as_posix()


def to_url(data: bytes, kind: str) -> str:
    """A data: URL; ``kind`` such as image/png."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def from_url(address: str) -> bytes:
    """The bytes of a data: URL."""
    return base64.b64decode(address.partition(",")[2])


def encode(picture: Image.Image, side: int, most: float = math.inf) -> bytes:
    """JPEG bytes of a picture, smaller where a side is longer than ``side``, and coarser above ``most`` bytes.

    At this quality a WebP is a quarter smaller, and takes ten times as long to make.
    """
    picture = picture.convert("RGB")
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    for quality in (85, 60, 30):
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=quality, subsampling=0)
        if out.tell() <= most:
            break
    return out.getvalue()


class Picker(widgets.HBox):
    """An upload button for a text control that may name a picture, and a thumbnail of what it names.

    ``write`` and ``read`` turn a path into the text of the control and back; ``guard`` shows the errors of a callback.
    """

    def __init__(
        self,
        text: widgets.Text,
        folder: Path,
        guard: Callable,
        label: str,
        write: Callable[[str], str] = str,
        read: Callable[[str], str] = str,
    ):
        self._text, self._folder, self._write, self._read = text, folder, write, read
        self._upload = Upload(label, guard(lambda name, address: self.put(name, from_url(address))))
        self._thumbnail = widgets.Image(format="jpeg", layout={"height": "32px", "display": "none"})
        super().__init__([self._upload, self._thumbnail])
        self.add_class("clipgen-picker")
        text.observe(lambda _: self._look(), "value")
        self._look()

    def put(self, name: str, data: bytes) -> None:
        """Keep a picture and name it in the text."""
        self._text.value = self._write(keep(self._folder, name, data))

    def _look(self) -> None:
        file = Path(self._read(self._text.value))
        try:
            self._thumbnail.value = encode(to_picture(file), 64) if file.suffix and file.is_file() else b""
        except (ClipgenError, OSError, ValueError):  # said when it is used
            self._thumbnail.value = b""
        self._thumbnail.layout.display = "" if self._thumbnail.value else "none"
