"""The ``clipgen`` command: ``clipgen "a red apple"``."""

from __future__ import annotations

import argparse
import base64
import os
import sys
from pathlib import Path

import clipgen
from clipgen.errors import ClipgenError


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    try:
        return int(width), int(height or width)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write WIDTHxHEIGHT, such as 128x96") from None


def parser() -> argparse.ArgumentParser:
    """The options are the fields of Settings, under the same names."""
    from dataclasses import MISSING, fields

    from clipgen.run import Settings

    command = argparse.ArgumentParser(
        "clipgen", description="A sentence becomes a picture, and the film of its making."
    )
    command.add_argument("--version", action="version", version=f"clipgen {clipgen.__version__}")
    command.add_argument(
        "prompt",
        help='what to draw: "a red apple", "a cat:2 | dog:-0.5"; or models, for the table of generators and perceptors',
    )
    for knob in fields(Settings):
        if knob.default is MISSING:
            continue
        kind = _size if knob.name == "size" else type(knob.default)
        shown = "" if knob.default is None else f" (default: {knob.default})"
        command.add_argument(f"--{knob.name}", type=kind, default=knob.default, help=knob.metadata["help"] + shown)
    command.add_argument("-o", "--output", action="append", type=Path, metavar="FILE",
                         help=".png .gif .webp .mp4; repeatable (default: <prompt>.png and .gif, here)")  # fmt: skip
    command.add_argument("--folder", default="clipgen-runs", help="where run folders are made (default: clipgen-runs)")
    command.add_argument("--quiet", action="store_true", help="no progress bar")
    return command


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 something to mend, 130 interrupted (what was made is kept)."""
    try:
        options = vars(parser().parse_args(argv))
        if options["prompt"] == "models":
            print(models())
            return 0
        return _draw(options)
    except ClipgenError as error:
        print(f"clipgen: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("clipgen: interrupted before the first frame", file=sys.stderr)
        return 130


def _draw(options: dict) -> int:
    from clipgen.export import check_suffix
    from clipgen.prompts import slug

    name = slug(options["prompt"])
    files = options.pop("output") or [Path(f"{name}.png"), Path(f"{name}.gif")]
    for file in files:
        check_suffix(file)
        if not os.access(file.parent, os.W_OK):
            raise ClipgenError(
                f"output={str(file)!r}: cannot write there; choose a folder that exists and can be written"
            )
    run = clipgen.generate(progress=not options.pop("quiet"), **options)
    for file in files:
        run.export(file)
    show(files[0])
    made = " and ".join(map(str, files))
    state = "done" if run.finished else f"interrupted at step {run.step}"
    print(f"{made} ({state}); the run is kept in {run.journal.folder}")
    return 0 if run.finished else 130


def models() -> str:
    """The generators and perceptors that are known by name, as a table."""
    import open_clip

    from clipgen import downloads
    from clipgen.generators import REGISTRY
    from clipgen.perceptors import openclip

    def here(files: tuple[downloads.Remote, ...]) -> str:
        return "cached" if all(map(downloads.cached, files)) else "-"

    row = "{:42}{:>9}{:>8}{:>10}  {:15}{}".format
    lines = [row("generator", "size", "factor", "codebook", "licence", "here")]
    for name, entry in REGISTRY.items():
        size = f"{entry.megabytes:.0f} MB" if entry.files else "-"
        state = here(entry.files) if entry.files else "embedded"
        lines.append(row(name, size, f"f{entry.factor}", entry.codes, entry.licence, state))
    lines += ["", row("perceptor", "pixels", "", "", "licence", "here")]
    lines.append(row("mini", "64", "", "", "see model card", "embedded"))
    for architecture, tag in open_clip.list_pretrained():
        config = open_clip.get_model_config(architecture) or {}
        pixels = config.get("vision_cfg", {}).get("image_size", "")
        pixels = "x".join(map(str, pixels)) if isinstance(pixels, (list, tuple)) else pixels
        licence = "MIT" if tag == "openai" else "see hub page"
        state = here((openclip.remote(architecture, tag),))
        lines.append(row(f"{architecture}/{tag}", pixels, "", "", licence, state))
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
