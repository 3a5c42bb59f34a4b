"""A start for a run: the transformer draws each thing alone, grey where it is to be coloured, and CLIP does the rest.

What the transformer knows by heart are plain things, by the names that it was taught. Of a coloured one it draws an
outline without its parts, of two at once hardly either. To colour a drawing, on the other hand, is what CLIP's gradient
does well, if there is no colour in its way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from clipgen.images.palette import lightness
from clipgen.mini.collage import called, library
from clipgen.mini.scenes import COLOURS, with_article
from clipgen.models.perceptors.catalogue import embed, load_perceptor
from clipgen.models.perceptors.protocol import Perceptor
from clipgen.models.priors.sampling import Drawings
from clipgen.optvis.drawn import Dalle, texts
from clipgen.optvis.objectives import Goal
from clipgen.optvis.prompt import Prompt
from clipgen.optvis.starts import Scene

_PLACED = re.compile(r"\b(in|on|at|over|under|with|of)\b")
_ARTICLES = {"a", "an", "the"}
ALIKE = 0.88  # the cosine of two names of a thing: of a car and an automobile 0.91; a squirrel is no bison, 0.86
CALM = 0.5  # the temperature at which a thing is drawn that it knows by heart, and without guidance


class Thing(NamedTuple):
    """What is drawn, and whether the prompt has a colour for it."""

    text: str
    coloured: bool


def things(text: str) -> list[Thing]:
    """Each is drawn alone: "a red car and a cat" is "a car" and "a cat"; a scene stays as it is."""
    if text.count(" and ") > 1 or _PLACED.search(text):
        return [Thing(text, False)]
    return [_thing(part) for part in text.split(" and ")]


def _thing(text: str) -> Thing:
    words = [word for word in text.split() if word.lower() not in COLOURS]
    known = _bare(text) in names()  # "a red apple"
    if known or len(words) == len(text.split()) or not set(words) - _ARTICLES:  # "an orange" is a thing
        return Thing(text, False)
    for i, word in enumerate(words[:-1]):
        if word in ("a", "an"):
            words[i] = "an" if words[i + 1][0].lower() in "aeiou" else "a"
    return Thing(" ".join(words), True)


@cache
def names() -> list[str]:
    """What drawings are called. The transformer was taught 841 of these names."""
    return [called(name) for name in library().names]


def taught(text: str, perceptor: Perceptor) -> str:
    """A thing by the name that the transformer was taught: "a car" is "an automobile".

    Mini CLIP knows which are alike: ``perceptor``, if it is that.
    """
    if _bare(text) in (*names(), ""):
        return text
    mini = perceptor if perceptor.name == "mini" else load_perceptor("mini")
    alike, which = (library().said(mini) @ embed(mini, [text])[0]).max(0)
    return text if alike < ALIKE else with_article(names()[int(which)])


def _bare(text: str) -> str:
    return " ".join(word for word in text.split() if word.lower() not in _ARTICLES)


def places(height: int, width: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Top, left and side of two squares, end to end along the longer side and a little askew across it.

    Where they would be small, their margins overlap. Mini CLIP knows pairs so, and not from corner to corner.
    """
    long, short = max(height, width), min(height, width)
    side = max(min(short, long // 2), 9 * short // 16)
    middle, askew = (short - side) // 2, (short - side) // 6
    first, second = (0, middle - askew), (long - side, middle + askew)
    if height > width:
        return (*first, side), (*second, side)
    return (*first[::-1], side), (*second[::-1], side)


class Drafts(Dalle):
    """The things of the prompt side by side; grey, and to be coloured in, where the prompt has a colour for one."""

    def latent(self, scene: Scene) -> Tensor:
        named = self._named(self._first(scene))
        if len(named) == 1 and not named[0].coloured:
            return super().latent(scene)
        return scene.param.encode(self._image(scene, self._first(scene), scene.size))

    def goals(self, scene: Scene) -> list[Goal]:
        return scene.goals(lambda prompts, size: self._image(scene, prompts, size), space="colouring")

    def _named(self, prompts: Sequence[Prompt]) -> list[Thing]:
        return things(" and ".join(prompt.text for prompt in texts(prompts)))

    def _image(self, scene: Scene, prompts: Sequence[Prompt], size: tuple[int, int]) -> Tensor:
        named = self._named(prompts)
        if len(named) == 1:
            return self._draft(scene, named[0], size)
        image = torch.ones(1, 3, *size, device=scene.param.device)
        for thing, (top, left, side) in zip(named, places(*size), strict=True):
            place = image[..., top : top + side, left : left + side]
            place.copy_(torch.minimum(place, self._draft(scene, thing, (side, side))))
        return image

    def _draw(self, scene: Scene, text: str, temperature: float | None = CALM, guidance: float | None = 1) -> Drawings:
        """Of a thing, the likeliest first: of what it knows by heart it is sure, of what it mixes from several not."""
        if " and " in text or _PLACED.search(text):
            return super()._draw(scene, text)
        drawings = super()._draw(scene, taught(text, scene.perceptor), temperature, guidance)
        return drawings.ordered(drawings.likelihoods)

    def _draft(self, scene: Scene, thing: Thing, size: tuple[int, int]) -> Tensor:
        draft = super()._image(scene, [Prompt(thing.text)], size)
        return lightness(draft).expand_as(draft) if thing.coloured else draft
