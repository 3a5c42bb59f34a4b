"""The ``clipgen`` command: ``clipgen "a red apple"``, and what one does with a run afterwards."""

from __future__ import annotations

import argparse
import base64
import difflib
import os
import sys
from pathlib import Path

import clipgen
from clipgen.errors import ClipgenError
from clipgen.export.film import check_suffix, export
from clipgen.registry import WRITERS
from clipgen.runs.prompts import slug

COMMANDS = {
    "resume": "go on with an interrupted run: clipgen resume FOLDER",
    "replay": "make a run again: clipgen replay FOLDER, or a PNG, GIF or WebP that clipgen wrote",
    "export": "write a run as a film or picture: clipgen export FOLDER out.gif",
    "dalle": 'draw with a transformer instead: clipgen dalle "a red car in the snow" -n 9 -o car.png',
    "models": "the table of generators and perceptors",
    "cache": "what downloads take up; clipgen cache --prune deletes what is not needed any more",
}


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    try:
        return int(width), int(height or width)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write WIDTHxHEIGHT, such as 128x96") from None


def parser() -> argparse.ArgumentParser:
    """The options are the fields of Settings, under the same names."""
    from dataclasses import MISSING, fields

    from clipgen.runs.settings import Settings

    command = argparse.ArgumentParser(
        "clipgen",
        description="A sentence becomes a picture, and the film of its making.",
        epilog="Afterwards: " + "; ".join(COMMANDS.values()) + ".",
        argument_default=argparse.SUPPRESS,
    )
    command.add_argument("--version", action="version", version=f"clipgen {clipgen.__version__}")
    command.add_argument("prompt", help='what to draw: "a red apple", "a cat:2 | dog:-0.5", "selfie.jpg:3 | a cat"')
    for knob in fields(Settings):
        if knob.default is MISSING:
            continue
        kind = _size if knob.name == "size" else type(knob.default)
        text = knob.metadata["help"] + ("" if knob.default in (None, "") else f" (default: {knob.default})")
        command.add_argument(f"--{knob.name}", type=kind, help=text.replace("%", "%%"), metavar=knob.name.upper())
    command.add_argument(
        "--batch", type=int, metavar="N", help="so many pictures with seeds from --seed on; best first"
    )
    command.add_argument("--film", type=Path, metavar="FILE", help="redraw every frame of a video, GIF or WebP")
    command.add_argument("--carry", type=float, help="with --film: share of the last frame in the next (default: 0.5)")
    files = f"{' '.join(WRITERS)}; repeatable (default: <prompt>.png and .gif, here)"
    command.add_argument("-o", "--output", action="append", type=Path, metavar="FILE", help=files)
    command.add_argument("--folder", help="where run folders are made (default: clipgen-runs)")
    command.add_argument("--quiet", action="store_true", default=False, help="no progress bar")
    return command


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 something to mend, 130 interrupted (what was made is kept)."""
    words = sys.argv[1:] if argv is None else argv
    try:
        if words[:1] == ["cache"]:
            return _cache(words[1:])
        if words and words[0] in COMMANDS and (len(words) > 1) == (words[0] != "models"):
            return _dalle(words[1:]) if words[0] == "dalle" else _command(words[0], words[1:])
        options, unknown = parser().parse_known_args(words)
        if unknown:
            raise ClipgenError(_unknown(unknown[0]))
        return _draw(vars(options))
    except ClipgenError as error:
        print(f"clipgen: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("clipgen: interrupted before the first frame", file=sys.stderr)
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
        print(models())
        return 0
    command = argparse.ArgumentParser(f"clipgen {name}", description=COMMANDS[name])
    also = ", or a file that clipgen wrote" if name == "replay" else ""
    command.add_argument("source", type=Path, help="a run folder" + also)
    command.add_argument("output", nargs="+" if name == "export" else "*", type=Path, help=" ".join(WRITERS))
    if name == "export":
        command.add_argument("--fps", type=float, default=15, help="frames a second (default: 15)")
        command.add_argument("--hold", type=float, default=2, help="seconds on the last frame (default: 2)")
        command.add_argument("--boomerang", action="store_true", help="forwards, then backwards")
        command.add_argument("--megabytes", type=float, help="at most so large: fewer and smaller frames if need be")
    else:
        command.add_argument("--folder", default="clipgen-runs", help="where run folders are made")
        command.add_argument("--quiet", action="store_true", help="no progress bar")
    options = vars(command.parse_args(words))
    source, output = options.pop("source"), options.pop("output")
    _check(output)
    from clipgen.runs.run import Run, finish

    if name == "export":
        from clipgen.runs.journal import Journal

        journal = Journal.open(source)
        for file in output:
            print(export(journal.frames(), file, journal.history, scores=journal.scores, **options))
        return 0
    run = Run.resume(source) if name == "resume" else Run.replay(source, folder=options["folder"])
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
    file = options.pop("output", Path(f"{slug(prompt)}.png"))
    _check([file])
    from tqdm.auto import tqdm

    sheets = []
    with tqdm(total=100, disable=quiet, unit="%", dynamic_ncols=True) as bar:
        for drawings in clipgen.dalle(prompt, stream=True, **options):
            sheets.append(drawings.sheet())
            bar.update(round(100 * drawings.done) - bar.n)
    export(sheets, file)
    show(file)
    print(f"{file} (done): {len(drawings)} pictures, CLIP scores {drawings.scores[0]:.3f} to {drawings.scores[-1]:.3f}")
    return 0


def _cache(words: list[str]) -> int:
    """List what lies in the cache folder; with --prune, delete what is not needed any more."""
    from clipgen.storage import cache

    command = argparse.ArgumentParser("clipgen cache", description=COMMANDS["cache"])
    command.add_argument("--prune", action="store_true", help="delete what is marked with *")
    asked, found = command.parse_args(words).prune, cache.items()
    for item in found:
        print(f"{item.megabytes:10.1f} MB {'*' if item.spare else ' '} {item.file}  ({item.kind})")
    spare = [item for item in found if item.spare]
    total, less = (sum(item.megabytes for item in some) for some in (found, spare))
    print(f"{total:10.1f} MB; not needed any more (*, what --prune deletes): {less:.1f} MB")
    if asked and spare and (not sys.stdin.isatty() or input("Delete these? [y/N] ").strip().lower() in ("y", "yes")):
        print(f"deleted: {len(cache.prune())} files")
    return 0


def _default(prompt: str, number: str = "") -> list[Path]:
    return [Path(f"{slug(prompt)}{number}.png"), Path(f"{slug(prompt)}{number}.gif")]


def _check(files: list[Path]) -> None:
    """Raise ClipgenError for a file that could not be written in the end."""
    for file in files:
        check_suffix(file)
        if not os.access(file.parent, os.W_OK):
            raise ClipgenError(
                f"output={str(file)!r}: cannot write there; choose a folder that exists and can be written"
            )


def _draw(options: dict) -> int:
    prompt, quiet, count = options.pop("prompt"), options.pop("quiet"), options.pop("batch", 1)
    files = options.pop("output", None) or _default(prompt)
    _check(files)
    if "film" in options:
        journal = clipgen.restyle(options.pop("film"), prompt, progress=not quiet, **options)
        for file in files:
            export(journal.frames(), file, journal.settings, scores=journal.scores)
        print(f"{' and '.join(map(str, files))} (done); the run is kept in {journal.folder}")
        return 0
    if count < 1:
        raise ClipgenError(f"batch={count}: has to be a whole number of at least 1")
    if count == 1:
        return _show(clipgen.generate(prompt, progress=not quiet, **options), files)
    runs = clipgen.batch(prompt, count, progress=not quiet, **options)
    for place, run in enumerate(clipgen.best(runs), 1):
        print(f"{place}. seed {run.settings.seed}, CLIP score {run.score:.3f}:", end=" ")
        _show(run, [file.with_name(f"{file.stem}-{place}{file.suffix}") for file in files])
    return 0 if all(run.finished for run in runs) else 130


def _show(run, files: list[Path]) -> int:
    """Write the files of a run, show the first, and say where everything is."""
    for file in files:
        run.export(file)
    show(files[0])
    made = " and ".join(map(str, files))
    if run.finished:
        print(f"{made} (done); the run is kept in {run.journal.folder}")
        return 0
    print(f"{made} (interrupted at step {run.step}); go on with: clipgen resume {run.journal.folder}")
    return 130


def models() -> str:
    """The generators and perceptors that are known by name, as a table."""
    import open_clip

    from clipgen.models.parameterisations.catalogue import GENERATORS
    from clipgen.models.perceptors.openclip import remote
    from clipgen.storage.remote import Remote, cached

    def here(files: tuple[Remote, ...]) -> str:
        return "cached" if all(map(cached, files)) else "-"

    row = "{:42}{:>9}{:>8}{:>10}  {:15}{:10}{}".format
    lines = [row("generator", "size", "stride", "codebook", "licence", "here", "settings that suit it")]
    for name, entry in GENERATORS.items():
        size = f"{entry.megabytes:.0f} MB" if entry.files else "-"
        state = here(entry.files) if entry.files else "embedded" if entry.codes else "no weights"
        suits = " ".join(f"{setting}={value}" for setting, value in entry.defaults.items())
        lines.append(row(name, size, f"f{entry.stride}", entry.codes or "-", entry.licence, state, suits).rstrip())
    lines += ["", row("perceptor", "pixels", "", "", "licence", "here", "").rstrip()]
    lines.append(row("mini", "64", "", "", "see model card", "embedded", "").rstrip())
    for architecture, tag in open_clip.list_pretrained():
        config = open_clip.get_model_config(architecture) or {}
        pixels = config.get("vision_cfg", {}).get("image_size", "")
        pixels = "x".join(map(str, pixels)) if isinstance(pixels, (list, tuple)) else pixels
        licence = "MIT" if tag == "openai" else "see hub page"
        state = here((remote(architecture, tag),))
        lines.append(row(f"{architecture}/{tag}", pixels, "", "", licence, state, "").rstrip())
    return "\n".join(lines)


def show(file: Path) -> None:
    """Draw a picture into the terminal where its protocol is known (iTerm2, WezTerm, kitty, Ghostty)."""
    if not sys.stdout.isatty() or file.suffix not in (".png", ".gif"):
        return
    data = base64.b64encode(file.read_bytes()).decode()
    if os.environ.get("TERM_PROGRAM") in ("iTerm.app", "WezTerm"):
        print(f"\033]1337;File=inline=1:{data}\a")
    elif file.suffix == ".png" and os.environ.get("TERM") in ("xterm-kitty", "xterm-ghostty"):
        pieces = [data[i : i + 4096] for i in range(0, len(data), 4096)]
        for i, piece in enumerate(pieces):
            first = "a=T,f=100," if i == 0 else ""
            print(f"\033_G{first}m={int(i < len(pieces) - 1)};{piece}\033\\", end="")
        print()
