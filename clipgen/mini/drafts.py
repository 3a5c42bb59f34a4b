"""A start for a run without a decoder: the transformer draws each thing alone, and CLIP's gradient does the rest.

What the transformer knows by heart are plain things. Of a coloured one it draws an outline without its parts, of two at
once hardly either; to colour a drawing, on the other hand, is what a gradient does well.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from clipgen.mini.scenes import COLOURS
from clipgen.optvis.drawn import Dalle
from clipgen.optvis.objectives import Goal
from clipgen.optvis.prompt import Prompt
from clipgen.optvis.starts import Scene

_PLACED = re.compile(r"\b(in|on|at|over|under|with|of)\b")


def things(text: str) -> list[str]:
    """What is drawn, each alone: "a red car and a cat" is "a car" and "a cat"; what has a place stays together."""
    together = text.count(" and ") > 1 or _PLACED.search(text)
    return [_uncoloured(part) for part in ([text] if together else text.split(" and "))]


def _uncoloured(text: str) -> str:
    words = [word for word in text.split() if word.lower() not in COLOURS]
    for i, word in enumerate(words[:-1]):
        if word in ("a", "an"):
            words[i] = "an" if words[i + 1][0].lower() in "aeiou" else "a"
    return " ".join(words) or text


class Drafts(Dalle):
    """As ``Dalle`` for a decoder; without one, the things of the prompt side by side, held loosely."""

    def latent(self, scene: Scene) -> Tensor:
        if scene.param.stride > 1:
            return super().latent(scene)
        return scene.param.encode(self._image(scene, self._first(scene), scene.size))

    def goals(self, scene: Scene) -> list[Goal]:
        if scene.param.stride > 1:
            return super().goals(scene)
        return scene.goals(lambda prompts, size: self._image(scene, prompts, size), strength=0.1)

    def _image(self, scene: Scene, prompts: Sequence[Prompt], size: tuple[int, int]) -> Tensor:
        text = " and ".join(prompt.text for prompt in prompts if prompt.weight > 0)
        if scene.param.stride > 1:
            return super()._image(scene, prompts, size)
        named = things(text)
        side = min(size[0], size[1] // len(named))
        drawn = [super(Drafts, self)._image(scene, [Prompt(name)], (side, side)) for name in named]
        if len(drawn) == 1:
            return F.interpolate(drawn[0], size, mode="bicubic", antialias=True).clamp(0, 1)
        image = torch.ones(1, 3, *size, device=scene.param.device)
        for i, one in enumerate(drawn):
            middle = (2 * i + 1) * size[1] // (2 * len(drawn))
            top, left = (size[0] - side) // 2, middle - side // 2
            image[..., top : top + side, left : left + side] = one
        return image
