"""A film for every player: H.264 by ffmpeg, with its settings as the comment."""

from __future__ import annotations

import subprocess
from collections import deque
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from threading import Thread
from typing import IO, cast

from clipgen.errors import ClipgenError
from clipgen.export.protocol import Film, Writer


class Mp4(Writer):
    """A film as browsers play it: yuv420p, even sides, the index in front."""

    mime = "video/mp4"
    loops = False
    streams = True
    max_side = 16_384

    def write(self, film: Film, file: Path, settings: str) -> None:
        from imageio_ffmpeg import get_ffmpeg_exe

        try:
            program = get_ffmpeg_exe()
        except RuntimeError as error:
            raise ClipgenError(
                "an MP4 needs ffmpeg, which was not found; install it, or choose .gif or .webp"
            ) from error
        width, height = (side + side % 2 for side in film.size)
        film = replace(film, size=(width, height))
        rate = str(Fraction(film.fps).limit_denominator())
        # Not through imageio, which ignores that ffmpeg could not finish a film.
        command = [program, "-y", "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
        command += ["-r", rate, "-i", "-", "-c:v", "libx264", "-crf", "20", "-pix_fmt", "yuv420p"]
        command += ["-vf", "scale=out_color_matrix=bt709:out_range=tv", "-colorspace", "bt709", "-color_range", "tv"]
        command += ["-color_primaries", "bt709", "-color_trc", "bt709", "-movflags", "+faststart"]
        if settings and len(settings) < 30_000:  # Windows takes no longer command line
            command += ["-metadata", f"comment={settings}"]
        command.append(f"file:{file}")
        # A session of its own: Ctrl-C is ours to handle.
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as ffmpeg:
            # Read its errors while writing pictures: ffmpeg waits when nobody reads them, and so would we.
            errors = deque[bytes](maxlen=20)
            reader = Thread(target=lambda: errors.extend(cast(IO[bytes], ffmpeg.stderr)), daemon=True)
            reader.start()
            try:
                with suppress(BrokenPipeError), cast(IO[bytes], ffmpeg.stdin) as pipe:  # ffmpeg says why
                    for shot, ticks in film.ticks(film.fps):
                        data = film.resize(shot.picture).tobytes()
                        for _ in range(ticks):
                            pipe.write(data)
                reader.join()
            except BaseException:
                ffmpeg.kill()
                reader.join()
                raise
        if ffmpeg.returncode:
            lines = b"".join(errors).decode(errors="replace").strip().splitlines()
            why = lines[-1].rpartition("] ")[2] if lines else f"it ended with status {ffmpeg.returncode}"
            raise OSError(f"ffmpeg: {why}")

    def read_settings(self, file: Path) -> str | None:
        with file.open("rb"):
            raise ValueError("the comment of an MP4 is for players")
