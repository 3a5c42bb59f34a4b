"""A start for a run: the transformer draws each thing alone, grey where it is to be coloured, and CLIP does the rest.

What the transformer knows by heart are plain things. Of a coloured one it draws an outline without its parts, of two at
once hardly either. To colour a drawing, on the other hand, is what CLIP's gradient does well, if there is no colour in
its way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from clipgen.mini.scenes import COLOURS, lightness
from clipgen.optvis.drawn import Dalle
from clipgen.optvis.objectives import Goal
from clipgen.optvis.prompt import Prompt
from clipgen.optvis.starts import Scene

_PLACED = re.compile(r"\b(in|on|at|over|under|with|of)\b")
_ARTICLES = {"a", "an", "the"}


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
    if len(words) == len(text.split()) or not set(words) - _ARTICLES:  # "an orange" is a thing
        return Thing(text, False)
    for i, word in enumerate(words[:-1]):
        if word in ("a", "an"):
            words[i] = "an" if words[i + 1][0].lower() in "aeiou" else "a"
    return Thing(" ".join(words), True)


class Drafts(Dalle):
    """The things of the prompt side by side; grey, and held loosely, where the prompt has a colour for one."""

    def latent(self, scene: Scene) -> Tensor:
        named = self._named(self._first(scene))
        if len(named) == 1 and not named[0].coloured:
            return super().latent(scene)
        return scene.param.encode(self._image(scene, self._first(scene), scene.size))

    def goals(self, scene: Scene) -> list[Goal]:
        coloured = any(thing.coloured for thing in self._named(scene.prompts))
        strength = (0.3 if scene.param.stride == 1 else 1.5) * (1 if coloured else 6)
        return scene.goals(lambda prompts, size: self._image(scene, prompts, size), strength)

    def _named(self, prompts: Sequence[Prompt]) -> list[Thing]:
        return things(" and ".join(prompt.text for prompt in prompts if prompt.weight > 0 and not prompt.is_image))

    def _image(self, scene: Scene, prompts: Sequence[Prompt], size: tuple[int, int]) -> Tensor:
        named = self._named(prompts)
        side = min(size[0], size[1] // len(named))
        drawn = [self._draft(scene, thing, (side, side)) for thing in named]
        if len(drawn) == 1:
            return F.interpolate(drawn[0], size, mode="bicubic", antialias=True).clamp(0, 1)
        image = torch.ones(1, 3, *size, device=scene.param.device)
        for i, one in enumerate(drawn):
            middle = (2 * i + 1) * size[1] // (2 * len(drawn))
            top, left = (size[0] - side) // 2, middle - side // 2
            image[..., top : top + side, left : left + side] = one
        return image

    def _draft(self, scene: Scene, thing: Thing, size: tuple[int, int]) -> Tensor:
        draft = super()._image(scene, [Prompt(thing.text)], size)
        return lightness(draft).expand_as(draft) if thing.coloured else draft
