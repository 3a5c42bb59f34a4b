"""A film for every player: H.264 by ffmpeg, with its settings as the comment."""

import subprocess
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, cast

from clipgen.errors import ClipgenError
from clipgen.export.protocol import Film, Writer

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
        with TemporaryFile() as errors:  # ffmpeg waits while nobody reads a pipe
            # A session of its own: Ctrl-C is ours to handle.
            with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=errors, start_new_session=True) as ffmpeg:
                try:
                    with suppress(BrokenPipeError), cast(IO[bytes], ffmpeg.stdin) as pipe:  # ffmpeg says why
                        for frame, ticks in film.ticks(film.fps):
                            data = film.resize(frame.picture).tobytes()
                            for _ in range(ticks):
                                pipe.write(data)
                except BaseException:
                    ffmpeg.kill()
                    raise
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines()
        if ffmpeg.returncode:
            reason = lines[-1].rpartition("] ")[2] if lines else f"it ended with status {ffmpeg.returncode}"
            raise OSError(f"ffmpeg: {reason}")

    def read_settings(self, file: Path) -> str | None:
        with file.open("rb"):
            raise ValueError("the comment of an MP4 is for players")
