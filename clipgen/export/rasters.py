"""Pictures and films of pixels, with their settings: PNG, GIF and WebP by Pillow, MP4 (H.264) by ffmpeg."""

import json
import math
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, cast

import numpy as np
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from clipgen.errors import ClipgenError
from clipgen.export.protocol import Film, TimedFrame, Writer


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
