"""The base class of export formats, and what they are given. A new format is a file here and a line in the registry."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from PIL import Image

MAX_SETTINGS = 1_000_000  # characters of settings that are read from a file
Point = tuple[float, float]


class Mark(NamedTuple):
    """A stroke, ellipse or polygon, in pixels from the upper left corner.

    ``points`` are the four of a cubic Bezier curve; the centre of an ellipse and the ends of two conjugate half axes,
    which need not be at right angles; or the corners of a polygon.
    """

    kind: Literal["stroke", "ellipse", "polygon"]
    points: tuple[Point, ...]
    colour: tuple[int, int, int] = (0, 0, 0)  # red, green, blue, from 0 to 255
    opacity: float = 1.0
    width: float = 0.0  # of a stroke; its ends are round


@dataclass(frozen=True)
class Drawing:
    """Marks on white paper, each painted over those before it."""

    size: tuple[int, int]  # (width, height)
    marks: tuple[Mark, ...]


class TimedFrame(NamedTuple):
    """A frame with its duration."""

    picture: Any  # a PIL image; for a writer of vectors a ``Drawing``
    seconds: float
    number: int  # of the frame, from 0; a film that runs back shows a frame twice
    scores: Mapping[str, float]  # "step", "clip", "loss" and others; empty where they are not known


@dataclass(frozen=True)
class Film:
    """Frames in display order."""

    frames: Iterable[TimedFrame]
    size: tuple[int, int]  # (width, height) in the file
    fps: float  # the rate that was set, only metadata: the seconds of the frames count
    loop: bool

    def resize(self, picture: Image.Image) -> Image.Image:
        """Return a picture in RGB and in the film's size."""
        return picture.convert("RGB").resize(self.size, Image.Resampling.LANCZOS)

    def ticks(self, rate: float) -> Iterator[tuple[TimedFrame, int]]:
        """Yield each frame with its duration in whole ticks of 1 / ``rate`` s; rounding errors are carried over."""
        time, total = 0.0, 0
        for frame in self.frames:
            time += frame.seconds
            yield frame, round(time * rate) - total
            total = round(time * rate)


class Writer:
    """A format of files; subclasses say how it differs from these defaults."""

    is_animated: bool = True  # False: of a film only the last frame is written
    takes_drawings: bool = False  # True: it takes drawings instead of pictures
    loops: bool = True  # False: the player decides whether a film begins again
    max_fps: float = 60  # frames per second that players keep up with
    max_side: int = 65_535  # pixels that the format can hold

    def write(self, film: Film, file: Path, settings: str) -> None:
        """Write a film of at least one frame, with its settings as JSON ("" for none).

        Raises:
            OSError: The file cannot be written.
        """
        raise NotImplementedError

    def read_settings(self, file: Path) -> str | None:
        """Return the settings that a file carries, as they were written, None for none.

        Raises:
            Exception: Any kind, if the file has another format or is damaged.
        """
        raise NotImplementedError
