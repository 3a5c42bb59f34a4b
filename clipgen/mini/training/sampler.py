"""Captioned scenes composed from emoji drawings: backgrounds, one or two objects, relations, colours."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from clipgen.losses.regularisers import lightness
from clipgen.mini.scenes import COLOURS, LOCATIONS, draw_scenery
from clipgen.mini.training.data import STYLES, Drawings, is_held_out

RELATIONS = {
    "beside": ("{a} and {b}", "{a} next to {b}", "{a} with {b}", "{a} beside {b}"),
    "above": ("{a} above {b}", "{a} on top of {b}", "{a} over {b}"),
}
STYLE_WORDS = {"fluent-emoji": "glossy", "fluent-emoji-flat": "flat", "noto-v1": "round"}
_FLIPPED_GROUPS = {"animals-nature", "food-drink"}  # nothing with lettering in it


@dataclass(frozen=True)
class Mix:
    """How often a scene has what, and in which ranges (sizes in shares of a side, places from -1 to 1)."""

    keyword: float = 0.25  # instead of the name
    coloured: float = 0.25
    pair: float = 0.3
    small: float = 0.08
    big: float = 0.06
    mirrored: float = 0.5  # a drawing; also the two of a pair changing places
    size: tuple[float, float] = (0.6, 1.0)
    wander: float = 1.0  # how much of the room around it a single object uses
    pair_size: tuple[float, float] = (0.4, 0.55)
    pair_offset: tuple[float, float] = (0.42, 0.52)
    pair_jitter: float = 0.15


# One size and one place for one object and for each of two: less to learn, and more that a caption tells apart.
PLAIN = Mix(
    keyword=0.05,
    coloured=0.35,
    pair=0.4,
    small=0,
    big=0,
    mirrored=0,
    size=(0.875, 0.875),
    wander=0,
    pair_size=(0.5, 0.5),
    pair_offset=(0.5, 0.5),
    pair_jitter=0,
)


@dataclass(frozen=True)
class Batch:
    """Scenes (B, 3, S, S) in [0, 1], their captions, and what they show as (B, 2) indices into ``Drawings.things``:
    the same twice when there is one object."""

    images: Tensor
    captions: list[str]
    things: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return replace(self, images=self.images.to(device), things=self.things.to(device))

    def same(self) -> Tensor:
        """(B, B): 1 where two captions are equal, else 0."""
        number = {caption: i for i, caption in enumerate(self.captions)}
        index = torch.tensor([number[caption] for caption in self.captions], device=self.things.device)
        return (index[:, None] == index[None]).float()


class _Object(NamedTuple):
    thing: int
    drawing: int
    colour: str | None
    phrase: str


class SceneSampler:
    """Endless captioned scenes of size (S, S) on a given set of drawings.

    ``unseen=True`` draws only the held-out combinations and pairs instead of avoiding them, ``None`` all of them.
    """

    def __init__(
        self,
        drawings: Drawings,
        keep,
        size: int = 64,
        seed: int = 0,
        unseen: bool | None = False,
        mix: Mix = Mix(),
    ):
        self.drawings, self.size, self.unseen, self.mix = drawings, size, unseen, mix
        self.rng = torch.Generator().manual_seed(seed)
        keep = torch.as_tensor(keep).nonzero().flatten()
        thing = torch.from_numpy(drawings.thing)[keep]
        self.by_thing = [keep[thing == i] for i in range(len(drawings.things))]
        # People are a quarter of all emoji and much alike: seen less often each.
        self.weights = torch.tensor(
            [len(k) and (0.3 if t.group == "people-body" else 1.0) for k, t in zip(self.by_thing, drawings.things)]
        )
        rgba = torch.from_numpy(drawings.rgba).permute(0, 3, 1, 2)
        # Two mip levels, so that a small object is not sampled more than twofold below its pixels.
        self.levels = [rgba, F.avg_pool2d(rgba.float(), 2).byte()]
        if size < rgba.shape[-1]:
            self.levels = [self.levels[1], F.avg_pool2d(self.levels[1].float(), 2).byte()]
        self.backgrounds = {
            place: torch.stack([draw_scenery(place, size, self.rng) for _ in range(24)]) for place in LOCATIONS
        }

    def batch(self, count: int) -> Batch:
        """``count`` new scenes."""
        canvas = torch.ones(count, 3, self.size, self.size)
        captions, things = [], []
        layers: list[list[tuple]] = [[], []]  # (row, drawing, colour, scale, x, y, flip)
        for row in range(count):
            first = self._object()
            second = self._object() if self._chance(self.mix.pair) else None
            if second and not self._may_meet(first, second):
                second = None
            place = self._choice(list(LOCATIONS)) if self._chance(0.35) else None
            plain = self._choice(list(COLOURS)) if place is None and self._chance(0.3) else None
            if place:
                canvas[row] = self._choice(self.backgrounds[place])
            elif plain:
                paper = torch.tensor(COLOURS[plain]) + 0.06 * torch.randn(3, generator=self.rng)
                canvas[row] = paper.clamp(0, 1)[:, None, None]
            caption, spots = self._pair(first, second) if second else self._single(first)
            if place and self._chance(0.9):
                caption = f"{caption} {self._choice(LOCATIONS[place])}"
            elif plain and self._chance(0.6):
                caption = f"{caption} on a {plain} background"
            captions.append(caption)
            things.append((first.thing, (second or first).thing))
            for layer, shown, spot in zip(layers, filter(None, (first, second)), spots):
                turns = self.drawings.things[shown.thing].group in _FLIPPED_GROUPS
                flip = turns and self._chance(self.mix.mirrored)
                layer.append((row, shown.drawing, shown.colour, *spot, flip))
        for layer in filter(None, layers):
            self._paint(canvas, layer)
        return Batch(canvas, captions, torch.tensor(things))

    def crops(self, count: int, size: int, per_scene: int = 4) -> Tensor:
        """(count, 3, size, size) pieces of full-size scenes: a convolutional net needs no whole pictures."""
        images = self.batch(count // per_scene).images
        room = images.shape[-1] - size + 1
        corners = torch.randint(room, (per_scene, 2), generator=self.rng).tolist()
        return torch.cat([images[:, :, y : y + size, x : x + size] for y, x in corners])

    def _choice(self, options):
        return options[int(torch.randint(len(options), (), generator=self.rng))]

    def _uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.rng))

    def _chance(self, share: float) -> bool:
        return self._uniform(0, 1) < share

    def _barred(self, *words: str) -> bool:
        """Whether a combination is not to be drawn."""
        return self.unseen is not None and is_held_out(*words) != self.unseen

    def _may_meet(self, first: _Object, second: _Object) -> bool:
        a, b = (self.drawings.things[shown.thing].name for shown in (first, second))
        return a != b and not self._barred(a, b)

    def _object(self) -> _Object:
        thing = int(torch.multinomial(self.weights, 1, generator=self.rng))
        drawing = int(self._choice(self.by_thing[thing]))
        entry = self.drawings.things[thing]
        colour = self._choice(list(COLOURS)) if self._chance(self.mix.coloured) else None
        if colour and self._barred(colour, entry.name):
            colour = None
        name = entry.name
        if self._chance(self.mix.keyword) and entry.keywords:
            name = self._choice(entry.keywords)
            if self._chance(0.3):
                name = f"{name} {self._choice(entry.keywords)}"
        elif name.endswith(" face") and entry.group == "animals-nature" and self._chance(0.7):
            name = name.removesuffix(" face")
        phrase = f"{colour} {name}" if colour else name
        style = STYLE_WORDS.get(STYLES[int(self.drawings.style[drawing])])
        if style and self._chance(0.05):
            phrase = f"{style} {phrase}"
        if self._chance(0.6):
            phrase = ("an " if phrase[0] in "aeiou" else "a ") + phrase
        return _Object(thing, drawing, colour, phrase)

    def _single(self, shown: _Object) -> tuple[str, list[tuple[float, float, float]]]:
        """The caption of one object, and its (scale, x, y)."""
        mix, caption, size = self.mix, shown.phrase, self._uniform(*self.mix.size)
        bare = caption.removeprefix("a ").removeprefix("an ")
        if (draw := self._uniform(0, 1)) < mix.small:
            caption, size = f"a small {bare}", self._uniform(0.28, 0.42)
        elif draw < mix.small + mix.big:
            caption, size = f"a big {bare}", self._uniform(0.95, 1.15)
        room = mix.wander * max(0.0, 1 - size)
        return caption, [(size, self._uniform(-room, room), self._uniform(-room, room))]

    def _pair(self, first: _Object, second: _Object) -> tuple[str, list[tuple[float, float, float]]]:
        """The caption of two objects, and (scale, x, y) of each."""
        mix, kind = self.mix, self._choice(list(RELATIONS))
        caption = self._choice(RELATIONS[kind]).format(a=first.phrase, b=second.phrase)
        offset = self._uniform(*mix.pair_offset)
        jitter = self._uniform(-mix.pair_jitter, mix.pair_jitter)
        sizes = [self._uniform(*mix.pair_size), self._uniform(*mix.pair_size)]
        beside = kind == "beside"
        spots = [(-offset, jitter), (offset, -jitter)] if beside else [(jitter, -offset), (-jitter, offset)]
        if beside and self._chance(mix.mirrored):
            spots.reverse()
        return caption, [(size, *spot) for size, spot in zip(sizes, spots)]

    def _paint(self, canvas: Tensor, layer: list[tuple]) -> None:
        """Draw at most one drawing per row, from the mip level that suits its size."""
        for level, small in zip(self.levels, (False, True)):
            some = [placed for placed in layer if (placed[3] < 0.6) is small]
            if not some:
                continue
            rows, drawings, colours, *spots = (list(values) for values in zip(*some))
            rgba = level[drawings].float() / 255
            rgba[:, :3] = torch.stack([tint(p[:3], colour) for p, colour in zip(rgba, colours)])
            canvas[rows] = paint(canvas[rows], rgba, *map(torch.tensor, spots))


def paint(canvas: Tensor, rgba: Tensor, scale: Tensor, x: Tensor, y: Tensor, flip: Tensor) -> Tensor:
    """One drawing (straight alpha) on each canvas: ``scale`` of its shorter side, centred at (x, y) in [-1, 1]."""
    rgba = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], 1)  # premultiplied: no dark fringes
    height, width = canvas.shape[-2:]
    short = min(height, width)
    theta = torch.zeros(len(rgba), 2, 3)
    theta[:, 0, 0] = torch.where(flip, -1.0, 1.0) * width / (short * scale)
    theta[:, 1, 1] = height / (short * scale)
    theta[:, 0, 2] = -x * theta[:, 0, 0]
    theta[:, 1, 2] = -y * theta[:, 1, 1]
    grid = F.affine_grid(theta, [len(rgba), 4, *canvas.shape[-2:]], align_corners=False)
    sprite = F.grid_sample(rgba, grid, align_corners=False)
    return sprite[:, :3] + canvas * (1 - sprite[:, 3:])


def tint(rgb: Tensor, colour: str | None) -> Tensor:
    """A (3, H, W) drawing recoloured: its light and shade kept, its hue replaced."""
    if colour is None:
        return rgb
    light = lightness(rgb)
    base = rgb.new_tensor(COLOURS[colour])[:, None, None]
    mid = light.mean().clamp(0.25, 0.75)
    return torch.where(light < mid, base * light / mid, 1 - (1 - base) * (1 - light) / (1 - mid))
