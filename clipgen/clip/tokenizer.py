"""CLIP's byte-pair tokenizer (Radford et al. 2021), reading the merges file that open_clip ships.

Proven equal to ``open_clip.SimpleTokenizer`` in the tests; written here because importing open_clip
takes seconds and the embedded models have to start at once.
"""

from __future__ import annotations

import gzip
import html
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import regex

VOCABULARY = 49408
_WORDS = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'(?:s|t|re|ve|m|ll|d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE
)


def _byte_symbols() -> dict[int, str]:
    """A printable character for each byte, in the order in which CLIP's vocabulary lists them."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [b for b in range(256) if b not in shown]
    return {b: chr(b) for b in shown} | {b: chr(256 + i) for i, b in enumerate(hidden)}


@cache
def _tables() -> tuple[dict[int, str], dict[str, int], dict[str, int]]:
    """Bytes to symbols, symbols to tokens, and the pairs that are merged, as ``left right``, to when they are."""
    symbols = _byte_symbols()
    spec = find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("open_clip is missing, and with it the vocabulary: pip install open_clip_torch")
    with gzip.open(Path(spec.origin).with_name("bpe_simple_vocab_16e6.txt.gz"), "rt", encoding="utf-8") as file:
        merges = file.read().split("\n")[1 : VOCABULARY - 2 * 256 - 2 + 1]
    letters = list(symbols.values())
    vocabulary = [*letters, *(s + "</w>" for s in letters), *(pair.replace(" ", "") for pair in merges)]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    return symbols, {s: i for i, s in enumerate(vocabulary)}, {pair: i for i, pair in enumerate(merges)}


def vocabulary() -> list[str]:
    """The VOCABULARY tokens as text, in order; ``</w>`` ends a word."""
    return list(_tables()[1])


def clean(text: str) -> str:
    """Mojibake and HTML entities mended, white space collapsed, lower case."""
    if not (text.isascii() and text.isprintable()) or "&" in text:  # in all others there is nothing to mend
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


@cache
def _encode_word(word: str) -> tuple[int, ...]:
    symbols, number, rank = _tables()
    if word in ("<|startoftext|>", "<|endoftext|>"):
        return (number[word],)
    parts = [symbols[b] for b in word.encode()]
    parts[-1] += "</w>"
    while len(parts) > 1:
        pair = min(map(" ".join, pairwise(parts)), key=lambda pair: rank.get(pair, len(rank)))
        if pair not in rank:
            break
        merged, i = [], 0
        while i < len(parts):
            together = " ".join(parts[i : i + 2]) == pair
            merged.append(pair.replace(" ", "") if together else parts[i])
            i += 1 + together
        parts = merged
    return tuple(number[p] for p in parts)


def encode(text: str) -> list[int]:
    """Token numbers of a text, without start and end marks and of any length."""
    return [token for word in _WORDS.findall(clean(text)) for token in _encode_word(word)]
