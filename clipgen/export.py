"""Frames to files: PNG, GIF, WebP and MP4, by the suffix of the name; and pictures side by side."""

from __future__ import annotations

import io
import json
import math
import os
import secrets
import subprocess
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from clipgen.errors import ClipgenError

SHOWN = 256  # the shorter side, in pixels, that small pictures are shown and exported at
SUFFIXES = (".png", ".gif", ".webp", ".mp4")
FEWEST, SMALLEST = 16, 64  # frames, and pixels of the shorter side, that a size limit leaves
NOTES = 1_000_000  # characters of settings that are read from a file

Film = Iterable[tuple[Image.Image, float]]  # pictures, and the seconds that each is shown


def enlarge(image: Image.Image, shortest: int = SHOWN) -> Image.Image:
    """The picture, by a whole factor (Lanczos), with its shorter side at ``shortest`` pixels or more."""
    factor = math.ceil(shortest / min(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.LANCZOS)


def check_suffix(file: str | Path) -> str:
    """The suffix of a file that can be exported; raises ClipgenError for another."""
    suffix = Path(file).suffix.lower()
    if suffix not in SUFFIXES:
        raise ClipgenError(f"output={str(file)!r}: the suffix decides the format; use one of {', '.join(SUFFIXES)}")
    return suffix


def export(
    frames: Iterable[Image.Image],
    file: str | Path,
    settings: dict | None = None,
    fps: float = 15,
    hold: float = 2.0,
    boomerang: bool = False,
    loop: bool = True,
    megabytes: float | None = None,
) -> Path:
    """Write frames as a film, or the last one as a PNG; returns the path.

    ``fps``: frames a second, up to 60 (a GIF plays at most 50); the last frame is shown for ``hold`` seconds. With
    ``boomerang`` the film runs forwards, holds, and runs back. ``loop`` is for GIF and WebP; of an MP4 the player
    decides. ``megabytes`` (of 10^6 bytes): at most so large, with fewer frames over the same time and then smaller
    ones if need be. ``settings`` go along as JSON, see ``settings_of``. An MP4 is written frame by frame; the other
    films, and an MP4 that runs back or has a limit, are held in memory.

    The file appears only when it is complete. Raises ClipgenError for an unknown suffix, for no frames, for numbers
    that cannot work, for a limit that cannot be met and for a place that cannot be written.
    """
    file, suffix = Path(file), check_suffix(file)
    if not (0 < fps <= 60 and 0 <= hold <= 60):
        raise ClipgenError(f"fps={fps}, hold={hold}: fps from above 0 to 60, hold from 0 to 60 seconds")
    if megabytes is not None and not megabytes > 0:
        raise ClipgenError(f"megabytes={megabytes}: has to be above 0; leave it out for no limit")
    notes = json.dumps(settings) if settings else ""
    loop = loop and suffix != ".mp4"
    # A loop shows the first frame again by itself.
    back = slice(-2, 0 if loop else None, -1) if boomerang else slice(0)
    # Browsers slow a GIF with less than 1/50 s a frame down to 10 frames a second.
    each = max(1 / fps, 0.02) if suffix == ".gif" else 1 / fps
    part = file.with_name(f".{secrets.token_hex(4)}.part{suffix}")

    def write(film: Film, size: tuple[int, int]) -> None:
        if suffix == ".png":
            _png(film, size, part, notes)
        elif suffix == ".mp4":
            _mp4(film, size, part, notes, fps)
        else:
            (_gif if suffix == ".gif" else _webp)(list(film), size, part, notes, loop)

    try:
        part.touch(exist_ok=False)  # a place that cannot be written shows before the work
        pictures = iter(deque(frames, maxlen=1) if suffix == ".png" else frames)
        if (first := next(pictures, None)) is None:
            raise ClipgenError(f"output={str(file)!r}: this run has no frames yet; let it make at least one")
        pictures, size = chain([first], pictures), enlarge(first).size
        if suffix == ".mp4" and not boomerang and megabytes is None:
            write(_timed(pictures, each, hold), size)
        else:
            whole = list(pictures)
            count, fewest = len(whole), FEWEST // 2 + 1 if boomerang else FEWEST
            write(_film(whole, count, each, hold, back), size)
            while megabytes is not None and (made := part.stat().st_size / 1e6) > megabytes:
                if count <= fewest and min(size) <= SMALLEST:
                    shown = f"{count} frame{'s' * (count > 1)} of {size[0]}x{size[1]} pixels"
                    raise ClipgenError(
                        f"megabytes={megabytes}: {file.name} cannot be made smaller than {made:.2g} MB ({shown}); "
                        "allow more"
                    )
                share = min(0.9, 0.97 * megabytes / made)
                if count > fewest:
                    count = max(fewest, int(count * share))
                else:
                    shrink = max(SMALLEST / min(size), math.sqrt(share))
                    size = round(size[0] * shrink), round(size[1] * shrink)
                write(_film(whole, count, each, hold, back), size)
        os.replace(part, file)
    except OSError as error:
        raise ClipgenError(
            f"output={str(file)!r}: {error.strerror or error}; choose a place that can be written and has room"
        ) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return file


def _timed(pictures: Iterable[Image.Image], each: float, hold: float) -> Iterator[tuple[Image.Image, float]]:
    """Every picture for ``each`` seconds, the last one for ``hold`` if that is longer."""
    before = None
    for picture in pictures:
        if before is not None:
            yield before, each
        before = picture
    if before is not None:
        yield before, max(each, hold)


def _film(frames: list[Image.Image], count: int, each: float, hold: float, back: slice) -> Film:
    """``count`` of the frames, evenly, over the time of all of them; then those of ``back``."""
    gaps, wanted = max(1, len(frames) - 1), max(1, count - 1)
    kept = [frames[round(i * gaps / wanted)] for i in range(count)]
    slower = each * gaps / wanted
    return [*_timed(kept, slower, hold), *((picture, slower) for picture in kept[back])]


def _ticks(film: Film, rate: float) -> Iterator[tuple[Image.Image, int]]:
    """Every picture with its whole ticks of 1 / ``rate`` seconds; what is rounded off one goes to the next."""
    time, told = 0.0, 0
    for picture, seconds in film:
        time += seconds
        yield picture, round(time * rate) - told
        told = round(time * rate)


def _shown(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _png(film: Film, size: tuple[int, int], file: Path, notes: str) -> None:
    chunk = PngInfo()
    if notes:
        chunk.add_itxt("clipgen", notes)
    for picture, _ in film:
        _shown(picture, size).save(file, pnginfo=chunk)


def _gif(film: list[tuple[Image.Image, float]], size: tuple[int, int], file: Path, notes: str, loop: bool) -> None:
    # One palette for all frames, or colours flicker. Each counts for as long as it is shown, the held one for at most
    # half as much as all the others.
    pictures = [picture.convert("RGB") for picture, _ in film]
    shortest, most = min(seconds for _, seconds in film), max(1, len(film) // 2)
    times = [min(most, round(seconds / shortest)) for _, seconds in film]
    sample = [picture for picture, count in zip(pictures, times) for _ in range(count)]
    side = max(8, math.isqrt(2**19 // len(sample)))
    column = Image.new("RGB", (side, side * len(sample)))
    for i, picture in enumerate(sample):
        column.paste(picture.resize((side, side), Image.Resampling.NEAREST), (0, i * side))
    palette = column.quantize(256, Image.Quantize.MEDIANCUT)
    flat = [_shown(picture, size).quantize(palette=palette) for picture in pictures]
    extra: dict[str, Any] = ({"loop": 0} if loop else {}) | ({"comment": notes.encode()} if notes else {})
    durations = [10 * min(ticks, 65_535) for _, ticks in _ticks(film, 100)]
    # Without ``palette`` Pillow gives every frame a table of its own, with the same colours.
    table = bytes(palette.getpalette() or [])
    flat[0].save(file, save_all=True, append_images=flat[1:], duration=durations, palette=table, **extra)


def _webp(film: list[tuple[Image.Image, float]], size: tuple[int, int], file: Path, notes: str, loop: bool) -> None:
    pictures = [_shown(picture, size) for picture, _ in film]
    durations = [ticks for _, ticks in _ticks(film, 1000)]
    exif = Image.Exif()
    if notes:
        exif[ExifTags.Base.ImageDescription] = notes
    extra: dict[str, Any] = {"duration": durations, "loop": 0 if loop else 1} | ({"exif": exif} if notes else {})
    pictures[0].save(file, save_all=True, append_images=pictures[1:], quality=85, method=4, **extra)


def _mp4(film: Film, size: tuple[int, int], file: Path, notes: str, fps: float) -> None:
    """H.264 as browsers play it: yuv420p, even sides, the index in front. The settings are its comment."""
    from imageio_ffmpeg import get_ffmpeg_exe

    try:
        program = get_ffmpeg_exe()
    except RuntimeError as error:
        raise ClipgenError("an MP4 needs ffmpeg, which was not found; install it, or choose .gif or .webp") from error
    width, height = (side + side % 2 for side in size)
    rate = str(Fraction(fps).limit_denominator())
    # Not through imageio, which takes a film that ffmpeg could not finish for a whole one.
    command = [program, "-y", "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
    command += ["-r", rate, "-i", "-", "-c:v", "libx264", "-crf", "20", "-pix_fmt", "yuv420p"]
    command += ["-vf", "scale=out_color_matrix=bt709:out_range=tv", "-colorspace", "bt709", "-color_range", "tv"]
    command += ["-color_primaries", "bt709", "-color_trc", "bt709", "-movflags", "+faststart"]
    if notes and len(notes) < 30_000:  # Windows takes no longer command line
        command += ["-metadata", f"comment={notes}"]
    command.append(f"file:{file}")
    # A session of its own: Ctrl-C is ours to handle.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as ffmpeg:
        try:
            with suppress(BrokenPipeError):  # ffmpeg says why
                for picture, ticks in _ticks(film, fps):
                    data = _shown(picture, (width, height)).tobytes()
                    for _ in range(ticks):
                        cast(IO[bytes], ffmpeg.stdin).write(data)
            complaint = ffmpeg.communicate()[1].decode(errors="replace").strip().splitlines()
        except BaseException:
            ffmpeg.kill()
            raise
    if ffmpeg.returncode:
        why = complaint[-1].rpartition("] ")[2] if complaint else f"it ended with status {ffmpeg.returncode}"
        raise OSError(f"ffmpeg: {why}")


def settings_of(file: str | Path) -> dict:
    """The settings that a PNG, GIF or WebP was exported with; nothing about them is checked but that they are JSON.

    Raises ClipgenError for a file that carries none, or more than 1 MB of them, and for one that cannot be read.
    """
    try:
        with Image.open(file, formats=("PNG", "GIF", "WEBP")) as image:
            found = image.info.get("clipgen") or image.info.get("comment")
            found = found or image.getexif().get(ExifTags.Base.ImageDescription) or ""
    except Exception as error:  # Pillow's readers raise anything on damaged files
        why = getattr(error, "strerror", None) or error
        raise ClipgenError(f"{file}: cannot be read as a picture ({why}); choose one that clipgen wrote") from error
    text = found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)
    try:
        settings = json.loads(text) if len(text) <= NOTES else None
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict) or not settings:
        raise ClipgenError(
            f"{file}: carries no settings; choose a PNG, GIF or WebP that clipgen wrote, or a run folder"
        )
    return settings


def png_bytes(image: Image.Image) -> bytes:
    """What a notebook shows: the picture as a PNG, enlarged if it is tiny."""
    out = io.BytesIO()
    enlarge(image).save(out, "PNG")
    return out.getvalue()


def contact_sheet(images: list[Image.Image], columns: int, labels: list[str] | None = None) -> Image.Image:
    """Pictures in rows, each with its label below."""
    images = [enlarge(image) for image in images]
    return _lay_out(images, [max(image.width for image in images)] * columns, labels)


def strip(pictures: Sequence[Image.Image], labels: Sequence[str] | None = None) -> Image.Image:
    """Pictures of any sizes side by side at one height, such as before and after, each with its label below."""
    if not pictures or (labels is not None and len(labels) != len(pictures)):
        raise ClipgenError("strip needs at least one picture, and a label for each or none")
    large = [enlarge(picture.convert("RGB")) for picture in pictures]
    height = max(picture.height for picture in large)
    same = [_shown(picture, (max(1, round(picture.width * height / picture.height)), height)) for picture in large]
    return _lay_out(same, [picture.width for picture in same], labels)


def _lay_out(images: list[Image.Image], widths: list[int], labels: Sequence[str] | None) -> Image.Image:
    """Pictures in rows of columns with these ``widths`` in pixels, each with its label below."""
    from PIL import ImageDraw, ImageFont

    height = max(image.height for image in images)
    gap, text = 8, 26 if labels else 0
    rows = math.ceil(len(images) / len(widths))
    sheet = Image.new("RGB", (sum(widths) + gap * (len(widths) + 1), rows * (height + gap + text) + gap), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for i, image in enumerate(images):
        row, column = divmod(i, len(widths))
        x, y = gap + sum(widths[:column]) + gap * column, gap + row * (height + gap + text)
        sheet.paste(image, (x + (widths[column] - image.width) // 2, y))
        if labels:
            draw.text((x + widths[column] / 2, y + height + 4), labels[i], "black", font, anchor="ma")
    return sheet
