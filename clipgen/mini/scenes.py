"""Captioned scenes composed from emoji drawings: backgrounds, one or two objects, relations, colours."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from clipgen.mini.data import STYLES, Drawings, fraction

COLOURS = {
    "red": (0.88, 0.15, 0.15), "orange": (0.98, 0.55, 0.1), "yellow": (0.99, 0.84, 0.15), "green": (0.2, 0.68, 0.25),
    "blue": (0.15, 0.4, 0.9), "purple": (0.55, 0.25, 0.75), "pink": (0.98, 0.55, 0.75), "brown": (0.5, 0.32, 0.2),
    "gray": (0.55, 0.55, 0.58), "black": (0.15, 0.15, 0.17), "white": (0.95, 0.95, 0.96),
}  # fmt: skip
PLACES = {
    "grass": ("on the grass", "in a meadow", "on a green field"),
    "sea": ("over the sea", "in the sea", "on the ocean", "in the water"),
    "night sky": ("in the night sky", "at night", "under the stars", "in space"),
    "sunset": ("at sunset", "in front of a sunset", "at dusk"),
    "beach": ("on the beach", "on the sand"),
    "snow": ("in the snow", "in winter", "on a snowy field"),
    "forest": ("in the forest", "among the trees", "in the woods"),
}
RELATIONS = {
    "beside": ("{a} and {b}", "{a} next to {b}", "{a} with {b}", "{a} beside {b}"),
    "above": ("{a} above {b}", "{a} on top of {b}", "{a} over {b}"),
}
STYLE_WORDS = {"fluent-emoji": "glossy", "fluent-emoji-flat": "flat", "noto-v1": "round"}
_FLIPPED_GROUPS = {"animals-nature", "food-drink"}  # nothing with lettering in it


def held_out(*words: str) -> bool:
    """Whether a combination ("blue", "car") or a pair ("apple", "banana") is kept out of training."""
    return fraction(" + ".join(sorted(words))) < 0.1


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
PLAIN = Mix(keyword=0.05, coloured=0.35, pair=0.4, small=0, big=0, mirrored=0, size=(0.875, 0.875), wander=0,
            pair_size=(0.5, 0.5), pair_offset=(0.5, 0.5), pair_jitter=0)  # fmt: skip


@dataclass
class Batch:
    images: Tensor  # (B, 3, S, S) in [0, 1]
    captions: list[str]
    things: Tensor  # (B, 2) indices into Drawings.things; the same twice when there is one object


class SceneSampler:
    """Endless captioned scenes of size (S, S) on a given set of drawings.

    ``unseen=True`` draws only the held-out combinations and pairs instead of avoiding them, ``None`` all of them.
    """

    def __init__(self, drawings: Drawings, keep, size: int = 64, seed: int = 0, unseen: bool | None = False,
                 mix: Mix = Mix()):  # fmt: skip
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
            place: torch.stack([background(place, size, self.rng) for _ in range(24)]) for place in PLACES
        }

    def _choice(self, options):
        return options[int(torch.randint(len(options), (), generator=self.rng))]

    def _uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.rng))

    def _chance(self, share: float) -> bool:
        return self._uniform(0, 1) < share

    def _object(self) -> tuple[int, int, str | None, str]:
        """(thing, drawing, colour, noun phrase)"""
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
        return thing, drawing, colour, phrase

    def batch(self, count: int) -> Batch:
        """``count`` new scenes."""
        mix, canvas = self.mix, torch.ones(count, 3, self.size, self.size)
        captions, things = [], []
        layers: list[list[tuple]] = [[], []]  # (row, drawing, colour, scale, x, y, flip)
        for row in range(count):
            first = self._object()
            second = self._object() if self._chance(mix.pair) else None
            names = [self.drawings.things[thing[0]].name for thing in (first, second) if thing]
            if second and (names[0] == names[1] or self._barred(*names)):
                second = None
            place = self._choice(list(PLACES)) if self._chance(0.35) else None
            plain = self._choice(list(COLOURS)) if place is None and self._chance(0.3) else None
            if place:
                canvas[row] = self._choice(self.backgrounds[place])
            elif plain:
                tint = torch.tensor(COLOURS[plain]) + 0.06 * torch.randn(3, generator=self.rng)
                canvas[row] = tint.clamp(0, 1)[:, None, None]
            if second:
                kind = self._choice(list(RELATIONS))
                caption = self._choice(RELATIONS[kind]).format(a=first[3], b=second[3])
                offset = self._uniform(*mix.pair_offset)
                jitter = self._uniform(-mix.pair_jitter, mix.pair_jitter)
                sizes = [self._uniform(*mix.pair_size), self._uniform(*mix.pair_size)]
                spots = (
                    [(-offset, jitter), (offset, -jitter)]
                    if kind == "beside"
                    else [(jitter, -offset), (-jitter, offset)]
                )
                if kind == "beside" and self._chance(mix.mirrored):
                    spots.reverse()
            else:
                caption, size = first[3], self._uniform(*mix.size)
                bare = caption.removeprefix("a ").removeprefix("an ")
                if (draw := self._uniform(0, 1)) < mix.small:
                    caption, size = f"a small {bare}", self._uniform(0.28, 0.42)
                elif draw < mix.small + mix.big:
                    caption, size = f"a big {bare}", self._uniform(0.95, 1.15)
                room = mix.wander * max(0.0, 1 - size)
                sizes, spots = [size], [(self._uniform(-room, room), self._uniform(-room, room))]
            if place and self._chance(0.9):
                caption = f"{caption} {self._choice(PLACES[place])}"
            elif plain and self._chance(0.6):
                caption = f"{caption} on a {plain} background"
            captions.append(caption)
            things.append((first[0], (second or first)[0]))
            for layer, thing, size, spot in zip(layers, filter(None, (first, second)), sizes, spots):
                flip = self.drawings.things[thing[0]].group in _FLIPPED_GROUPS and self._chance(mix.mirrored)
                layer.append((row, thing[1], thing[2], size, *spot, flip))
        for layer in filter(None, layers):
            canvas = self._paint(canvas, layer)
        return Batch(canvas, captions, torch.tensor(things))

    def _barred(self, *words: str) -> bool:
        """Whether a combination is not to be drawn."""
        return self.unseen is not None and held_out(*words) != self.unseen

    def _paint(self, canvas: Tensor, layer: list[tuple]) -> Tensor:
        rows, drawing, colours, scale, x, y, flip = zip(*layer)
        small = torch.tensor(scale) < 0.6
        index = torch.tensor(drawing)
        for level, here in ((0, ~small), (1, small)):
            if not here.any():
                continue
            pick = here.nonzero().flatten()
            rgba = self.levels[level][index[pick]].float() / 255
            rgba[:, :3] = torch.stack([tint(p[:3], colours[i]) for p, i in zip(rgba, pick.tolist())])
            at = torch.tensor(rows)[pick]
            place = [torch.tensor(values)[pick] for values in (scale, x, y, flip)]
            canvas[at] = paint(canvas[at], rgba, *place)
        return canvas


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
    light = (rgb * rgb.new_tensor([0.3, 0.59, 0.11])[:, None, None]).sum(0, keepdim=True)
    base = rgb.new_tensor(COLOURS[colour])[:, None, None]
    mid = light.mean().clamp(0.25, 0.75)
    return torch.where(light < mid, base * light / mid, 1 - (1 - base) * (1 - light) / (1 - mid))


def background(place: str, size: int, rng: torch.Generator) -> Tensor:
    """One (3, size, size) picture of a place, with nothing in it."""

    def mix(top, bottom, rows):
        ramp = torch.linspace(0, 1, rows)[None, :, None]
        return torch.tensor(top)[:, None, None] * (1 - ramp) + torch.tensor(bottom)[:, None, None] * ramp

    def rand(low, high):
        return low + (high - low) * float(torch.rand((), generator=rng))

    picture = torch.empty(3, size, size)
    sky = {
        "grass": ((0.35, 0.65, 0.95), (0.75, 0.9, 1.0)), "sea": ((0.4, 0.7, 0.98), (0.8, 0.92, 1.0)),
        "night sky": ((0.02, 0.03, 0.14), (0.1, 0.1, 0.32)), "sunset": ((0.4, 0.2, 0.5), (1.0, 0.6, 0.25)),
        "beach": ((0.35, 0.7, 0.97), (0.7, 0.9, 1.0)), "snow": ((0.6, 0.75, 0.9), (0.85, 0.92, 0.98)),
        "forest": ((0.1, 0.28, 0.12), (0.3, 0.5, 0.25)),
    }[place]  # fmt: skip
    ground = {
        "grass": ((0.4, 0.75, 0.25), (0.2, 0.55, 0.15)), "sea": ((0.2, 0.5, 0.85), (0.05, 0.25, 0.55)),
        "sunset": ((0.5, 0.22, 0.3), (0.2, 0.1, 0.25)), "beach": ((0.96, 0.86, 0.62), (0.88, 0.74, 0.48)),
        "snow": ((0.97, 0.98, 1.0), (0.85, 0.9, 0.97)), "forest": ((0.25, 0.4, 0.15), (0.2, 0.25, 0.1)),
    }.get(place)  # fmt: skip
    horizon = size if not ground else int(size * rand(0.5, 0.75))
    picture[:, :horizon] = mix(*sky, horizon)
    if ground:
        picture[:, horizon:] = mix(*ground, size - horizon)
    ys, xs = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
    if place == "night sky":
        for _ in range(int(rand(20, 45))):
            star = torch.exp(-((xs - rand(0, 1)) ** 2 + (ys - rand(0, 1)) ** 2) / rand(2e-5, 1.2e-4))
            picture = picture + (1 - picture) * star * rand(0.5, 1)
    if place == "sea":
        waves = torch.sin(40 * ys + 3 * torch.sin(2 * math.pi * (2 * xs + rand(0, 1))))
        picture = picture + 0.06 * (waves > 0.6) * (ys > horizon / size)
    if place == "forest":
        for _ in range(int(rand(5, 10))):
            x, width = rand(0, 1), rand(0.02, 0.05)
            trunk = ((xs - x).abs() < width) & (ys < horizon / size + rand(0, 0.15))
            picture = torch.where(trunk, torch.tensor([0.3, 0.2, 0.12])[:, None, None] * rand(0.7, 1.2), picture)
    if ground and place in ("grass", "snow"):
        hill = ys > horizon / size - 0.06 * torch.sin(math.pi * (xs * rand(1, 2) + rand(0, 1)))
        fill = torch.tensor(ground[0])[:, None, None].expand_as(picture)
        picture = torch.where(hill & (ys <= horizon / size), fill, picture)
    return (picture + 0.04 * torch.randn(3, 1, 1, generator=rng)).clamp(0, 1)
