"""``clipgen explain`` and ``clipgen describe``; their options are the arguments of the functions."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipgen.errors import ClipgenError
from clipgen.images.names import expand_home, find_unused, shorten_name
from clipgen.inspect.describe import describe
from clipgen.inspect.explain import HOWS, explain
from clipgen.registry import VOCABULARIES

SUFFIXES = (".png", ".jpg", ".webp")


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", help="a picture: a file or an address")
    parser.add_argument("--perceptor", help="the CLIP that judges (default: mini, which is built in)")
    parser.add_argument("--device", help="auto, cpu, cuda or mps")
    parser.add_argument("--quiet", action="store_true", default=False, help="print the file or the words only")


def explain_command(parser: argparse.ArgumentParser, words: list[str]) -> int:
    """Write the overlay, or with --figure the figure, and print the score."""
    _add_common(parser)
    parser.add_argument("text", help='what to look for: "a cat"')
    parser.add_argument("--how", help=f"{' or '.join(HOWS)} (slow, and true of any net; default: {HOWS[0]})")
    parser.add_argument("--figure", action="store_true", default=False, help="picture, map and both, with a scale")
    files = f"{' '.join(SUFFIXES)} (default: <image>-why.png, here)"
    parser.add_argument("-o", "--output", type=expand_home, metavar="FILE", help=files)
    options = vars(parser.parse_intermixed_args(words))
    quiet, figure = options.pop("quiet"), options.pop("figure")
    file = options.pop("output", None) or find_unused(shorten_name(Path(options["image"]).stem, 180), ["-why.png"])[0]
    if file.suffix not in SUFFIXES or not file.parent.is_dir():
        raise ClipgenError(f"output={str(file)!r}: choose a file in a folder that exists, with one of {SUFFIXES}")
    explanation = explain(options.pop("image"), options.pop("text"), **options)
    try:
        if figure:
            explanation.figure().savefig(file, dpi=150)
        else:
            explanation.overlay.save(file)
    except OSError as error:
        raise ClipgenError(f"output={str(file)!r}: cannot be written ({error.strerror}); choose another") from error
    print(file if quiet else f"{file} (done): {explanation.text}, CLIP score {explanation.score:.3f}")
    return 0


def describe_command(parser: argparse.ArgumentParser, words: list[str]) -> int:
    """Print the words that describe a picture, and how near they come to its embedding."""
    _add_common(parser)
    names = ", ".join(VOCABULARIES)
    parser.add_argument("--vocabulary", help=f"{names}, or words with commas between them (default: common)")
    parser.add_argument("--penalty", type=float, help="between 0 and 1: higher is fewer words (default: 0.5)")
    options = vars(parser.parse_intermixed_args(words))
    quiet, vocabulary = options.pop("quiet"), options.get("vocabulary", "")
    if "," in vocabulary:
        options["vocabulary"] = [word.strip() for word in vocabulary.split(",")]
    description = describe(options.pop("image"), **options)
    print(description if quiet else f"{description} (cosine {description.cosine:.2f})")
    return 0
