"""The base class of export formats, what they are given, and those of pictures, films of pixels, and drawings.

PNG, GIF and WebP are written by Pillow, MP4 (H.264) by ffmpeg. An SVG is sharp at any size: strokes are paths, ellipses
images of a unit circle, polygons polygons. Animated (SMIL, which browsers play) each mark keeps its element, and moves
in straight lines from frame to frame. Where films are not played, the last frame is shown.
"""

import html
import json
import math
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import groupby, pairwise
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Literal, NamedTuple, cast

import numpy as np
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from clipgen.errors import ClipgenError

MAX_SETTINGS = 1_000_000  # characters of settings that are read from a file
Point = tuple[float, float]
_HANDLE = 0.5522847  # of a half axis: handles of four Bezier curves that are a circle but for 0.03%
_METADATA = re.compile(r'<metadata id="clipgen">([^<]*)</metadata>')


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
    fps: float  # of a video, which repeats frames: the seconds of the frames count
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


class Png(Writer):
    is_animated = False

    def write(self, film: Film, file: Path, settings: str) -> None:
        chunks = PngInfo()
        if settings:
            chunks.add_itxt("clipgen", settings)
        (frame,) = film.frames
        if frame.scores:
            chunks.add_itxt("clipgen scores", json.dumps(dict(frame.scores)))
        film.resize(frame.picture).save(file, pnginfo=chunks)

    def read_settings(self, file: Path) -> str | None:
        with Image.open(file, formats=["PNG"]) as image:
            return image.info.get("clipgen")


class Gif(Writer):
    max_fps = 50  # browsers slow a frame of less than 1/50 s down to a tenth of a second

    def write(self, film: Film, file: Path, settings: str) -> None:
        frames, ticks = zip(*film.ticks(100))
        palette = _make_palette(frames)
        first, *others = _quantize((film.resize(frame.picture) for frame in frames), palette)
        options: dict[str, Any] = {"loop": 0} if film.loop else {}
        if settings:
            options["comment"] = settings.encode()
        options["duration"] = [10 * min(count, 65_535) for count in ticks]
        # Without ``palette`` Pillow gives every frame a table of its own, with the same colours.
        options["palette"] = bytes(palette.getpalette() or [])
        first.save(file, save_all=True, append_images=others, **options)

    def read_settings(self, file: Path) -> str | None:
        with Image.open(file, formats=["GIF"]) as image:
            return image.info.get("comment", b"").decode("utf-8", "replace")


def _quantize(pictures: Iterable[Image.Image], palette: Image.Image) -> Iterator[Image.Image]:
    """Yield pictures in a palette's colours; unchanged pixels keep theirs, or dithering would make them flicker."""
    previous = None
    for picture in pictures:
        quantized = picture.quantize(palette=palette)
        if previous is not None:
            unchanged = (np.asarray(picture) == np.asarray(previous[0])).all(-1)
            quantized.paste(previous[1], (0, 0), Image.fromarray(unchanged))
        yield quantized
        previous = picture, quantized


def _make_palette(frames: Sequence[TimedFrame]) -> Image.Image:
    """Return one palette for all frames. Each counts by its seconds, a held one at most half as much as the rest."""
    shortest, most = min(frame.seconds for frame in frames), max(1, len(frames) // 2)
    sample = [frame.picture for frame in frames for _ in range(min(most, round(frame.seconds / shortest)))]
    side = max(8, math.isqrt(2**19 // len(sample)))
    column = Image.new("RGB", (side, side * len(sample)))
    for i, picture in enumerate(sample):
        column.paste(picture.convert("RGB").resize((side, side), Image.Resampling.NEAREST), (0, i * side))
    if column.getcolors(256):  # few colours stay exact
        return column.quantize(256, Image.Quantize.MEDIANCUT)
    # Half of MEDIANCUT's error in a fortieth of its time, as measured on drawings. Pillow would reorder the colours of
    # each frame if unused ones stood at the end.
    palette = column.quantize(256, Image.Quantize.FASTOCTREE)
    palette.putpalette((palette.getpalette() or [])[: 3 * (int(np.asarray(palette).max()) + 1)])
    return palette


class WebP(Writer):
    max_side = 16_383

    def write(self, film: Film, file: Path, settings: str) -> None:
        frames, milliseconds = zip(*film.ticks(1000))
        first, *others = [film.resize(frame.picture) for frame in frames]
        options: dict[str, Any] = {"duration": list(milliseconds), "loop": int(not film.loop)}
        if settings:
            options["exif"] = exif = Image.Exif()
            exif[ExifTags.Base.ImageDescription] = settings
        first.save(file, save_all=True, append_images=others, quality=85, method=4, **options)

    def read_settings(self, file: Path) -> str | None:
        with Image.open(file, formats=["WEBP"]) as image:
            text = image.getexif().get(ExifTags.Base.ImageDescription, "")
        return text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)


ENCODING = (  # as browsers play it
    "-c:v libx264 -crf 20 -pix_fmt yuv420p -vf scale=out_color_matrix=bt709:out_range=tv -colorspace bt709 "
    "-color_range tv -color_primaries bt709 -color_trc bt709 -movflags +faststart"
)


class Mp4(Writer):
    loops = False
    max_side = 16_384

    def write(self, film: Film, file: Path, settings: str) -> None:
        from imageio_ffmpeg import get_ffmpeg_exe

        try:
            program = get_ffmpeg_exe()
        except RuntimeError as error:
            raise ClipgenError("an MP4 needs ffmpeg, which was not found; install it, or choose .gif") from error
        width, height = (side + side % 2 for side in film.size)
        film, rate = replace(film, size=(width, height)), Fraction(film.fps).limit_denominator()
        # Not through imageio, which ignores that ffmpeg could not finish a film.
        line = f"-y -v error -f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {rate} -i - {ENCODING}"
        command = [program, *line.split()]
        if settings and len(settings) < 30_000:  # Windows takes no longer command line
            command += ["-metadata", f"comment={settings}"]
        command.append(f"file:{file}")
        with TemporaryFile() as stderr_file:  # ffmpeg waits while nobody reads a pipe
            # A session of its own: Ctrl-C is ours to handle.
            with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=stderr_file, start_new_session=True) as ffmpeg:
                try:
                    with suppress(BrokenPipeError), cast(IO[bytes], ffmpeg.stdin) as pipe:  # ffmpeg says why
                        for frame, ticks in film.ticks(film.fps):
                            data = film.resize(frame.picture).tobytes()
                            for _ in range(ticks):
                                pipe.write(data)
                except BaseException:
                    ffmpeg.kill()
                    raise
            stderr_file.seek(0)
            lines = stderr_file.read().decode(errors="replace").strip().splitlines()
        if ffmpeg.returncode:
            reason = lines[-1].rpartition("] ")[2] if lines else f"it ended with status {ffmpeg.returncode}"
            raise OSError(f"ffmpeg: {reason}")

    def read_settings(self, file: Path) -> str | None:
        with file.open("rb"):
            raise ValueError("the comment of an MP4 is for players")


class Svg(Writer):
    is_animated = False
    takes_drawings = True

    def write(self, film: Film, file: Path, settings: str) -> None:
        frames = list(film.frames)
        drawings: list[Drawing] = [frame.picture for frame in frames]
        total = sum(frame.seconds for frame in frames)
        times = [sum(frame.seconds for frame in frames[:i]) / total for i in range(len(frames))]
        timing = f'dur="{total:.3f}s" ' + ('repeatCount="indefinite"' if film.loop else 'fill="freeze"')
        width, height = drawings[-1].size
        lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">']
        if settings:
            lines.append(f'<metadata id="clipgen">{html.escape(settings, quote=False)}</metadata>')
        lines.append(f'<path d="M0 0H{width}V{height}H0z" fill="#fff"/>')
        marks_over_time = zip(*(drawing.marks for drawing in drawings), strict=True)
        for style, group in groupby(marks_over_time, key=lambda marks: _common_style(marks[-1])):
            lines += [f"<g {style}>", *(_element(marks, [*times, 1.0], timing) for marks in group), "</g>"]
        file.write_text("\n".join([*lines, "</svg>\n"]), "utf-8", "replace", "\n")

    def read_settings(self, file: Path) -> str | None:
        with file.open(encoding="utf-8-sig", errors="replace") as text:
            head = text.read(2 * MAX_SETTINGS)  # the settings stand before the marks
        if not head.lstrip().startswith(("<svg", "<?xml")):
            raise ValueError("it does not begin as an SVG")
        match = _METADATA.search(head)
        return html.unescape(match[1]) if match else None


def _common_style(mark: Mark) -> str:
    return 'fill="none" stroke-linecap="round" stroke-linejoin="round"' if mark.kind == "stroke" else 'stroke="none"'


def _element(marks: Sequence[Mark], times: Sequence[float], timing: str) -> str:
    """Return the element of a mark as it is in the last frame, with an ``animate`` for each attribute that changes."""
    tag, attributes = _describe(marks[-1], len(marks) > 1)
    text = "".join(f' {name}="{value}"' for name, value in attributes.items())
    animations = "".join(_animate(marks, times, timing)) if len(marks) > 1 else ""
    return f"<{tag}{text}>{animations}</{tag}>" if animations else f"<{tag}{text}/>"


def _animate(marks: Sequence[Mark], times: Sequence[float], timing: str) -> Iterator[str]:
    frames = [_describe(mark, True)[1] for mark in marks]
    for name, last in frames[-1].items():
        values = [*(attributes[name] for attributes in frames), last]
        if len(set(values)) == 1:
            continue
        # Where a value stays the same, its first and last moment are enough.
        inner = range(1, len(values) - 1)
        keys = [0, *(i for i in inner if not values[i - 1] == values[i] == values[i + 1]), len(values) - 1]
        key_times, key_values = ";".join(_number(times[i], 4) for i in keys), ";".join(values[i] for i in keys)
        yield f'<animate attributeName="{name}" values="{key_values}" keyTimes="{key_times}" {timing}/>'


def _describe(mark: Mark, moving: bool) -> tuple[str, dict[str, str]]:
    """Return the tag and attributes of a mark. A moving ellipse is four curves: browsers animate no matrix."""
    paint, colour = "stroke" if mark.kind == "stroke" else "fill", "#{:02x}{:02x}{:02x}".format(*mark.colour)
    style = {paint: colour, f"{paint}-opacity": _number(mark.opacity, 3)}
    if mark.kind == "stroke":
        first, *others = mark.points
        return "path", {"d": f"M{_points([first])}C{_points(others)}"} | style | {"stroke-width": _number(mark.width)}
    if mark.kind == "polygon":
        return "polygon", {"points": _points(mark.points)} | style
    (x, y), *ends = mark.points
    (a, b), (c, d) = ((px - x, py - y) for px, py in ends)
    if not moving:
        matrix = f"matrix({' '.join(_number(n, 3) for n in (a, b, c, d, x, y))})"
        return "ellipse", {"rx": "1", "ry": "1", "transform": matrix} | style
    curve = f"M{_points([(x + a, y + b)])}"
    for (px, py), (qx, qy) in pairwise([(a, b), (c, d), (-a, -b), (-c, -d), (a, b)]):
        handles = (x + px + _HANDLE * qx, y + py + _HANDLE * qy), (x + qx + _HANDLE * px, y + qy + _HANDLE * py)
        curve += f"C{_points([*handles, (x + qx, y + qy)])}"
    return "path", {"d": f"{curve}z"} | style


def _number(value: float, digits: int = 2) -> str:
    return f"{round(value, digits):g}" if abs(value) < 1e4 else f"{value:.0f}"


def _points(points: Sequence[Point]) -> str:
    return " ".join(f"{_number(x)} {_number(y)}" for x, y in points)
