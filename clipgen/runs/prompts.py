r"""The prompt grammar: ``a cat:2 | watermark:-0.5``, in full ``text [where] :weight:stop @from-to``.

Prompts are separated by ``|``. Each may end with any of

* ``:weight`` - how much it counts; a negative one pushes away,
* ``:weight:stop`` - nearer than this distance it does not pull any more, nor further does it push with a weight below
  0, whose stop may have a minus, too (Crowson's VQGAN+CLIP notebook, 2021),
* ``@from-to`` - the steps in which it holds; where two spans overlap, one fades into the other,
* ``[where]`` - the part of the picture that it is about: ``top``, ``left``, ``x,y,w,h``, a mask file.

A prompt that is an address or ends like an image file is an image, in quotes, too. ``\|``, ``\:``, ``\@`` and ``\[``
are plain, but in a Windows path.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

from clipgen.errors import ClipgenError
from clipgen.images.names import is_picture_name, is_windows_path, unquoted
from clipgen.optvis.prompt import Prompt

_BAR = re.compile(r"(?<!\\)\|")
_NUMBER = r"[+-]?(?:\d+\.?\d*(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?|nan|inf)"
_WEIGHT = re.compile(rf"(?<!\\):\s*({_NUMBER})(?:\s*:\s*({_NUMBER}))?\s*$", re.IGNORECASE)
_SPAN = re.compile(r"(?<!\\)@\s*(\d{0,9})\s*-\s*(\d{0,9})\s*$")
_WHERE = re.compile(r"(?<!\\)\[([^\[\]]*)\]\s*$")


def weighted(text: str) -> list[tuple[str, float]]:
    r"""The parts between ``|``, each with the ``:weight`` at its end or 1; ``\|`` and ``\:`` are plain."""
    prompts = (_prompt(part) for part in _BAR.split(text))
    return [(prompt.text, prompt.weight) for prompt in prompts if prompt.text]


def _prompt(part: str, weight: float = 1.0) -> Prompt:
    knobs: dict[str, Any] = {}
    while True:  # the endings come in any order, each once
        if "weight" not in knobs and (found := _WEIGHT.search(part)):
            knobs |= {"weight": float(found[1])} | ({"stop": float(found[2])} if found[2] else {})
        elif "span" not in knobs and (found := _SPAN.search(part)) and (found[1] or found[2]):
            knobs["span"] = int(found[1] or 0), int(found[2]) if found[2] else math.inf
        elif "where" not in knobs and (found := _WHERE.search(part)) and found[1].strip():
            knobs["where"] = found[1].strip()
        else:
            text = _plain(part)
            return Prompt(text, **{"weight": weight} | knobs, is_image=is_picture_name(text))
        part = part[: found.start()]


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
    prompts = [prompt for part in _BAR.split(text) if (prompt := _prompt(part)).text]
    if not prompts:
        raise ClipgenError(
            f'prompt={text!r}: there is nothing to draw; write what you want to see, such as "a red apple"'
        )
    away = (_prompt(part, 0.5) for part in _BAR.split(negative))
    prompts += [replace(prompt, weight=-abs(prompt.weight)) for prompt in away if prompt.text]
    for prompt in prompts:
        if prompt.span[1] <= prompt.span[0]:
            raise ClipgenError(f'prompt={text!r}: a span ends after it begins, such as "{prompt.text}@0-100"')
        if not prompt.stop < math.inf:
            raise ClipgenError(f'prompt={text!r}: a stop is a distance, such as "{prompt.text}:1:0.3"')
    if not all(math.isfinite(p.weight) for p in prompts) or max(p.weight for p in prompts) <= 0:
        raise ClipgenError(
            f'prompt={text!r}: at least one prompt needs a finite weight above 0, such as "a cat:1 | dog:-0.5"'
        )
    return prompts


def slug(text: str, longest: int = 60) -> str:
    """A file name for a prompt: ``A red apple!`` to ``a-red-apple``."""
    return re.sub(r"[^\w]+", "-", text.lower()).strip("-_")[:longest].strip("-_") or "picture"
