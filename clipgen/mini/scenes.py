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


@dataclass
class Batch:
    images: Tensor  # (B, 3, S, S) in [0, 1]
    captions: list[str]
    things: Tensor  # (B, 2) indices into Drawings.things; the same twice when there is one object


class SceneSampler:
    """Endless captioned scenes of size (S, S) on a given set of drawings.

    ``unseen=True`` draws only the held-out combinations and pairs instead of avoiding them. ``cells``: nothing is
    mirrored, and sizes and places are multiples of two of so many cells of a side, so that a drawing always falls
    on its tokens in the same way and there is less to learn.
    """

    def __init__(self, drawings: Drawings, keep, size: int = 64, seed: int = 0, unseen: bool = False, cells: int = 0):
        self.drawings, self.size, self.unseen, self.cells = drawings, size, unseen, cells
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

    def _object(self) -> tuple[int, int, str | None, str]:
        """(thing, drawing, colour, noun phrase)"""
        thing = int(torch.multinomial(self.weights, 1, generator=self.rng))
        drawing = int(self._choice(self.by_thing[thing]))
        entry = self.drawings.things[thing]
        colour = self._choice(list(COLOURS)) if self._uniform(0, 1) < 0.25 else None
        if colour and held_out(colour, entry.name) != self.unseen:
            colour = None
        name = entry.name
        if self._uniform(0, 1) < 0.25 and entry.keywords:
            name = self._choice(entry.keywords)
            if self._uniform(0, 1) < 0.3:
                name = f"{name} {self._choice(entry.keywords)}"
        elif name.endswith(" face") and entry.group == "animals-nature" and self._uniform(0, 1) < 0.7:
            name = name.removesuffix(" face")
        phrase = f"{colour} {name}" if colour else name
        style = STYLE_WORDS.get(STYLES[int(self.drawings.style[drawing])])
        if style and self._uniform(0, 1) < 0.05:
            phrase = f"{style} {phrase}"
        if self._uniform(0, 1) < 0.6:
            phrase = ("an " if phrase[0] in "aeiou" else "a ") + phrase
        return thing, drawing, colour, phrase

    def batch(self, count: int) -> Batch:
        """``count`` new scenes."""
        canvas = torch.ones(count, 3, self.size, self.size)
        captions, things = [], []
        layers: list[list[tuple]] = [[], []]  # (row, drawing, colour, scale, x, y, flip)
        for row in range(count):
            first = self._object()
            second = self._object() if self._uniform(0, 1) < 0.3 else None
            if second and (first[0] == second[0] or self._pair_held_out(first[0], second[0]) != self.unseen):
                second = None
            place = self._choice(list(PLACES)) if self._uniform(0, 1) < 0.35 else None
            plain = self._choice(list(COLOURS)) if place is None and self._uniform(0, 1) < 0.3 else None
            if place:
                canvas[row] = self._choice(self.backgrounds[place])
            elif plain:
                tint = torch.tensor(COLOURS[plain]) + 0.06 * torch.randn(3, generator=self.rng)
                canvas[row] = tint.clamp(0, 1)[:, None, None]
            if second:
                kind = self._choice(list(RELATIONS))
                caption = self._choice(RELATIONS[kind]).format(a=first[3], b=second[3])
                offset = self._uniform(0.42, 0.52)
                jitter = self._uniform(-0.15, 0.15)
                sizes = [self._uniform(0.4, 0.55), self._uniform(0.4, 0.55)]
                spots = (
                    [(-offset, jitter), (offset, -jitter)]
                    if kind == "beside"
                    else [(jitter, -offset), (-jitter, offset)]
                )
                if kind == "beside" and self._uniform(0, 1) < 0.5:
                    spots.reverse()
            else:
                caption, size = first[3], self._uniform(0.6, 1.0)
                if (draw := self._uniform(0, 1)) < 0.08:
                    caption, size = (
                        f"a small {caption.removeprefix('a ').removeprefix('an ')}",
                        self._uniform(0.28, 0.42),
                    )
                elif draw < 0.14:
                    caption, size = f"a big {caption.removeprefix('a ').removeprefix('an ')}", self._uniform(0.95, 1.15)
                room = max(0.0, 1 - size)
                sizes, spots = [size], [(self._uniform(-room, room), self._uniform(-room, room))]
            if place and self._uniform(0, 1) < 0.9:
                caption = f"{caption} {self._choice(PLACES[place])}"
            elif plain and self._uniform(0, 1) < 0.6:
                caption = f"{caption} on a {plain} background"
            captions.append(caption)
            things.append((first[0], (second or first)[0]))
            for layer, thing, size, spot in zip(layers, filter(None, (first, second)), sizes, spots):
                flip = self.drawings.things[thing[0]].group in _FLIPPED_GROUPS and self._uniform(0, 1) < 0.5
                layer.append((row, thing[1], thing[2], size, *spot, flip))
        for layer in filter(None, layers):
            canvas = self._paint(canvas, layer)
        return Batch(canvas, captions, torch.tensor(things))

    def _pair_held_out(self, a: int, b: int) -> bool:
        return held_out(self.drawings.things[a].name, self.drawings.things[b].name)

    def _paint(self, canvas: Tensor, layer: list[tuple]) -> Tensor:
        if half := self.cells // 2:
            layer = [(*entry[:3], *(round(value * half) / half for value in entry[3:6]), False) for entry in layer]
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
