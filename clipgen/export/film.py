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
    fps: float = 15,
    hold: float = 2.0,
    boomerang: bool = False,
    loop: bool = True,
    animate: bool = False,
    upscale: int | str | Path = 1,
    megabytes: float | None = None,
    scores: Iterable[Mapping[str, float]] = (),
) -> Path:
    """Write frames as a film, or the last one as a picture; returns the path.

    ``fps``: frames a second, up to 60 (a GIF plays at most 50); the last frame is shown for ``hold`` seconds. With
    ``boomerang`` the film runs forwards, holds, and runs back. ``loop``: it begins again; of an MP4 the player
    decides. ``animate``: a drawing (.svg) as the film of its making. ``upscale``: 2 or 4 times as wide and as high
    (Lanczos), or a file with the weights of a published upscaler, see ``images.upscaler``. ``megabytes`` (of 10^6
    bytes): at most so large, with fewer frames over the same time and then smaller ones if need be. ``settings`` go
    along as JSON, see ``settings_of``. ``scores``: a row for each frame, with "step", "clip" and others, as
    ``Journal.scores`` has them; a page (.html) shows them. An MP4 and a page are written frame by frame; other films,
    and those that run back or have a limit, are held in memory.

    The file appears only when it is complete. Raises ClipgenError for an unknown suffix, for no frames, for numbers
    that cannot work, for a limit that cannot be met and for a place that cannot be written.
    """
    file, suffix = Path(file), check_suffix(file)
    writer: Writer = WRITERS[suffix]()
    if not (0 < fps <= 60 and 0 <= hold <= 60):
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
    slower = shots[0].seconds * gaps / wanted
    kept = [shots[round(i * gaps / wanted)]._replace(seconds=slower) for i in range(count)]
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
