"""A start for a run: a collage of known drawings that CLIP finds nearest to the prompt.

The package remembers a few thousand emoji as tokens of the mini VQGAN (256 numbers a drawing) and their outlines.
The prompt's words choose some of them, and the perceptor, given the whole prompt, chooses among arrangements:
one or two drawings, colours, backgrounds. CLIP-guided collage: Mirowski et al. 2022, CLIP-CLOP.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from clipgen.clip.protocol import Perceptor
from clipgen.generators.catalogue import load_generator
from clipgen.generators.protocol import Discrete
from clipgen.inits import Scene, Start
from clipgen.losses.objectives import Goal
from clipgen.mini import WEIGHTS
from clipgen.mini.scenes import COLOURS, PLACES, background, paint, tint
from clipgen.prompts import Prompt
from clipgen.storage import weights

_MASK = 32  # side of a drawing's outline


@dataclass(frozen=True)
class Library:
    """``tokens`` (N, 16, 16) and ``masks`` (N, 1, 32, 32) of drawings, ``thing`` (N,) into ``names``.

    ``embedded``: the names (K, dim) as mini CLIP understands them, and ``looks``: the drawings (N, dim) as it sees each
    alone, because a thousand texts take their time, and decoding dozens of drawings to look at them.
    """

    tokens: Tensor
    masks: Tensor
    thing: Tensor
    names: tuple[str, ...]
    embedded: Tensor
    looks: Tensor

    def said(self, perceptor: Perceptor) -> Tensor:
        """The names (K, dim) as a perceptor understands them."""
        if perceptor.name == "mini":
            return self.embedded.to(perceptor.device)
        return perceptor.embed_text([called(name) for name in self.names])


@cache
def library() -> Library:
    """The drawings that ship with the package."""
    tensors, config = weights.read(WEIGHTS / "memory.safetensors")
    masks, names = unpack_mask(tensors["masks"]), tuple(config["names"])
    return Library(
        tensors["tokens"].long(), masks, tensors["thing"].long(), names, tensors["embedded"], tensors["looks"]
    )


def pack_mask(alpha: Tensor) -> Tensor:
    """(N, 1, H, W) opacity in [0, 1] to (N, 128) uint8 outlines, a bit a cell."""
    bits = (F.adaptive_avg_pool2d(alpha, _MASK) > 0.5).reshape(len(alpha), -1, 8).to(torch.uint8)
    return (bits << torch.arange(8, dtype=torch.uint8)).sum(-1).to(torch.uint8)


def unpack_mask(packed: Tensor) -> Tensor:
    """What ``pack_mask`` made, to (N, 1, 32, 32) of 0 and 1."""
    bits = packed[..., None].bitwise_right_shift(torch.arange(8, dtype=torch.uint8)) & 1
    return bits.reshape(-1, 1, _MASK, _MASK).float()


def called(name: str) -> str:
    """What a person calls a thing: "dog" is the "dog face", too."""
    return name.removesuffix(" face")


class Collage(Start):
    """From random codes towards a collage of the prompt's things.

    It is held firmly, twelve times as much as a photograph would be: left to itself, a CLIP as small as the embedded
    one is soon fooled.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[Prompt, ...], tuple[_Layout, dict[int, Tensor]]] = {}

    def goals(self, scene: Scene) -> list[Goal]:
        def imagine(prompts: list[Prompt], size: tuple[int, int]) -> Tensor:
            if (asked := tuple(prompts)) not in self._found:
                self._found[asked] = arrangement(scene.perceptor, prompts)
            return painted(*self._found[asked], size).to(scene.param.device)

        return scene.goals(imagine, strength=12.0)


@dataclass(frozen=True)
class _Layout:
    """Up to two drawings with their colours on a background."""

    drawings: tuple[int, ...]
    colours: tuple[str | None, ...]
    place: str | None = None
    above: bool = False

    def spots(self) -> list[tuple[float, float, float]]:
        """(scale, x, y) of each drawing."""
        if len(self.drawings) == 1:
            return [(0.85 if self.place is None else 0.7, 0.0, 0.0)]
        return [(0.5, 0.0, -0.48), (0.5, 0.0, 0.48)] if self.above else [(0.5, -0.48, 0.0), (0.5, 0.48, 0.0)]


def phrases(text: str, longest: int = 3) -> list[str]:
    """Every run of one to ``longest`` words, and the whole."""
    words = [w for w in re.findall(r"[\w'-]+", text.lower()) if w not in ("a", "an", "the", "of", "and", "in", "on")]
    runs = {" ".join(words[i : i + n]) for n in range(1, longest + 1) for i in range(len(words) - n + 1)}
    return sorted(runs | {text})


def arrangement(perceptor: Perceptor, prompts: list[Prompt]) -> tuple[_Layout, dict[int, Tensor]]:
    """The one that is nearest to the prompts, and its drawings."""
    wanted = [p for p in prompts if p.weight > 0]
    targets = perceptor.embed_text([p.text for p in prompts])
    strength = torch.tensor([p.weight for p in prompts], device=targets.device)
    parts = perceptor.embed_text([part for p in wanted for part in phrases(p.text)])
    likeness = (library().said(perceptor) @ parts.T).amax(1).cpu()
    things = likeness.topk(min(16, len(likeness))).indices.tolist()
    drawings = [i for thing in things for i in (library().thing == thing).nonzero().flatten().tolist()]
    fields = {p: background(p, perceptor.size, torch.Generator().manual_seed(0)) for p in PLACES}
    sprites: dict[int, Tensor] = {}

    def seen(layouts: list[_Layout]) -> Tensor:
        missing = sorted({drawing for x in layouts for drawing in x.drawings} - sprites.keys())
        sprites.update(zip(missing, _sprites(missing), strict=True) if missing else ())
        pictures = torch.stack([_render(x, sprites, fields, (perceptor.size,) * 2) for x in layouts])
        return torch.cat([perceptor.encode_image(p.to(targets.device)) for p in pictures.split(64)])

    def ranked(layouts: list[_Layout], looks: Tensor | None = None) -> list[_Layout]:
        looks = seen(layouts) if looks is None else looks.to(targets.device)
        fits = (looks @ targets.T @ strength / strength.abs().sum()).cpu()
        # A drawing's name says what it shows more surely than its looks say to a small CLIP.
        named = torch.stack([likeness[library().thing[list(x.drawings)]].mean() for x in layouts])
        return [layouts[i] for i in (fits + named).argsort(descending=True, stable=True)]

    with torch.no_grad():
        known = library().looks[drawings] if perceptor.name == "mini" else None
        single = ranked([_Layout((d,), (None,)) for d in drawings], known)
        tops = _one_each([x.drawings[0] for x in single], 8)
        pairs = [_Layout((a, b), (None, None), above=up) for a in tops for b in tops if a != b for up in (False, True)]
        chosen = ranked(
            [replace(x, place=place) for x in single[:6] + ranked(pairs)[:4] for place in (None, *PLACES)]
            + [replace(x, colours=(colour,)) for x in single[:4] for colour in COLOURS]
        )[0]
    return chosen, {drawing: sprites[drawing] for drawing in chosen.drawings}


def painted(chosen: _Layout, sprites: dict[int, Tensor], size: tuple[int, int]) -> Tensor:
    """An arrangement as (1, 3, H, W) in [0, 1] on the CPU; ``size`` is (H, W)."""
    places = {p: background(p, max(size), torch.Generator().manual_seed(0)) for p in PLACES if p == chosen.place}
    places = {p: F.interpolate(b[None], size)[0] for p, b in places.items()}
    return _render(chosen, sprites, places, size)[None]


def _one_each(drawings: list[int], count: int) -> list[int]:
    """The first drawing of each of the first ``count`` things."""
    firsts: dict[int, int] = {}
    for drawing in drawings:
        firsts.setdefault(int(library().thing[drawing]), drawing)
    return list(firsts.values())[:count]


@torch.no_grad()
def _sprites(drawings: list[int]) -> Tensor:
    """(N, 4, 128, 128) RGBA of remembered drawings."""
    generator = cast(Discrete, load_generator("mini-vqgan"))
    return cut_out(generator.image(generator.place(library().tokens[drawings])), library().masks[drawings])


def cut_out(pictures: Tensor, masks: Tensor) -> Tensor:
    """(N, 3, H, W) within outlines (N, 1, 32, 32), to (N, 4, H, W) with soft edges."""
    masks = F.interpolate(masks, pictures.shape[-2:], mode="bilinear")
    return torch.cat([pictures, ((masks - 0.3) / 0.4).clamp(0, 1)], 1)


def alone(sprites: Tensor, side: int) -> Tensor:
    """Drawings (N, 4, H, W), each in the middle of a white picture: (N, 3, side, side)."""
    return torch.stack([_render(_Layout((0,), (None,)), {0: one}, {}, (side, side)) for one in sprites])


def _render(layout: _Layout, sprites: dict[int, Tensor], places: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
    canvas = places[layout.place] if layout.place else torch.ones(3, *size)
    for drawing, colour, (scale, x, y) in zip(layout.drawings, layout.colours, layout.spots(), strict=True):
        rgba = sprites[drawing]
        if min(size) * scale < rgba.shape[-1] / 2:
            rgba = F.avg_pool2d(rgba, 2)
        rgba = torch.cat([tint(rgba[:3], colour), rgba[3:]])[None]
        at = (torch.tensor([v]) for v in (scale, x, y, False))
        canvas = paint(canvas[None], rgba, *at)[0]
    return canvas
