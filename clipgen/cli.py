"""The ``clipgen`` command: ``clipgen "a red apple"``, and everything that can be done with a run afterwards."""

import argparse
import gc
import os
import re
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import MISSING, fields
from functools import partial, wraps
from io import StringIO
from pkgutil import resolve_name
from typing import Any, NamedTuple, ParamSpec, TextIO

import clipgen
from clipgen.errors import ClipgenError, suggest
from clipgen.fast import paused_gc

P = ParamSpec("P")

# C0 but tabs and line ends, DEL, C1, line separators, and what changes the direction of the text around it.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_MOVES = re.compile(r"(?:\r|\n|\x1b\[A)*")  # what a progress bar writes to go to its line
PIPE_CLOSED = 128 + 13  # the exit status of a command that a closed pipe ends (SIGPIPE)


class Command(NamedTuple):
    """A subcommand; ``run`` names a function that adds options to a parser, parses words and runs the command."""

    run: str
    help: str
    examples: tuple[str, str, str]


COMMANDS = {
    "generate": Command(
        "clipgen.commands:generate",
        "draw a prompt; the word generate is optional",
        ('"a red apple"', '"a cat:2 | dog:-0.5" --steps 200 --batch 4 -o cat.png', '"a painting" --film film.gif'),
    ),
    "resume": Command(
        "clipgen.commands:resume",
        "resume an interrupted run",
        ("clipgen-runs/RUN", "clipgen-runs/RUN cat.png cat.gif", "clipgen-runs/RUN --trust"),
    ),
    "replay": Command(
        "clipgen.commands:replay",
        "repeat a run, from its folder or an exported PNG, GIF, WebP or HTML file",
        ("clipgen-runs/RUN", "cat.png", "cat.gif again.mp4 --folder again"),
    ),
    "export": Command(
        "clipgen.commands:export",
        "export a run as films, pictures and pages",
        ("RUN cat.gif --fps 20", "RUN cat.html cat.mp4 --boomerang", "RUN cat.png --keep best --upscale 4"),
    ),
    "dalle": Command(
        "clipgen.commands:dalle",
        "draw with a DALL-E transformer",
        ('"a red car in the snow" -n 9 -o car.png', '"a cat" --image cat.png --keep top', '"a cat" -o cat.gif'),
    ),
    "explain": Command(
        "clipgen.inspect.explain:explain_command",
        "show where in a picture the CLIP score of a text comes from",
        ('cat.png "a cat"', 'cat.png "a cat" -o map.png', 'cat.png "a cat" --figure --how occlusion'),
    ),
    "describe": Command(
        "clipgen.inspect.describe:describe_command",
        "describe a picture in words",
        ("cat.png", "cat.png --vocabulary emoji", 'cat.png --vocabulary "cat, dog, boat" --penalty 0.2'),
    ),
    "study": Command(
        "clipgen.commands:study",
        "draw all combinations of prompts, seeds and settings",
        ("study.yaml", "study.yaml --workers 2 -o study.html -o table.csv", "study.yaml --engine ray"),
    ),
    "models": Command("clipgen.commands:models", "list generators and CLIPs", ("", "vqgan", "ViT-B-32")),
    "cache": Command("clipgen.commands:cache", "list downloads, and delete unneeded ones", ("", "--prune", "--help")),
}
GROUPS = {  # of options: the sections of settings
    "prompt and output": ("basic", "output"),
    "CLIP": ("clip",),
    "look": ("steer", "look"),
    "cutouts": ("cutouts",),
    "optimiser": ("optimizer",),
    "start and mask": ("start",),
    "speed and memory": ("speed",),
}


class CommandParser(argparse.ArgumentParser):
    """A parser that takes ``--cut_min`` for ``--cut-min``, and proposes a known option for one that is not known."""

    def parse_intermixed_args(self, args=None, namespace=None):
        """Parse words, options between files too. Raises ClipgenError for a word that is not taken."""
        words = sys.argv[1:] if args is None else list(args)
        end = words.index("--") if "--" in words else len(words)
        words[:end] = [re.sub("^--[^=]*", lambda name: name[0].replace("_", "-"), word) for word in words[:end]]
        options, unknown = self.parse_known_intermixed_args(words, namespace)
        if not unknown:
            return options
        if not unknown[0].startswith("-"):
            raise ClipgenError(f"{unknown[0]!r}: unexpected argument; if it is a part of the prompt, put it in quotes")
        option, names = unknown[0].partition("=")[0], [*self._option_string_actions]
        hint = suggest(option, names, 0.75).strip() or f"{self.prog} --help lists them"
        if others := [f"clipgen {name}" for name in COMMANDS if option in _options_of(name)]:
            hint = f"it is an option of {' and '.join(others)}"
        raise ClipgenError(f"{unknown[0]}: there is no such option; {hint}")

    def error(self, message):
        """Raise ClipgenError for an option without its value, and for what is missing."""
        message = re.sub(r"invalid int value: (.*)", r"\1 must be a whole number", message)
        message = re.sub(r"invalid float value: (.*)", r"\1 must be a number", message)
        raise ClipgenError(f"{message}; {self.prog} --help shows examples")


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

    A command that succeeds returns ``PIPE_CLOSED`` if nobody read its output to the end, and 2 if it could not be
    written for another reason.
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
                return status or PIPE_CLOSED
            if isinstance(out.error, OSError):
                print(f"clipgen: output cannot be written ({out.error.strerror})", file=sys.stderr)
                return status or 2
        return status

    return run


@with_sanitized_streams
def main(argv: list[str] | None = None) -> int:
    """Run a command. Exit status: 0 done, 2 user error, 130 interrupted (what was made is kept)."""
    words = sys.argv[1:] if argv is None else argv
    parser = CommandParser(
        "clipgen",
        description="Generate a picture, and the film of its making, from a sentence.",
        epilog='clipgen "a red apple" is short for clipgen generate "a red apple". Options and examples of a command: '
        "clipgen COMMAND --help; generate takes every setting.",
    )
    parser.add_argument("--version", action="version", version=f"clipgen {clipgen.__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        subparsers.add_parser(
            name,
            help=command.help,
            description=f"{command.help[0].upper()}{command.help[1:]}.",
            epilog="\n  ".join(["examples:", *(f"clipgen {name} {words}" for words in command.examples)]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            argument_default=argparse.SUPPRESS,
        )
    if not words:
        examples = "".join(f"  clipgen {words}\n" for words in COMMANDS["generate"].examples)
        print(f"clipgen: write what you want to see, for example\n{examples}", end="", file=sys.stderr)
        print("clipgen --help lists the commands", file=sys.stderr)
        return 2
    if words[0] in ("-h", "--help", "--version"):
        parser.parse_args(words)
    if words[0].isalpha() and words[0] not in COMMANDS and (hint := suggest(words[0], COMMANDS, 0.8).strip()):
        print(f"clipgen: {words[0]!r} is drawn, as it is not a command; {hint}", file=sys.stderr)
    name, *words = words if words[0] in COMMANDS else ["generate", *words]
    formats = warnings.formatwarning
    warnings.formatwarning = _format_warning
    try:
        with paused_gc():
            run = resolve_name(COMMANDS[name].run)
        gc.freeze()  # libraries stay: looking for garbage among them takes a tenth of the time to the first preview
        return run(subparsers.choices[name], words)
    except ClipgenError as error:
        print(f"clipgen: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"clipgen: {str(error) or 'interrupted'}", file=sys.stderr)
        return 130
    finally:
        warnings.formatwarning = formats


def _format_warning(message: Warning | str, category: type[Warning], *location: Any, **options: Any) -> str:
    """Return a warning without the line of code that it came from."""
    return f"clipgen: {'' if category is UserWarning else f'{category.__name__}: '}{message}\n"


def _options_of(name: str) -> list[str]:
    """Return the options of a command, by asking it for its help."""
    parser = CommandParser(argument_default=argparse.SUPPRESS)
    with suppress(SystemExit), redirect_stdout(StringIO()):
        resolve_name(COMMANDS[name].run)(parser, ["--help"])
    return [*parser._option_string_actions]


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add an option for each setting, in groups; options that are not given leave no trace."""
    from clipgen.runs.settings import Settings
    from clipgen.studies.tables import parse_number

    groups: dict[str, argparse._ArgumentGroup] = {}
    for title, sections in GROUPS.items():
        groups |= dict.fromkeys(sections, parser.add_argument_group(title))
    for field in fields(Settings):
        if field.default is MISSING:
            continue
        kind, text = type(field.default), field.metadata["help"]
        if field.default not in (None, "", False):
            text += f" (default: {field.default})"
        options: dict[str, Any] = {"action": "store_true"} if kind is bool else {}
        if kind in (int, float):
            options = {"type": partial(parse_number, kind)}
        option = f"--{field.name.replace('_', '-')}"
        add = groups[field.metadata["section"]].add_argument
        add(option, default=argparse.SUPPRESS, help=text.replace("%", "%%"), **options)
