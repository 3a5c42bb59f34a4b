"""Frames to a file in the format of its suffix, whole or not at all; and the settings in such a file."""

import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, pairwise, repeat
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from PIL import Image

from clipgen.errors import ClipgenError, explain_os_errors
from clipgen.export.formats import MAX_SETTINGS, Drawing, Film, TimedFrame, Writer
from clipgen.images.sheets import enlarge
from clipgen.registry import WRITERS
from clipgen.setting import check_number, to_python
from clipgen.storage import atomic_write, expand_home

_INPUTS = {
    False: "pictures, not drawings; run.export makes them",
    True: "drawings, of a generator that draws shapes: use generator='strokes' and run.export",
}
UPSCALES = 1, 2, 4
MAX_FPS = 100  # of a film with durations, which a GIF has in hundredths of a second
MIN_FRAMES, MIN_SIDE = 16, 64  # frames, and pixels of the shorter side, that a size limit leaves


def check_suffix(file: str | Path) -> str:
    """Return the suffix of a file that can be exported. Raises ClipgenError for another."""
    suffix = Path(file).suffix.lower()
    if suffix not in WRITERS:
        raise ClipgenError(f"output={str(file)!r}: the suffix decides the format; use one of {', '.join(WRITERS)}")
    return suffix


def check_writable(file: Path) -> None:
    """Raise ClipgenError for a file that cannot be written, which writing beside it shows."""
    with explain_os_errors("output", file, "choose a file in a folder that can be written"):
        if file.is_dir():
            raise IsADirectoryError(0, "is a folder")
        TemporaryFile(dir=file.parent).close()


def export(
    frames: Iterable[Image.Image | Drawing],
    file: str | Path,
    settings: dict | None = None,
    fps: float | None = None,
    hold: float | None = None,
    boomerang: bool = False,
    loop: bool = True,
    animate: bool = False,
    upscale: int | str | Path = 1,
    megabytes: float | None = None,
    scores: Iterable[Mapping[str, float]] = (),
) -> Path:
    """Write frames as a film, or the last one as a picture.

    The file appears only when it is complete. An MP4 and a page are written frame by frame; other films, and those
    with ``boomerang`` or ``megabytes``, are held in memory.

    Args:
        frames: Pictures, or for .svg drawings.
        file: Where to write; its suffix is the format.
        settings: What is embedded as JSON, see ``settings_of``. Its "durations" are the seconds of the frames.
        fps: Frames per second, up to 60 (a GIF plays at most 50); by default as "durations" say, or else 15.
        hold: Seconds for which the last frame is shown; by default 0 with "durations", or else 2.
        boomerang: Whether the film runs forwards, holds, and runs back.
        loop: Whether it begins again; ignored for MP4, where the player decides.
        animate: Whether an .svg is animated, mark by mark.
        upscale: 2 or 4 times as wide and as high (Lanczos), or a file with the weights of a published upscaler, see
            ``images.sheets.load_upscaler``.
        megabytes: The largest size (of 10^6 bytes), with fewer frames over the same time and then smaller ones.
        scores: A row for each frame, with "step", "clip" and others, as in ``Journal.scores``; pages show them.

    Returns:
        The path of the file.

    Raises:
        ClipgenError: An unknown suffix, no frames, numbers that cannot work, a limit that cannot be met, or a file
            that cannot be written.
    """
    file, suffix = expand_home(file), check_suffix(file)
    writer: Writer = WRITERS[suffix]()
    durations = _read_durations(settings or {}) if fps is None else []
    if hold is None:
        hold = 0 if durations else 2
    hold = check_number("hold", hold, 0, 60)
    fps = _find_rate(durations) if durations else check_number("fps", 15 if fps is None else fps, 0.01, 60)
    upscale = to_python(upscale, whole=isinstance(upscale, float))
    _check_options(writer, suffix, animate, upscale, megabytes)
    writing = explain_os_errors("output", file, "choose a place that can be written and has room")
    with writing, atomic_write(file) as part:  # a file that cannot be written is noticed before the work
        timed_frames = _time_frames(frames, scores, durations or [1 / min(fps, writer.max_fps)], 1 / writer.max_fps)
        if not (writer.is_animated or animate):
            timed_frames = iter(deque(timed_frames, maxlen=1))
        timed_frames, size = _upscale(timed_frames, upscale, writer, file)
        film = Film(timed_frames, size, fps, loop and writer.loops)
        write = partial(writer.write, file=part, settings=json.dumps(settings) if settings else "")
        if boomerang or megabytes is not None:
            _write_within(film, write, part, file.name, hold, boomerang, megabytes or math.inf)
        else:
            write(replace(film, frames=_hold_last(timed_frames, hold)))
    return file


def _check_options(writer: Writer, suffix: str, animate: bool, upscale: Any, megabytes: float | None) -> None:
    if megabytes is not None:
        check_number("megabytes", megabytes, 1e-6, remedy="; leave it out for no limit")
    if upscale != 1 and writer.takes_drawings:
        raise ClipgenError(f"upscale={upscale}: vectors are sharp at any size; leave it out")
    if not isinstance(upscale, str | Path) and (type(upscale) is not int or upscale not in UPSCALES):
        raise ClipgenError(f"upscale={upscale}: choose one of {UPSCALES}, or a file with an upscaler's weights")
    if animate and not writer.takes_drawings:
        kind = "always animated" if writer.is_animated else "a still image"
        raise ClipgenError(f"animate=True: is for .svg; {suffix} is {kind}")


def _time_frames(
    frames: Iterable[Any], scores: Iterable[Mapping[str, float]], durations: Sequence[float], shortest: float
) -> Iterator[TimedFrame]:
    """Yield frames with their seconds (the last duration holds for further ones); too short ones join the next."""
    seconds, timed = 0.0, None
    for number, (picture, row) in enumerate(zip(frames, chain(scores, repeat({})))):
        index = max(0, int(row.get("step", number + 1)) - 1)  # steps of a redrawn film are its frames, counted from 1
        seconds += durations[min(index, len(durations) - 1)]
        timed = TimedFrame(picture, max(seconds, shortest), number, row)
        if seconds >= shortest - 1e-6:
            yield timed
            seconds = 0.0
    if timed is not None and seconds:
        yield timed


def _upscale(
    timed_frames: Iterator[TimedFrame], upscale: int | str | Path, writer: Writer, file: Path
) -> tuple[Iterator[TimedFrame], tuple[int, int]]:
    """Return the frames and their size in the file. Raises ClipgenError for none, or more than the format can hold."""
    if isinstance(upscale, str | Path):
        from clipgen.images.sheets import load_upscaler

        larger, upscale, small = load_upscaler(upscale), 1, timed_frames
        timed_frames = (timed._replace(picture=larger(timed.picture)) for timed in small)
    first = next(timed_frames, None)
    if first is None:
        raise ClipgenError(f"output={str(file)!r}: this run has no frames yet; let it make at least one")
    if isinstance(first.picture, Drawing) != writer.takes_drawings:
        raise ClipgenError(f"output={str(file)!r}: {file.suffix.lower()} needs {_INPUTS[writer.takes_drawings]}")
    width, height = first.picture.size if writer.takes_drawings else enlarge(first.picture).size
    size = width * upscale, height * upscale
    if max(size) > writer.max_side:
        raise ClipgenError(
            f"output={str(file)!r}: {size[0]}x{size[1]} pixels are more than the {writer.max_side} of a side that "
            f"{file.suffix.lower()} can hold; choose .png, or a smaller picture"
        )
    return chain([first], timed_frames), size


def _write_within(
    film: Film, write: Callable[[Film], Any], part: Path, name: str, hold: float, boomerang: bool, megabytes: float
) -> None:
    """Write a film with fewer, and then smaller frames until it has at most so many megabytes."""
    timed_frames, back, fewest = list(film.frames), slice(0), MIN_FRAMES
    if boomerang:  # a loop shows the first frame again by itself
        back, fewest = slice(-2, 0 if film.loop else None, -1), MIN_FRAMES // 2 + 1
    count, size = len(timed_frames), film.size
    while True:
        thinned = _thin_out(timed_frames, count)
        write(replace(film, frames=[*_hold_last(thinned, hold), *thinned[back]], size=size))
        written = part.stat().st_size / 1e6
        ratio = min(0.9, 0.97 * megabytes / written)
        if written <= megabytes:
            return
        if count > fewest:
            count = max(fewest, int(count * ratio))
        elif min(size) > MIN_SIDE:
            factor = max(MIN_SIDE / min(size), math.sqrt(ratio))
            size = round(size[0] * factor), round(size[1] * factor)
        else:
            frames = f"{count} frame{'s' * (count > 1)} of {size[0]}x{size[1]} pixels"
            raise ClipgenError(
                f"megabytes={megabytes}: {name} cannot be made smaller than {written:.2g} MB ({frames}); allow more"
            )


def _read_durations(settings: Mapping) -> list[float]:
    """Return the seconds of the frames, if settings have them; the last holds for all further frames."""
    values = settings.get("durations")
    numbers = values if isinstance(values, list) else []
    usable = all(isinstance(number, (int, float)) and 0 < number < 10**5 for number in numbers)
    return [float(number) for number in numbers] if usable else []


def _find_rate(durations: Sequence[float]) -> float:
    """Return frames per second that make each duration a whole number of frames, or as many as players keep up with."""
    if len({*durations}) == 1 and 10 <= 1 / durations[0] <= MAX_FPS:
        return 1 / durations[0]
    tick = math.gcd(*(max(1, round(1000 * duration)) for duration in durations))
    return min(MAX_FPS, 1000 / tick * math.ceil(tick / 100))


def _hold_last(timed_frames: Iterable[TimedFrame], hold: float) -> Iterator[TimedFrame]:
    """Yield the frames, the last one for at least ``hold`` seconds."""
    last = None
    for timed in timed_frames:
        if last is not None:
            yield last
        last = timed
    if last is not None:
        yield last._replace(seconds=max(last.seconds, hold))


def _thin_out(timed_frames: Sequence[TimedFrame], count: int) -> list[TimedFrame]:
    """Return ``count`` of the frames, evenly spaced, each shown until the next."""
    begins = [round(i * (len(timed_frames) - 1) / max(1, count - 1)) for i in range(count)]
    thinned = []
    for begin, end in pairwise([*begins, len(timed_frames)]):
        thinned.append(timed_frames[begin]._replace(seconds=sum(timed.seconds for timed in timed_frames[begin:end])))
    return thinned


def settings_of(file: str | Path) -> dict:
    """Return the settings in an exported file; nothing about them is checked but that they are JSON.

    Raises:
        ClipgenError: The file has none, as an MP4 has, or more than 1 MB of them, or it cannot be read.
    """
    file, errors = Path(file), []
    for suffix in sorted(WRITERS, key=lambda suffix: suffix != file.suffix.lower()):  # whatever its suffix
        try:
            text = WRITERS[suffix]().read_settings(file) or ""
            break
        except Exception as error:  # readers raise anything on damaged files
            errors.append(error)
    else:
        reason = getattr(errors[0], "strerror", None) or errors[0]
        raise ClipgenError(
            f"{file}: cannot be read as a picture or page ({reason}); choose one that clipgen wrote"
        ) from errors[0]
    try:
        settings = json.loads(text) if len(text) <= MAX_SETTINGS else None
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict) or not settings:
        raise ClipgenError(f"{file}: carries no settings; choose a PNG, GIF, WebP, HTML or SVG, or a run folder")
    return settings
