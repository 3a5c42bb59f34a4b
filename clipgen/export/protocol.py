"""What a format is given, and what it has to be able to do. To add one: a file here, and a line in the registry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from PIL import Image

NOTES = 1_000_000  # characters of settings that are read from a file


class Shot(NamedTuple):
    """A frame while it is shown."""

    picture: Any  # a PIL image; where the writer takes vectors a ``Drawing``
    seconds: float
    number: int  # of the frame, from 0; a film that runs back shows a frame twice
    scores: Mapping[str, float]  # "step", "clip", "loss" and others; empty where they are not known


@dataclass(frozen=True)
class Film:
    """What is written: shots in the order in which they are shown, and how."""

    shots: Iterable[Shot]
    size: tuple[int, int]  # (width, height) in the file
    fps: float  # as it was asked for; the seconds of the shots are what counts
    loop: bool

    def sized(self, picture: Image.Image) -> Image.Image:
        """A picture as it is written: RGB, and of the film's size."""
        return picture.convert("RGB").resize(self.size, Image.Resampling.LANCZOS)

    def ticks(self, rate: float) -> Iterator[tuple[Shot, int]]:
        """Every shot with its whole ticks of 1 / ``rate`` seconds; what is rounded off one goes to the next."""
        time, told = 0.0, 0
        for shot in self.shots:
            time += shot.seconds
            yield shot, round(time * rate) - told
            told = round(time * rate)


class Writer(Protocol):
    """One format of files. A class that names this one as its base takes what it leaves out from here."""

    mime: str
    film: bool = True  # False: of a film it keeps the last frame
    vectors: bool = False  # True: it takes drawings instead of pictures
    loops: bool = True  # False: whether it begins again is up to the player
    streams: bool = False  # True: it takes each shot once, so that a long film need not be held in memory
    fastest: float = 60  # frames a second that players keep up with
    longest: int = 65_535  # pixels of a side that the format can hold

    def write(self, film: Film, file: Path, notes: str) -> None:
        """Write a film of at least one shot; ``notes``: the settings as JSON, empty for none.

        Raises OSError for a place that cannot be written.
        """

    def notes(self, file: Path) -> str | None:
        """The settings that a file of this format carries, as it has them, None for none.

        Raises anything for a file that is of another format, or damaged.
        """
