"""Output to a terminal, without control characters."""

import os
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import wraps
from typing import Any, ParamSpec, TextIO

P = ParamSpec("P")

# C0 but tabs and line ends, DEL, C1, line separators, and what changes the direction of the text around it.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_MOVES = re.compile(r"(?:\r|\n|\x1b\[A)*")  # what a progress bar writes to go to its line
CLOSED = 128 + 13  # the exit status of a command that a closed pipe ends (SIGPIPE)


class SanitizedStream:
    """A text stream that escapes control characters, and characters that its encoding lacks.

    Text that cannot be written is dropped, and ``error`` says why: a closed pipe ends no run.

    Args:
        stream: Where the text goes; None for a stream that is closed.
        bars: Whether progress bars are written to it, which go back to the beginning of a line.
    """

    def __init__(self, stream: TextIO | None, bars: bool = False):
        self.stream = stream
        self.error: Exception | None = None if stream else ValueError("the stream is closed")
        self._bars = bars

    def write(self, text: str) -> int:
        """Write a text with escapes for control characters."""
        begin = 0
        if self._bars:
            begin = len(text) if _MOVES.fullmatch(text) else int(text.startswith("\r"))
        sanitized = text[:begin] + _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text[begin:])
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        self._try("write", sanitized.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Write buffered text."""
        self._try("flush")

    def isatty(self) -> bool:
        """Return whether this is a terminal."""
        return not self.error and self.stream is not None and self.stream.isatty()

    def _try(self, method: str, *arguments: Any) -> None:
        if self.error:
            return
        try:
            getattr(self.stream, method)(*arguments)
        except (OSError, ValueError) as error:  # ValueError: somebody has closed it
            self.error = error
            if isinstance(error, OSError) and self.stream:  # at its end Python writes what is buffered
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self.stream.fileno())
                os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def with_sanitized_streams(command: Callable[P, int]) -> Callable[P, int]:
    """Decorate a command so that control characters that it writes to stdout and stderr are escaped.

    A command that succeeds returns ``CLOSED`` if its output was not read to the end, and 2 if it could not be written
    for another reason.
    """

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        for number in range(3):  # else the next opened file would get the number of a closed stream
            try:
                os.fstat(number)
            except OSError:
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        out, err = SanitizedStream(sys.stdout), SanitizedStream(sys.stderr, bars=True)
        with redirect_stdout(out), redirect_stderr(err):  # type: ignore[type-var]
            try:
                status = command(*args, **kwargs)
            finally:
                out.flush()
                err.flush()
            if isinstance(out.error, BrokenPipeError):
                return status or CLOSED
            if isinstance(out.error, OSError):
                print(f"clipgen: output cannot be written ({out.error.strerror})", file=sys.stderr)
                return status or 2
        return status

    return run
