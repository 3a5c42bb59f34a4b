r"""The prompt grammar: ``a cat:2 | watermark:-0.5``, in full ``text [where] :weight:stop @from-to``.

Prompts are separated by ``|``. Each may end with any of

* ``:weight`` - how much it counts; a negative one pushes away,
* ``:weight:stop`` - nearer than this distance it does not pull any more, nor further does it push with a weight below
  0, whose stop may have a minus, too (Crowson's VQGAN+CLIP notebook, 2021),
* ``@from-to`` - the steps in which it holds; where two spans overlap, one fades into the other,
* ``[where]`` - the part of the picture that it is about: ``top``, ``left``, ``x,y,w,h``, a mask file.

A prompt that is an address or ends like an image file is an image, in quotes, too. ``\|``, ``\:``, ``\@`` and ``\[``
are plain, but in a Windows path. So is a colon that a title, a time or a ratio has, ``Blade Runner: 2049``,
``at 10:30``, ``16:9``: it has a space behind it, or none before it and whole numbers around it or one above 100 behind
it. ``area 51 :2`` has a weight.
"""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import replace
from textwrap import shorten
from typing import Any

from clipgen.errors import ClipgenError
from clipgen.images.names import is_picture_name, is_windows_path, shorten_name, unquoted
from clipgen.prompt import Prompt
from clipgen.setting import NUMBER, SPAN

_BAR = re.compile(r"(?<!\\)\|")
_COLON = re.compile(r"(?<!\\):(?!//)")
_WEIGHT = re.compile(rf"{NUMBER}|[+-]?(?:nan|inf)", re.IGNORECASE)
_SPAN = re.compile(SPAN)
_RATIO = re.compile(r"\d+(?::\d+)+")
_DEVICE = re.compile(r"con|prn|aux|nul|(?:com|lpt)[\d¹²³]")  # Windows writes to these, whatever the suffix
_HEAVIEST = 100  # a whole number above it is a year or the like


def weighted(text: str) -> list[tuple[str, float]]:
    r"""The parts between ``|``, each with the ``:weight`` at its end or 1; ``\|`` and ``\:`` are plain."""
    prompts = (_prompt(part, titles=False)[0] for part in _BAR.split(text))
    return [(prompt.text, prompt.weight) for prompt in prompts if prompt.text]


def _prompt(part: str, weight: float = 1.0, titles: bool = True) -> tuple[Prompt, str]:
    """Return a prompt, and its text as it is written. ``titles``: whether colons may be a title's."""
    knobs: dict[str, Any] = {}
    found: tuple[str, Any] | None
    while True:  # the endings come in any order, each once
        part = part.rstrip()
        if "weight" not in knobs and (found := _weight(part)) and not (titles and _is_title(part)):
            knobs |= dict(zip(("weight", "stop"), map(float, found[1])))
        elif "span" not in knobs and (found := _span(part)):
            knobs["span"] = found[1]
        elif "where" not in knobs and (found := _where(part)):
            knobs["where"] = found[1]
        else:
            text = _plain(part)
            return Prompt(text, **{"weight": weight} | knobs, is_image=is_picture_name(text)), part
        part = found[0]


def _split(part: str, mark: str) -> tuple[str, str] | None:
    """Return what is before and behind the last ``mark``, or None if there is none or a backslash before it."""
    before, found, behind = part.rpartition(mark)
    return (before, behind) if found and not before.endswith("\\") else None


def _weight(part: str) -> tuple[str, list[str]] | None:
    """Return what is before ``:weight`` or ``:weight:stop``, and these numbers, as written."""
    numbers: list[str] = []
    while len(numbers) < 2 and (found := _split(part, ":")) and _WEIGHT.fullmatch(found[1].strip()):
        part, numbers = found[0], [found[1], *numbers]
    return (part, numbers) if numbers else None


def _span(part: str) -> tuple[str, tuple[int, float]] | None:
    found = _split(part, "@")
    steps = _SPAN.fullmatch("@" + found[1].strip()) if found else None
    if not (found and steps and any(steps.groups())):
        return None
    return found[0], (int(steps[1] or 0), int(steps[2]) if steps[2] else math.inf)


def _where(part: str) -> tuple[str, str] | None:
    found = _split(part[:-1], "[") if part.endswith("]") else None
    return (found[0], found[1].strip()) if found and "]" not in found[1] and found[1].strip() else None


def _is_title(part: str) -> bool:
    """Whether the colon before the numbers at the end is one of the words, as in ``Blade Runner: 2049`` or ``16:9``."""
    if not (found := _weight(part)):
        return False
    before, numbers = found
    if is_picture_name(_plain(before)) or _span(before.rstrip()) or _where(before.rstrip()):
        return False
    if any(number[0].isspace() for number in numbers):
        return True
    whole = all(number.isdecimal() for number in numbers) and not before[-1:].isspace()
    return whole and (float(numbers[0]) > _HEAVIEST or bool(_RATIO.fullmatch(part.rsplit(None, 1)[-1])))


def _plain(part: str) -> str:
    """Return a text without its escapes; a Windows path has none, nor has the name of a picture in quotes."""
    text = part.strip()
    if (path := unquoted(text)) != text and is_picture_name(path):
        return path
    return text if is_windows_path(text) else re.sub(r"\\([|:@\[])", r"\1", text).strip()


def parse(text: str, negative: str = "") -> list[Prompt]:
    """Return the prompts of a line.

    Args:
        text: What to go towards and away from.
        negative: What to go away from as well, whatever the signs of its weights; half as strongly unless it says.

    Raises:
        ClipgenError: Nothing is left to draw, or a number cannot be meant.
    """
    prompts = _parse("prompt", text)
    if not prompts:
        raise ClipgenError(
            f'prompt={text!r}: there is nothing to draw; write what you want to see, such as "a red apple"'
        )
    prompts += [replace(prompt, weight=-abs(prompt.weight)) for prompt in _parse("negative", negative, 0.5)]
    if not all(math.isfinite(p.weight) for p in prompts) or max(p.weight for p in prompts) <= 0:
        raise ClipgenError(
            f'prompt={text!r}: at least one prompt needs a finite weight above 0, such as "a cat:1 | dog:-0.5"'
        )
    return prompts


def split(text: str) -> list[Prompt]:
    """Return the prompts of a part of a line, which may push away only. Raises ClipgenError as ``parse`` does."""
    return _parse("prompt", text)


def _parse(name: str, text: str, weight: float = 1.0) -> list[Prompt]:
    """Return the prompts of a setting. Raises ClipgenError for numbers that cannot be meant."""
    parts = [(prompt, part) for part in _BAR.split(text) for prompt, part in [_prompt(part, weight)] if prompt.text]
    for prompt, part in parts:
        if not prompt.is_image and (ending := _mistaken(part)):
            raise ClipgenError(
                f"{name}={text!r}: {ending!r} is no weight; write a number, or two with the stop, such as 2 or 2:0.4; "
                r"a plain colon is written \:"
            )
        if prompt.span[1] <= prompt.span[0]:
            raise ClipgenError(f'prompt={text!r}: a span ends after it begins, such as "{prompt.text}@0-100"')
        if not prompt.stop < math.inf:
            raise ClipgenError(f'prompt={text!r}: a stop is a distance, such as "{prompt.text}:1:0.3"')
    return [prompt for prompt, _ in parts]


def _mistaken(part: str) -> str:
    """Return what follows a colon in the last word of a text as if it were a weight, or nothing."""
    word = part.rsplit(None, 1)[-1]
    colon = None if _is_title(part) else _COLON.search(word)
    ending = word[colon.end() :] if colon and part[: len(part) - len(word) + colon.start()].strip() else ""
    return ending if any(map(str.isalnum, ending)) else ""


def note_titles(*texts: str) -> None:
    """Warn of colons before numbers that are drawn as words, and say how a weight and a plain colon are written."""
    titles = [part for text in texts for _, part in map(_prompt, _BAR.split(text)) if _is_title(part)]
    if titles and (found := _weight(titles[0])):
        numbers, drawn = ":".join(map(str.strip, found[1])), " and ".join(repr(shorten(part, 80)) for part in titles)
        warnings.warn(
            f"prompt: {drawn} {'are' if len(titles) > 1 else 'is'} drawn as words; a weight is written with a space "
            rf'before the colon and none behind it, " :{numbers}", and a plain colon with a backslash, "\:{numbers}"',
            stacklevel=3,
        )


def written(prompt: Prompt) -> str:
    """Return a prompt in the grammar, as ``parse`` reads it."""
    # Of a picture's name a colon means something before a number, of words unless a space and words follow it.
    colon = r":(?=\s*[-+.\dni])" if is_picture_name(prompt.text) else r":(?!//|\s+[^-+.\dni\s])"
    text = prompt.text if is_windows_path(prompt.text) else re.sub(rf"([|@\[]|{colon})", r"\\\1", prompt.text)
    where = f" [{prompt.where}]" if prompt.where else ""
    stop = f":{prompt.stop:g}" if prompt.stop > -math.inf else ""
    weight = f":{prompt.weight:g}{stop}" if stop or prompt.weight != 1 else ""
    start, end = prompt.span
    span = f" @{start}-{'' if end == math.inf else end}" if prompt.span != (0, math.inf) else ""
    return text + where + (" " if _is_title(text + where + weight) else "") + weight + span


def slug(text: str, longest: int = 60) -> str:
    """Return a file name for a prompt: ``A red apple!`` to ``a-red-apple``, emoji by their names.

    It is no name of a device of Windows, and has at most ``longest`` characters and three bytes for each of them.
    """
    if any(not (letter.isascii() or letter.isalnum()) for letter in text):
        from emoji import replace_emoji  # its table takes a while to load

        text = replace_emoji(text, lambda _, known: f" {known['en'].replace('_', '-')} ")
    name = re.sub(r"[^\w]+", "-", text.lower()).strip("-_")[:longest]
    name = shorten_name(name, 3 * longest).strip("-_") or "picture"
    return f"{name}-picture" if _DEVICE.fullmatch(name) else name
