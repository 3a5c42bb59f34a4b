"""Frames to a file in the format of its suffix, whole or not at all; and the settings of such a file."""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain, repeat
from pathlib import Path

from PIL import Image

from clipgen.errors import ClipgenError
from clipgen.export.part import part_of
from clipgen.export.protocol import NOTES, Film, Shot, Writer
from clipgen.images.drawing import Drawing
from clipgen.images.sheets import enlarge
from clipgen.registry import WRITERS

_TAKES = {False: "pictures: of a run, run.export does", True: "drawings: generate with strokes, and use run.export"}
UPSCALES = 1, 2, 4
RATE = 100  # frames a second of a film with a time of its own: a GIF counts in hundredths
FEWEST, SMALLEST = 16, 64  # frames, and pixels of the shorter side, that a size limit leaves


def check_suffix(file: str | Path) -> str:
    """The suffix of a file that can be exported; raises ClipgenError for another."""
    suffix = Path(file).suffix.lower()
    if suffix not in WRITERS:
        raise ClipgenError(f"output={str(file)!r}: the suffix decides the format; use one of {', '.join(WRITERS)}")
    return suffix


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
    """Write frames as a film, or the last one as a picture; returns the path.

    ``fps``: frames a second, up to 60 (a GIF plays at most 50), by default 15; the last frame is shown for ``hold``
    seconds, by default 2. Without ``fps`` a film that was redrawn keeps the time of its source, which the "durations"
    of its ``settings`` are, and without ``hold`` to its end. With ``boomerang`` the film runs forwards, holds, and runs
    back. ``loop``: it begins again; of an MP4 the player decides. ``animate``: a drawing (.svg) as the film of its
    making. ``upscale``: 2 or 4 times as wide and as high (Lanczos), or a file with the weights of a published upscaler,
    see ``images.upscaler``. ``megabytes`` (of 10^6 bytes): at most so large, with fewer frames over the same time and
    then smaller ones if need be. ``settings`` go along as JSON, see ``settings_of``. ``scores``: a row for each frame,
    with "step", "clip" and others, as ``Journal.scores`` has them; a page (.html) shows them. An MP4 and a page are
    written frame by frame; other films, and those that run back or have a limit, are held in memory.

    The file appears only when it is complete. Raises ClipgenError for an unknown suffix, for no frames, for numbers
    that cannot work, for a limit that cannot be met and for a place that cannot be written.
    """
    file, suffix = Path(file), check_suffix(file)
    writer: Writer = WRITERS[suffix]()
    durations = _durations(settings or {}) if fps is None else []
    fps = _rate(durations) if durations else 15 if fps is None else fps
    hold = (0 if durations else 2) if hold is None else hold
    if not (0 < fps <= (RATE if durations else 60) and 0 <= hold <= 60):
        raise ClipgenError(f"fps={fps}, hold={hold}: fps from above 0 to 60, hold from 0 to 60 seconds")
    if megabytes is not None and not megabytes > 0:
        raise ClipgenError(f"megabytes={megabytes}: has to be above 0; leave it out for no limit")
    if upscale != 1 and writer.vectors:
        raise ClipgenError(f"upscale={upscale}: vectors are sharp at any size; leave it out")
    weights, upscale = (upscale, 1) if isinstance(upscale, str | Path) else (None, upscale)
    if upscale not in UPSCALES:
        raise ClipgenError(f"upscale={upscale}: choose one of {UPSCALES}, or a file with an upscaler's weights")
    if animate and not writer.vectors:
        raise ClipgenError(f"animate=True: is for .svg; {suffix} is {'a film anyway' if writer.film else 'no film'}")
    notes = json.dumps(settings) if settings else ""
    each, loop = 1 / min(fps, writer.fastest), loop and writer.loops
    # A loop shows the first frame again by itself.
    back = slice(-2, 0 if loop else None, -1) if boomerang else slice(0)
    fewest = FEWEST // 2 + 1 if boomerang else FEWEST
    stack = ExitStack()

    def write(shots: Iterable[Shot], size: tuple[int, int]) -> None:
        writer.write(Film(shots, size, fps, loop), part, notes)

    try:
        part = stack.enter_context(part_of(file))  # a place that cannot be written shows before the work
        rows = enumerate(zip(frames, chain(scores, repeat({}))))
        shots: Iterator[Shot] = (Shot(picture, each, number, row) for number, (picture, row) in rows)
        if durations:
            shots = _merged((_timed(shot, durations) for shot in shots), 1 / writer.fastest)
        if not (writer.film or animate):
            shots = iter(deque(shots, maxlen=1))
        if weights:  # read when all else is known to do
            from clipgen.images.upscaler import load_upscaler

            larger = load_upscaler(weights)
            shots = (shot._replace(picture=larger(shot.picture)) for shot in shots)
        if (first := next(shots, None)) is None:
            raise ClipgenError(f"output={str(file)!r}: this run has no frames yet; let it make at least one")
        if isinstance(first.picture, Drawing) != writer.vectors:
            raise ClipgenError(f"output={str(file)!r}: {suffix} is written of {_TAKES[writer.vectors]}")
        size = first.picture.size if isinstance(first.picture, Drawing) else enlarge(first.picture).size
        size = size[0] * int(upscale), size[1] * int(upscale)
        if max(size) > writer.longest:
            raise ClipgenError(
                f"output={str(file)!r}: {size[0]}x{size[1]} pixels are more than the {writer.longest} of a side that "
                f"{suffix} can hold; choose .png, or a smaller picture"
            )
        shots = chain([first], shots)
        if writer.streams and not boomerang and megabytes is None:
            write(_held(shots, hold), size)
        else:
            whole = list(shots)
            count = len(whole)
            write(_thinned(whole, count, hold, back), size)
            while megabytes is not None and (made := part.stat().st_size / 1e6) > megabytes:
                if (smaller := _smaller(count, size, fewest, 0.97 * megabytes / made)) is None:
                    shown = f"{count} frame{'s' * (count > 1)} of {size[0]}x{size[1]} pixels"
                    raise ClipgenError(
                        f"megabytes={megabytes}: {file.name} cannot be made smaller than {made:.2g} MB ({shown}); "
                        "allow more"
                    )
                count, size = smaller
                write(_thinned(whole, count, hold, back), size)
        os.replace(part, file)
    except OSError as error:
        raise ClipgenError(
            f"output={str(file)!r}: {error.strerror or error}; choose a place that can be written and has room"
        ) from error
    finally:
        stack.close()
    return file


def _durations(settings: Mapping) -> list[float]:
    """Return the seconds of the frames, if settings say them; the last holds for all further frames."""
    said = settings.get("durations")
    numbers = said if isinstance(said, list) else []
    usable = all(isinstance(number, (int, float)) and 0 < number < 10**5 for number in numbers)
    return [float(number) for number in numbers] if usable else []


def _rate(durations: Sequence[float]) -> float:
    """Return frames a second of which each duration is a whole number, or as many as players keep up with."""
    if len({*durations}) == 1 and 10 <= 1 / durations[0] <= RATE:
        return 1 / durations[0]
    tick = math.gcd(*(max(1, round(1000 * duration)) for duration in durations))
    return min(RATE, 1000 / tick * math.ceil(tick / 100))


def _timed(shot: Shot, durations: Sequence[float]) -> Shot:
    """Return a shot for as long as its frame is shown in the source; the frames of a redrawn film count from 1."""
    number = max(0, int(shot.scores.get("step", shot.number + 1)) - 1)
    return shot._replace(seconds=durations[min(number, len(durations) - 1)])


def _merged(shots: Iterable[Shot], shortest: float) -> Iterator[Shot]:
    """Yield shots that are shown for ``shortest`` seconds at least; what is shorter goes with the next one."""
    time, shot = 0.0, None
    for shot in shots:
        if (time := time + shot.seconds) >= shortest - 1e-6:
            yield shot._replace(seconds=time)
            time = 0.0
    if shot is not None and time:
        yield shot._replace(seconds=shortest)


def _held(shots: Iterable[Shot], hold: float) -> Iterator[Shot]:
    """The shots, the last one for ``hold`` seconds if that is longer."""
    before = None
    for shot in shots:
        if before is not None:
            yield before
        before = shot
    if before is not None:
        yield before._replace(seconds=max(before.seconds, hold))


def _thinned(shots: Sequence[Shot], count: int, hold: float, back: slice) -> list[Shot]:
    """``count`` of the shots, evenly, over the time of all of them; then those of ``back``."""
    gaps, wanted = max(1, len(shots) - 1), max(1, count - 1)
    kept = [shots[round(i * gaps / wanted)] for i in range(count)]
    if len({shot.seconds for shot in shots}) == 1:
        kept = [shot._replace(seconds=shot.seconds * gaps / wanted) for shot in kept]
    else:  # of a film with a time of its own each is shown until the next
        begins = [round(i * gaps / wanted) for i in range(count)] + [len(shots)]
        kept = [
            shot._replace(seconds=sum(one.seconds for one in shots[begin:end]))
            for shot, begin, end in zip(kept, begins, begins[1:])
        ]
    return [*_held(kept, hold), *kept[back]]


def _smaller(count: int, size: tuple[int, int], fewest: int, share: float) -> tuple[int, tuple[int, int]] | None:
    """Fewer frames, or else smaller ones, for about this share of the bytes; None where there is no way down."""
    share = min(0.9, share)
    if count > fewest:
        return max(fewest, int(count * share)), size
    if min(size) > SMALLEST:
        shrink = max(SMALLEST / min(size), math.sqrt(share))
        return count, (round(size[0] * shrink), round(size[1] * shrink))
    return None


def settings_of(file: str | Path) -> dict:
    """The settings that a file was exported with; nothing about them is checked but that they are JSON.

    Raises ClipgenError for a file that carries none, or more than 1 MB of them, and for one that cannot be read. Those
    of an MP4 cannot.
    """
    text = _notes(Path(file)) or ""
    try:
        settings = json.loads(text) if len(text) <= NOTES else None
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict) or not settings:
        raise ClipgenError(
            f"{file}: carries no settings; choose a PNG, GIF, WebP, HTML or SVG that clipgen wrote, or a run folder"
        )
    return settings


def _notes(file: Path) -> str | None:
    """What the first format that can read the file finds in it; that of its suffix is asked before the others."""
    trouble: list[Exception] = []
    for suffix in sorted(WRITERS, key=lambda suffix: suffix != file.suffix.lower()):
        try:
            return WRITERS[suffix]().notes(file)
        except Exception as error:  # readers raise anything on damaged files
            trouble.append(error)
    why = getattr(trouble[0], "strerror", None) or trouble[0]
    raise ClipgenError(
        f"{file}: cannot be read as a picture or page ({why}); choose one that clipgen wrote"
    ) from trouble[0]
