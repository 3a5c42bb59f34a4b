"""``clipgen explain`` and ``clipgen describe``: their options are the arguments of the functions."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipgen.errors import ClipgenError
from clipgen.images.names import find_unused, shorten_name
from clipgen.inspect.describe import describe
from clipgen.inspect.explain import HOWS, explain
from clipgen.registry import VOCABULARIES

SUFFIXES = (".png", ".jpg", ".webp")


def _parser(name: str, about: str) -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(f"clipgen {name}", description=about, argument_default=argparse.SUPPRESS)
    command.add_argument("image", help="a picture: a file or an address")
    command.add_argument("--perceptor", help="the CLIP that looks (default: mini, which is embedded)")
    command.add_argument("--device", help="auto, cpu, cuda or mps")
    command.add_argument("--quiet", action="store_true", default=False, help="say no more than what was asked for")
    return command


def explained(about: str, words: list[str]) -> int:
    """Write the overlay, or with --figure the figure, and say the score."""
    command = _parser("explain", about)
    command.add_argument("text", help='what is looked for: "a cat"')
    command.add_argument("--how", help=f"{' or '.join(HOWS)} (slow, and true of any net; default: {HOWS[0]})")
    command.add_argument("--figure", action="store_true", default=False, help="picture, map and both, with a scale")
    files = f"{' '.join(SUFFIXES)} (default: <image>-why.png, here)"
    command.add_argument("-o", "--output", type=Path, metavar="FILE", help=files)
    options = vars(command.parse_args(words))
    quiet, figure = options.pop("quiet"), options.pop("figure")
    file = options.pop("output", None) or find_unused(shorten_name(Path(options["image"]).stem, 180), ["-why.png"])[0]
    if file.suffix not in SUFFIXES or not file.parent.is_dir():
        raise ClipgenError(f"output={str(file)!r}: choose a file in a folder that exists, with one of {SUFFIXES}")
    found = explain(options.pop("image"), options.pop("text"), **options)
    try:
        if figure:
            found.figure().savefig(file, dpi=150)
        else:
            found.overlay.save(file)
    except OSError as error:
        raise ClipgenError(f"output={str(file)!r}: cannot be written ({error.strerror}); choose another") from error
    print(file if quiet else f"{file} (done): {found.text}, CLIP score {found.score:.3f}")
    return 0


def described(about: str, words: list[str]) -> int:
    """Say the words, and how much of the picture's embedding they are."""
    command = _parser("describe", about)
    known = ", ".join(VOCABULARIES)
    command.add_argument("--vocabulary", help=f"{known}, or words with commas between them (default: common)")
    command.add_argument("--penalty", type=float, help="between 0 and 1: higher is fewer words (default: 0.5)")
    options = vars(command.parse_args(words))
    quiet, asked = options.pop("quiet"), options.get("vocabulary", "common")
    if "," in asked:
        options["vocabulary"] = [word.strip() for word in asked.split(",")]
    found = describe(options.pop("image"), **options)
    print(found if quiet else f"{found} (cosine {found.cosine:.2f})")
    return 0
