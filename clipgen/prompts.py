r"""Prompts and their grammar: ``a cat:2 | watermark:-0.5``, in full ``text [where] :weight:stop @from-to``.

Prompts are separated by ``|``. ``a photo -> a sketch`` is a direction: the picture that a run starts from is changed as
the texts differ (Gal et al. 2022, StyleGAN-NADA). Each may end with any of

* ``:weight`` - how much it counts; a negative one pushes away,
* ``:weight:stop`` - the distance below which it no longer pulls, or with a negative weight (its stop may also be
  written with a minus) beyond which it no longer pushes (Crowson's VQGAN+CLIP notebook, 2021),
* ``@from-to`` - the steps in which it is active; overlapping spans are cross-faded,
* ``[where]`` - the part of the picture that it is about: ``top``, ``left``, ``x,y,w,h``, a mask file.

A prompt that is an address or ends like an image file is an image, also in quotes. ``\|``, ``\:``, ``\@``, ``\[`` and
``\->`` are plain characters, but not in a Windows path. A colon before a number is plain if a space follows it (``Blade
Runner: 2049``), or if no space precedes it and it joins two whole numbers (``16:9``) or the number is above 100. In
``area 51 :2`` the number is a weight.
"""

import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from textwrap import shorten
from typing import Any

from clipgen.errors import ClipgenError
from clipgen.setting import NUMBER, SPAN, fade_factors
from clipgen.storage import is_picture_name, is_windows_path, shorten_name, strip_quotes

_BAR = re.compile(r"(?<!\\)\|")
_COLON = re.compile(r"(?<!\\):(?!//)")
_WEIGHT = re.compile(rf"{NUMBER}|[+-]?(?:nan|inf)", re.IGNORECASE)
_SPAN = re.compile(SPAN)
_RATIO = re.compile(r"\d+(?::\d+)+")
_OTHER_SPAN = re.compile(r"(?<!\\)@\s*[-\d][-\d\s.,–—]*$")
_OTHER_WHERE = re.compile(r"(?<!\\)\[[^\[\]]*\]$|(?<!\S)\[[^\[\]]*$")
_OTHER_WEIGHT = re.compile(r"(?<!\\)::|(?<!\\)\([^()]*[^()\d\s\\]:\d+(?:\.\d+)?\)")  # Midjourney's, Stable Diffusion's
_ARROW = re.compile(r"(?<=\s)->(?=\s)")
_LONE_ARROW = re.compile(r"^\s*->(?!\S)|(?<!\S)->\s*$")
_DEVICE = re.compile(r"con|prn|aux|nul|(?:com|lpt)[\d¹²³]")  # Windows writes to these, whatever the suffix
_WEIGHTS = {"prompt": 1.0, "negative": 0.5}  # of prompts written without one, by setting
_MAX_WHOLE_WEIGHT = 100  # a larger whole number is a year or the like


@dataclass(frozen=True)
class Prompt:
    """A text or an image to go towards (positive weight) or away from (negative)."""

    text: str
    weight: float = 1.0
    stop: float = (
        -math.inf
    )  # distance below which it no longer pulls; if ``weight`` < 0: beyond which it no longer pushes
    span: tuple[int, float] = (0, math.inf)  # the first step, and the one after the last
    where: str = ""  # the part of the picture that it is about; empty for all of it
    is_image: bool = False  # whether ``text`` names a picture
    source: str = ""  # the text that a direction goes away from, on its way to ``text``
    # The text as written, if a colon in it looks like a weight.
    title: str = field(default="", compare=False, repr=False)


def positive_text_prompts(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Return the prompts that say in words what to draw."""
    return [prompt for prompt in prompts if prompt.weight > 0 and not prompt.is_image]


def weights_at(prompts: Sequence[Prompt], step: int) -> list[float]:
    """Return the weight of each prompt at a step, faded where spans overlap."""
    factors = fade_factors([prompt.span for prompt in prompts], step)
    return [prompt.weight * factor for prompt, factor in zip(prompts, factors, strict=True)]


def parse(text: str, negative: str = "") -> list[Prompt]:
    """Parse a line of prompts.

    Args:
        text: What to go towards, or with negative weights away from.
        negative: Prompts that push away, whatever the signs of their weights; the default weight is -0.5.

    Raises:
        ClipgenError: There is nothing to draw, or a number makes no sense.
    """
    prompts = parse_parts(text)
    if not prompts:
        raise ClipgenError(f'prompt={text!r}: there is nothing to draw; write what you want to see: "a red apple"')
    prompts += [replace(one, weight=-abs(one.weight)) for one in parse_parts(negative, "negative")]
    if not all(math.isfinite(prompt.weight) for prompt in prompts) or max(prompt.weight for prompt in prompts) <= 0:
        raise ClipgenError(f'prompt={text!r}: one prompt needs a finite weight above 0, such as "a cat:1 | dog:-0.5"')
    return prompts


def parse_parts(text: str, argument: str = "prompt") -> list[Prompt]:
    """Parse prompts that need not have a positive weight among them.

    Args:
        text: Prompts, separated by ``|``; may be empty.
        argument: The setting, "prompt" or "negative", for errors and for the weight of prompts written without one.

    Raises:
        ClipgenError: A number makes no sense.
    """
    prompts = []
    for part in _BAR.split(text):
        prompt, body = _parse_part(part, _WEIGHTS[argument])
        if not prompt.text:
            continue
        if not prompt.is_image and (mistake := _describe_mistake(body)):
            raise ClipgenError(f"{argument}={text!r}: {mistake}")
        if is_picture_name(prompt.source):
            raise ClipgenError(f'{argument}={text!r}: a direction is between two texts, such as "a photo -> a sketch"')
        if prompt.span[1] <= prompt.span[0]:
            raise ClipgenError(f'{argument}={text!r}: a span must end after it begins, such as "{prompt.text}@0-100"')
        if not prompt.stop < math.inf:
            raise ClipgenError(f'{argument}={text!r}: a stop is a distance, such as "{prompt.text}:1:0.3"')
        prompts.append(prompt)
    return prompts


def parse_weighted(text: str) -> list[tuple[str, float]]:
    r"""Return the parts between ``|``, each with the ``:weight`` at its end or 1; ``\|`` and ``\:`` are plain."""
    prompts = [_parse_part(part, titles=False)[0] for part in _BAR.split(text)]
    return [(prompt.text, prompt.weight) for prompt in prompts if prompt.text]


def _parse_part(part: str, weight: float = 1.0, titles: bool = True) -> tuple[Prompt, str]:
    """Return a prompt, and its text as written. ``titles``: whether a colon may belong to a title."""
    options: dict[str, Any] = {}
    ending: tuple[str, Any] | None
    while True:  # the endings come in any order, each once
        part = part.rstrip()
        if "weight" not in options and (ending := _weight_ending(part)) and not (titles and _is_title(part)):
            options |= dict(zip(("weight", "stop"), map(float, ending[1])))
        elif "span" not in options and (ending := _span_ending(part)):
            options["span"] = ending[1]
        elif "where" not in options and (ending := _where_ending(part)):
            options["where"] = ending[1]
        else:
            break
        part = ending[0]
    text, is_image = _unescape(part), is_picture_name(_unescape(part))
    if not is_image:
        *source, text = map(_unescape, _ARROW.split(part.strip(), maxsplit=1))
        options["source"] = "".join(source)
    title = part if titles and _is_title(part) else ""
    return Prompt(text, **{"weight": weight} | options, is_image=is_image, title=title), part


def _split_at_last(part: str, mark: str) -> tuple[str, str] | None:
    """Return what is before and after the last ``mark``; None without one, or with a backslash before it."""
    before, mark, after = part.rpartition(mark)
    return (before, after) if mark and not before.endswith("\\") else None


def _weight_ending(part: str) -> tuple[str, list[str]] | None:
    """Return what is before ``:weight`` or ``:weight:stop``, and these numbers as written."""
    numbers: list[str] = []
    while len(numbers) < 2 and (halves := _split_at_last(part, ":")) and _WEIGHT.fullmatch(halves[1].strip()):
        part, numbers = halves[0], [halves[1], *numbers]
    return (part, numbers) if numbers else None


def _span_ending(part: str) -> tuple[str, tuple[int, float]] | None:
    halves = _split_at_last(part, "@")
    steps = _SPAN.fullmatch("@" + halves[1].strip()) if halves else None
    if not (halves and steps and any(steps.groups())):
        return None
    return halves[0], (int(steps[1] or 0), int(steps[2]) if steps[2] else math.inf)


def _where_ending(part: str) -> tuple[str, str] | None:
    halves = _split_at_last(part[:-1], "[") if part.endswith("]") else None
    if not halves or "]" in halves[1] or not halves[1].strip():
        return None
    return halves[0], halves[1].strip()


def _is_title(part: str) -> bool:
    """Return whether the colon before the final numbers is part of the text, as in ``16:9``."""
    if not (ending := _weight_ending(part)):
        return False
    before, numbers = ending
    if is_picture_name(_unescape(before)) or _span_ending(before.rstrip()) or _where_ending(before.rstrip()):
        return False
    if any(number[0].isspace() for number in numbers):
        return True
    if before[-1:].isspace() or not all(number.isdecimal() for number in numbers):
        return False
    return float(numbers[0]) > _MAX_WHOLE_WEIGHT or bool(_RATIO.fullmatch(part.rsplit(None, 1)[-1]))


def _unescape(part: str) -> str:
    """Return a text without its escapes; a Windows path and the name of a picture in quotes have none."""
    text = part.strip()
    if (path := strip_quotes(text)) != text and is_picture_name(path):
        return path
    return text if is_windows_path(text) else re.sub(r"\\([|:@\[]|->)", r"\1", text).strip()


def _describe_mistake(part: str) -> str:
    """Return what is wrong with a text that seems to end in a weight, a span or a region, or an empty text."""
    if ending := _mistyped_weight(part):
        return (
            rf"{ending!r} is not a weight; write a number, or two with the stop, such as 2 or 2:0.4; "
            r"a plain colon is written \:"
        )
    if match := _OTHER_SPAN.search(part):
        return rf"{match[0]!r} is not a span of steps; write one, such as @0-60; a plain @ is written \@"
    if match := _OTHER_WHERE.search(part):
        return rf"{match[0]!r} is not a region; write one, such as [top]; a plain bracket is written \["
    if _LONE_ARROW.search(part):
        return r'a direction is between two texts, such as "a photo -> a sketch"; a plain arrow is written \->'
    if match := _OTHER_WEIGHT.search(part):
        return rf'{match[0]!r} is not a weight; write "a cat:1.3 | a dog:0.5"; a plain colon is written \:'
    return ""


def _mistyped_weight(part: str) -> str:
    """Return what follows a colon in the last word as if it were a weight, or an empty text."""
    if _is_title(part):
        return ""
    word = part.rsplit(None, 1)[-1]
    colon = _COLON.search(word)
    if not colon or not part[: len(part) - len(word) + colon.start()].strip():
        return ""
    ending = word[colon.end() :]
    return ending if any(map(str.isalnum, ending)) else ""


def warn_of_titles(prompts: Sequence[Prompt]) -> None:
    """Warn of colons before numbers that are drawn as words; say how to write a weight and a plain colon."""
    titles = [prompt.title for prompt in prompts if prompt.title]
    if titles and (ending := _weight_ending(titles[0])):
        numbers = ":".join(map(str.strip, ending[1]))
        texts = " and ".join(repr(shorten(title, 80)) for title in titles)
        warnings.warn(
            f"prompt: {texts} {'are' if len(titles) > 1 else 'is'} drawn as words; a weight is written with a space "
            rf'before the colon and none after it, " :{numbers}", and a plain colon with a backslash, "\:{numbers}"',
            stacklevel=3,
        )


def format_prompt(prompt: Prompt, argument: str = "prompt") -> str:
    """Return a prompt in the grammar, as ``parse_parts`` reads it."""
    text = " -> ".join(_escape(part, is_picture_name(prompt.text)) for part in (prompt.source, prompt.text) if part)
    where = f" [{prompt.where}]" if prompt.where else ""
    stop = f":{prompt.stop:g}" if prompt.stop > -math.inf else ""
    weight = f":{prompt.weight:g}{stop}" if stop or prompt.weight != _WEIGHTS[argument] else ""
    start, end = prompt.span
    span = f" @{start}-{'' if end == math.inf else end}" if prompt.span != (0, math.inf) else ""
    return text + where + (" " if _is_title(text + where + weight) else "") + weight + span


def _escape(text: str, is_name: bool) -> str:
    # A colon is escaped in the name of a picture if a number may follow, in words unless a space and words follow.
    colon = r":(?=\s*[-+.\dni])" if is_name else r":(?!//|\s+[^-+.\dni\s])"
    return text if is_windows_path(text) else re.sub(rf"([|@\[]|(?<!\S)->(?!\S)|{colon})", r"\\\1", text)


def slug(text: str, longest: int = 60) -> str:
    """Return a file name for a prompt: ``A red apple!`` to ``a-red-apple``, emoji by their names.

    It is not the name of a Windows device, and has at most ``longest`` characters of at most three bytes on average.
    """
    if any(not (letter.isascii() or letter.isalnum()) for letter in text):
        from emoji import replace_emoji  # its table takes a while to load

        text = replace_emoji(text, lambda _, emoji: f" {emoji['en'].replace('_', '-')} ")
    name = re.sub(r"[^\w]+", "-", text.lower()).strip("-_")[:longest]
    name = shorten_name(name, 3 * longest).strip("-_") or "picture"
    return f"{name}-picture" if _DEVICE.fullmatch(name) else name
