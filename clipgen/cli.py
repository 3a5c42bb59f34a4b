"""The ``clipgen`` command: ``clipgen "a red apple"``, and what one does with a run afterwards."""

from __future__ import annotations

import argparse
import difflib
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import clipgen
from clipgen.errors import ClipgenError
from clipgen.export.film import export
from clipgen.images.names import find_unused
from clipgen.images.terminal import show, with_inert_streams
from clipgen.prompts import slug
from clipgen.registry import WRITERS

COMMANDS = {
    "resume": "go on with an interrupted run: clipgen resume FOLDER",
    "replay": "make a run again: clipgen replay FOLDER, or a PNG, GIF or WebP that clipgen wrote",
    "export": "write a run as a film or picture: clipgen export FOLDER out.gif",
    "dalle": 'draw with a transformer instead: clipgen dalle "a red car in the snow" -n 9 -o car.png',
    "explain": 'where a score comes from: clipgen explain picture.png "a cat" -o map.png',
    "describe": "a picture in words: clipgen describe picture.png",
    "study": "many prompts, seeds and settings: clipgen study study.yaml --workers 2 -o study.html",
    "models": "the table of generators and perceptors",
    "cache": "what downloads take up; clipgen cache --prune deletes what is not needed any more",
}


def _number(kind: type, scheduled: bool) -> Callable[[str], Any]:
    """Return a function that reads a number, a whole one also as 1.0, or leaves a schedule of numbers as it is."""

    def read(text: str) -> Any:
        if scheduled and ("@" in text or "," in text):
            return text
        try:
            return kind(text)
        except ValueError:
            number = float(text)
            if not number.is_integer():
                raise
            return int(number)

    read.__name__ = kind.__name__  # what argparse says in an error
    return read


def _factor(text: str) -> int | str:
    """A number, or the path of a file."""
    return int(text) if text.isdecimal() else text


def add_settings(command: argparse.ArgumentParser) -> None:
    """The options are the fields of Settings, under the same names; those that are not given leave no trace."""
    from dataclasses import MISSING, fields

    gc.disable()
    from clipgen.runs.settings import Settings, scheduled

    gc.freeze()  # libraries stay: looking for garbage among them takes a tenth of the time to the first preview
    gc.enable()
    for knob in fields(Settings):
        if knob.default is MISSING:
            continue
        kind: Any = str if knob.default is None else type(knob.default)
        kind = _number(kind, scheduled(knob)) if kind in (int, float) else kind
        text = knob.metadata["help"] + ("" if knob.default in (None, "") else f" (default: {knob.default})")
        how: dict[str, Any] = (
            {"type": kind, "metavar": knob.name.upper()} if kind is not bool else {"action": "store_true"}
        )
        command.add_argument(f"--{knob.name}", default=argparse.SUPPRESS, help=text.replace("%", "%%"), **how)


def parser() -> argparse.ArgumentParser:
    """What ``clipgen PROMPT`` understands."""
    command = argparse.ArgumentParser(
        "clipgen",
        description="A sentence becomes a picture, and the film of its making.",
        epilog="Afterwards: " + "; ".join(COMMANDS.values()) + ".",
        argument_default=argparse.SUPPRESS,
    )
    command.add_argument("--version", action="version", version=f"clipgen {clipgen.__version__}")
    command.add_argument("prompt", help='what to draw: "a red apple", "a cat:2 | dog:-0.5", "selfie.jpg:3 | a cat"')
    add_settings(command)
    command.add_argument(
        "--batch", type=int, metavar="N", help="so many pictures with seeds from --seed on; best first"
    )
    command.add_argument("--film", metavar="FILE", help="redraw every frame of a video, GIF or WebP")
    command.add_argument("--carry", type=float, help="with --film: share of the last frame in the next (default: 0.5)")
    command.add_argument("--engine", help="with --batch: local or ray, what makes them (default: this process)")
    command.add_argument("--workers", type=int, metavar="N", help="with --batch: number of workers that make them")
    files = f"{' '.join(WRITERS)}; repeatable (default: <prompt>.png and .gif, here)"
    command.add_argument("-o", "--output", action="append", type=Path, metavar="FILE", help=files)
    command.add_argument("--fps", type=float, help="frames a second of films (default: 15; with --film: its own time)")
    command.add_argument("--folder", help="where run folders are made (default: clipgen-runs)")
    command.add_argument("--quiet", action="store_true", default=False, help="no progress bar")
    return command


@with_inert_streams
def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 something to mend, 130 interrupted (what was made is kept)."""
    words = sys.argv[1:] if argv is None else argv
    try:
        if words[:1] == ["cache"]:
            from clipgen.listings import downloads

            return downloads(COMMANDS["cache"], words[1:])
        if words[:1] == ["study"] and len(words) > 1:
            from clipgen.studies.command import command

            return command(COMMANDS["study"], words[1:])
        if words and words[0] in COMMANDS and (len(words) > 1) == (words[0] != "models"):
            return _dalle(words[1:]) if words[0] == "dalle" else _command(words[0], words[1:])
        options, unknown = parser().parse_known_args(words)
        if unknown:
            raise ClipgenError(_unknown(unknown[0]))
        return _draw(vars(options))
    except ClipgenError as error:
        print(f"clipgen: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"clipgen: {error or 'interrupted'}", file=sys.stderr)
        return 130


def _unknown(word: str) -> str:
    if not word.startswith("-"):
        return f"{word!r}: one prompt is taken; put it in quotes"
    known = [option for action in parser()._actions for option in action.option_strings]
    near = difflib.get_close_matches(word.partition("=")[0], known, 1)
    return f"{word}: there is no such option; " + (f"did you mean {near[0]}?" if near else "clipgen --help lists them")


def _command(name: str, words: list[str]) -> int:
    """One of COMMANDS."""
    if name == "models":
        from clipgen.listings import models

        print(models())
        return 0
    if name in ("explain", "describe"):
        from clipgen.inspect.command import described, explained

        return (explained if name == "explain" else described)(COMMANDS[name], words)
    command = argparse.ArgumentParser(f"clipgen {name}", description=COMMANDS[name])
    command.add_argument("source", type=Path, help="a run folder; to replay also a file that clipgen wrote")
    command.add_argument("output", nargs="+" if name == "export" else "*", type=Path, help=" ".join(WRITERS))
    if name == "export":
        command.add_argument("--fps", type=float, help="frames a second (default: 15, or as the redrawn film has them)")
        command.add_argument("--hold", type=float, help="seconds on the last frame (default: 2, of a redrawn film 0)")
        larger = "2 or 4: so many times as wide and high; or the file of a published upscaler's weights"
        command.add_argument("--upscale", type=_factor, default=1, help=larger)
        command.add_argument("--animate", action="store_true", help="an .svg as the film of its making")
        command.add_argument("--boomerang", action="store_true", help="forwards, then backwards")
        command.add_argument("--megabytes", type=float, help="at most so large: fewer and smaller frames if need be")
        command.add_argument("--keep", default="", help="last: all frames; best: up to the one the judge likes best")
        command.add_argument(
            "--what", choices=("picture", "views"), default="picture", help="views: and what CLIP was shown"
        )
    else:
        command.add_argument("--folder", default="clipgen-runs", help="where run folders are made")
        command.add_argument("--quiet", action="store_true", help="no progress bar")
        command.add_argument("--trust", action="store_true", help="read what it names and does not bring along")
    options = vars(command.parse_intermixed_args(words))
    source, output = options.pop("source"), options.pop("output")
    _check(output or _default("here"))
    from clipgen.runs.run import Run, finish

    if name == "export":
        from clipgen.runs.course import write
        from clipgen.runs.journal import Journal
        from clipgen.runs.spec import RunSpec

        views = options.pop("what") == "views"
        run = Run(RunSpec.resume(source)) if views else None
        for file in output:
            print(run.export(file, what="views", **options) if run else write(Journal.open(source), file, **options))
        return 0
    trust, folder = options["trust"], options["folder"]
    if name == "resume" and (source / "film").is_dir():
        from clipgen.studies.command import resume_film

        return resume_film(source, output or _default(source.name), options["quiet"])
    run = Run.resume(source, trust=trust) if name == "resume" else Run.replay(source, folder=folder, trust=trust)
    _check(output, run.settings.generator)
    return _show(finish(run, not options["quiet"]), output or _default(run.settings.prompt))


def _dalle(words: list[str]) -> int:
    """The options are the arguments of ``clipgen.dalle``."""
    about = COMMANDS["dalle"]
    command = argparse.ArgumentParser("clipgen dalle", description=about, argument_default=argparse.SUPPRESS)
    command.add_argument("prompt", help='what to draw: "a red car in the snow"')
    command.add_argument("-n", type=int, help="pictures (default: 16)")
    command.add_argument("--model", help="mini (embedded; default), dalle-mini or dalle-mega")
    command.add_argument("--image", help="complete this picture")
    command.add_argument("--keep", help="of --image: top (default), bottom, left, right or a box x,y,w,h")
    command.add_argument("--temperature", type=float, help="lower is safer, higher wilder (mini: 0.7)")
    command.add_argument("--top_k", type=int, help="of how many of the likeliest tokens one is drawn (mini: 128)")
    command.add_argument("--guidance", type=float, help="how much the text has to say, 1 or more (mini: 1.5)")
    command.add_argument("--seed", type=int, help="same seed, same machine: same pictures (default: 0)")
    command.add_argument("--perceptor", help="the CLIP that ranks the pictures")
    command.add_argument("--device", help="auto, cpu, cuda or mps")
    files = "contact sheet; .gif .webp .mp4 .html: as it is drawn (default: <prompt>.png)"
    command.add_argument("-o", "--output", type=Path, metavar="FILE", help=files)
    command.add_argument("--quiet", action="store_true", default=False, help="no progress bar")
    options = vars(command.parse_args(words))
    quiet, prompt = options.pop("quiet"), options.pop("prompt")
    output = options.pop("output", None)
    _check([output or _default(prompt, ".png")[0]], "")
    from tqdm.auto import tqdm

    sheets = []
    with tqdm(total=100, disable=quiet, unit="%", dynamic_ncols=True) as bar:
        for drawings in clipgen.dalle(prompt, stream=True, **options):
            sheets.append(drawings.sheet())
            bar.update(round(100 * drawings.done) - bar.n)
    file = export(sheets, output or _default(prompt, ".png")[0])
    show(file)
    print(f"{file} (done): {len(drawings)} pictures, CLIP scores {drawings.scores[0]:.3f} to {drawings.scores[-1]:.3f}")
    return 0


def _default(prompt: str, *suffixes: str, count: int = 1) -> list[Path]:
    """Return files here that are called after a prompt, one for each suffix and picture; none of them exists."""
    suffixes = suffixes or (".png", ".gif")
    numbers = [f"-{number}" for number in range(1, count + 1)] if count > 1 else [""]
    return find_unused(slug(prompt), [number + suffix for number in numbers for suffix in suffixes])


def _numbered(files: list[Path], count: int) -> list[Path]:
    """Return files for each of so many pictures, numbered if there are several."""
    numbers = range(1, count + 1) if count > 1 else ()
    return [file.with_name(f"{file.stem}-{i}{file.suffix}") for i in numbers for file in files] or files


def _check(files: list[Path], generator: str | None = None) -> None:
    """Raise ClipgenError for a file that could not be written in the end, found out by writing beside it."""
    from clipgen.runs.drawings import check_output

    for file in files:
        check_output(file, generator)
        if file.is_dir():
            raise ClipgenError(f"output={str(file)!r}: is a folder; choose a file, such as {file / 'picture.png'}")
        try:
            TemporaryFile(dir=file.parent).close()
        except OSError as error:
            raise ClipgenError(
                f"output={str(file)!r}: cannot write there ({error.strerror}); "
                "choose a folder that exists and can be written"
            ) from error


def _draw(options: dict) -> int:
    prompt, quiet, count = options.pop("prompt"), options.pop("quiet"), options.pop("batch", 1)
    output, fps = options.pop("output", None), options.pop("fps", None)
    if count < 1:
        raise ClipgenError(f"batch={count}: has to be a whole number of at least 1")
    if count > 1 and "film" in options:
        raise ClipgenError(f"batch={count}: a film is redrawn once; leave --batch out, or --film")
    if fps is not None and not 0 < fps <= 60:
        raise ClipgenError(f"fps={fps}: has to be from above 0 to 60")
    if count == 1 and (for_batches := options.keys() & {"engine", "workers"}):
        raise ClipgenError(f"{min(for_batches)}=...: one picture or film is made in this process; give --batch, too")

    def files() -> list[Path]:
        return _numbered(output, count) if output else _default(prompt, count=count)

    _check(files(), options.get("generator", ""))
    if "film" in options:
        from clipgen.studies.command import redraw

        film = options.pop("film")
        return redraw(lambda: clipgen.restyle(film, prompt, progress=not quiet, **options), files(), fps)
    if count == 1:
        return _show(clipgen.generate(prompt, progress=not quiet, **options), files(), fps)
    runs = clipgen.batch(prompt, count, progress=not quiet, **options)
    begun, every = [run for run in runs if run.journal.steps], files()
    each = len(every) // count
    for i, run in enumerate(clipgen.best(begun) if begun else ()):
        print(f"{i + 1}. seed {run.settings.seed}, CLIP score {run.score:.3f}:", end=" ")
        _show(run, every[i * each : (i + 1) * each], fps)
    for run in runs[len(begun) :]:
        _show(run, [])
    return 0 if len(runs) == count and all(run.finished for run in runs) else 130


def _show(run, files: list[Path], fps: float | None = None) -> int:
    """Write the files of a run, as far as it was made, show the first, and say where everything is."""
    from clipgen.runs.interrupts import Interrupted, resumable

    if not run.journal.steps:
        raise Interrupted(run.journal)
    with resumable(run.journal):
        for file in files:
            run.export(file, fps=fps)
        show(files[0])
    made = " and ".join(map(str, files))
    if run.finished:
        folder, trouble = run.journal.folder, run.journal.trouble
        print(f"{made} (done); " + (f"{folder} lacks frames: {trouble}" if trouble else f"the run is kept in {folder}"))
        return 0
    print(f"{made} (interrupted at step {run.step}); go on with: clipgen resume {run.journal.folder}")
    return 130
