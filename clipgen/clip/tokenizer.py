"""CLIP's byte-pair tokenizer (Radford et al. 2021), reading the merges file that open_clip ships.

A test proves it equal to ``open_clip.SimpleTokenizer``. It is written here because importing open_clip takes seconds,
and the built-in models have to start at once.
"""

import gzip
import html
import math
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import regex

VOCABULARY_SIZE = 49408
_WORDS = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'(?:s|t|re|ve|m|ll|d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE
)


def _byte_symbols() -> dict[int, str]:
    """Return a printable character for each byte, in the order of CLIP's vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


def open_clip_folder() -> Path:
    """Return where open_clip is installed, without importing it."""
    spec = find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("open_clip is missing, and with it CLIP's vocabulary: pip install open_clip_torch")
    return Path(spec.origin).parent


@cache
def _tables() -> tuple[dict[int, str], dict[str, int], dict[str, int]]:
    """Return the symbols of bytes, the tokens of symbols, and the ranks of pairs (``left right``) to merge."""
    symbols = _byte_symbols()
    with gzip.open(open_clip_folder() / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8") as file:
        merges = file.read().split("\n")[1 : VOCABULARY_SIZE - 2 * 256 - 2 + 1]
    letters = list(symbols.values())
    vocabulary = [*letters, *(s + "</w>" for s in letters), *(pair.replace(" ", "") for pair in merges)]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    return symbols, {s: i for i, s in enumerate(vocabulary)}, {pair: i for i, pair in enumerate(merges)}


def vocabulary() -> list[str]:
    """Return the tokens as text, in order; ``</w>`` ends a word."""
    return list(_tables()[1])


def clean(text: str) -> str:
    """Mend mojibake and HTML entities, collapse white space, and convert to lower case."""
    if not (text.isascii() and text.isprintable()) or "&" in text:  # other texts are not worth the import
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


def merge_pairs(parts: list[str], rank: Mapping[str, int]) -> list[str]:
    """Join neighbours, those of the lowest rank (``left right``) first, as long as there are any; in place."""
    while len(parts) > 1:
        lowest, i = min((rank.get(" ".join(pair), math.inf), i) for i, pair in enumerate(pairwise(parts)))
        if lowest == math.inf:
            break
        parts[i : i + 2] = ["".join(parts[i : i + 2])]
    return parts


@cache
def _encode_word(word: str) -> tuple[int, ...]:
    symbols, number, rank = _tables()
    if word in ("<|startoftext|>", "<|endoftext|>"):
        return (number[word],)
    parts = [symbols[b] for b in word.encode()]
    parts[-1] += "</w>"
    return tuple(number[part] for part in merge_pairs(parts, rank))


def encode(text: str) -> list[int]:
    """Return the tokens of a text, without start and end marks, however many they are."""
    return [token for word in _WORDS.findall(clean(text)) for token in _encode_word(word)]
