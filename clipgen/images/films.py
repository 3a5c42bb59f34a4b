"""Films: their frames as ``images.reading`` reads pictures, and their durations."""

import io
import os
import tempfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import numpy as np
from imageio_ffmpeg import read_frames
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from clipgen.errors import ClipgenError
from clipgen.images.reading import (
    FORMATS,
    Pictorial,
    check_pixels,
    locate,
    open_picture,
    to_list,
    to_picture,
    to_rgb,
    wrap_errors,
)
from clipgen.storage import is_address
from clipgen.storage.network import read_public

BYTES = 256_000_000  # of a film that is downloaded
ANIMATED = ("GIF", "WEBP", "PNG", "AVIF", "TIFF")  # the pages of others are not frames
_FORMATS = tuple(name for name in FORMATS if name != "TGA")  # which has no signature: a video could be taken for one


class FilmReader:
    """An iterable of the frames of a film, which are read one at a time.

    Args:
        film: A video or an animated picture, as a file, its bytes, its address or a PIL image; or a sequence of what
            ``to_picture`` takes, or an array (T, H, W, C) or tensor (T, C, H, W) of them.

    Attributes:
        durations: The seconds of the frames; the last holds for all further ones. Empty if the film has none.

    Raises:
        ClipgenError: For a film that cannot be read.
    """

    def __init__(self, film: str | os.PathLike[str] | Pictorial | Sequence[Any]):
        self._label, self.durations = "film", list[float]()
        self._source: Any = film
        if isinstance(film, (bytes, io.BytesIO)):
            self._source = self._save(film if isinstance(film, bytes) else film.getvalue())
        elif isinstance(film, (str, os.PathLike)):
            self._label = f"film={str(film)!r}"
            if is_address(str(film)):
                suffix = Path(urlsplit(str(film)).path).suffix[:8]
                self._source = self._save(read_public(str(film), "film", BYTES), suffix)
            else:
                self._source = locate(film, self._label, 'list its pictures: sorted(Path(...).glob("*.png"))')
        elif not isinstance(film, Iterable | Image.Image):
            raise ClipgenError(f"film={film!r}: is not a film; give a video, a GIF, a WebP, or a list of pictures")
        self._is_video = isinstance(self._source, str) and not self._is_picture()
        if self._is_video:
            with closing(self._read_video()) as frames:
                fps = next(frames)["fps"]
            self.durations = [1 / fps] if fps else []
        elif isinstance(self._source, (str, Image.Image)):
            times = [image.info.get("duration") for image in self._seek_frames()]
            # Browsers show frames of a hundredth of a second or less, or without a time, for a tenth.
            seconds = [time / 1000 if time and time > 10 else 0.1 for time in times]
            if any(time is not None for time in times):
                self.durations = seconds[:1] if len({*seconds}) == 1 else seconds

    def __iter__(self) -> Iterator[Image.Image]:
        if self._is_video:
            with closing(self._read_video()) as frames:
                size = next(frames)["size"]
                for data in frames:
                    yield Image.frombytes("RGB", size, data)
        elif isinstance(self._source, (str, Image.Image)):
            yield from map(to_rgb, self._seek_frames())
        else:
            is_array = isinstance(self._source, (np.ndarray, Tensor))
            yield from map(to_picture, to_list(self._source) if is_array else self._source)

    def _save(self, content: bytes, suffix: str = "") -> str:
        self._folder = tempfile.TemporaryDirectory()
        file = Path(self._folder.name) / f"film{suffix}"
        file.write_bytes(content)
        return str(file)

    def _is_picture(self) -> bool:
        try:
            with open_picture(self._source, self._label, _FORMATS):
                return True
        except ClipgenError as error:
            if isinstance(error.__cause__, UnidentifiedImageError):
                return False
            raise

    def _seek_frames(self) -> Iterator[Image.Image]:
        """Yield an animated picture at each of its frames, decoded."""
        with open_picture(self._source, self._label, _FORMATS) as image:
            for number in count(int(getattr(image, "default_image", False))):  # of a PNG, it is not part of the film
                try:
                    image.seek(number)
                except EOFError:
                    return
                check_pixels(image.size, self._label)
                image.load()
                yield image
                if image.format not in ANIMATED:
                    return

    def _read_video(self) -> Generator[Any, None, None]:
        """Yield a dict of facts about a video, and then the bytes of its frames at its own rate."""
        path = str(Path(self._source).resolve())
        local = ["-protocol_whitelist", "file"]  # a playlist could name addresses
        with wrap_errors(self._label, "use a video, a GIF or a WebP"):
            try:
                with closing(cast(Any, read_frames(path, input_params=local))) as frames:
                    facts = next(frames)
            except OSError as error:  # the rest is ffmpeg's log
                raise OSError(str(error).partition("\n")[0]) from error
            check_pixels(facts["size"], self._label)
            yield facts
            filters = ["-vf", f"fps={facts['fps']}"] if facts["fps"] else []
            with closing(cast(Any, read_frames(path, input_params=local, output_params=filters))) as frames:
                next(frames)
                yield from frames
