"""Scenes composed on the device that trains, thousands a second: what ``sampler`` composes one by one on a CPU."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from clipgen.losses.regularisers import lightness
from clipgen.mini.scenes import COLOURS, bounding_boxes
from clipgen.mini.training.captions import FIELD, FIELDS, LAYERS, PLAIN, SIDE, Spec
from clipgen.mini.training.data import Drawings
from clipgen.mini.training.fields import field
from clipgen.mini.training.training import Job

LEVELS = (128, 112, 96, 80, 64, 48, 32)  # sides at which every drawing is kept


class Layer(NamedTuple):
    """At most one drawing for each of n scenes; ``row``: which scene.

    Centres and sides are in pixels; ``tint`` and ``texture`` are numbers of colours and drawings, -1 for none.
    """

    row: Tensor
    drawing: Tensor
    side: Tensor
    x: Tensor
    y: Tensor
    flip: Tensor
    tint: Tensor
    texture: Tensor


class Stock:
    """Drawings at several sizes, (N, 4, s, s) uint8 with premultiplied alpha, on a device."""

    def __init__(self, drawings: Drawings, device: torch.device):
        self.device = device
        self.levels: dict[int, Tensor] = {}
        parts: dict[int, list[Tensor]] = {side: [] for side in LEVELS}
        for some in torch.from_numpy(drawings.rgba).split(256):
            rgba = some.to(device).permute(0, 3, 1, 2).float() / 255
            rgba = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], 1)
            for side in LEVELS:
                small = F.interpolate(rgba, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
                parts[side].append((small * 255).round().byte())
        self.levels = {side: torch.cat(some) for side, some in parts.items()}
        self.colours = torch.tensor(list(COLOURS.values()), device=device)

    def paint(self, canvas: Tensor, layer: Layer) -> None:
        """Draw a layer onto scenes (B, 3, SIDE, SIDE), in place."""
        sides = torch.tensor(LEVELS, device=self.device)
        fit = (sides >= layer.side[:, None] * 0.97).sum(1).clamp(min=1) - 1  # the smallest that is large enough
        for i, side in enumerate(LEVELS):
            chosen = (fit == i).nonzero().flatten()
            if not len(chosen):
                continue
            part = Layer(*(values[chosen] for values in layer))
            sprite = self.levels[side][part.drawing].float() / 255
            sprite = self._textured(self._tinted(sprite, part.tint), part.texture, side)
            theta = canvas.new_zeros(len(chosen), 2, 3)
            scale = SIDE / part.side
            theta[:, 0, 0] = torch.where(part.flip, -scale, scale)
            theta[:, 1, 1] = scale
            theta[:, 0, 2] = -(2 * part.x / SIDE - 1) * theta[:, 0, 0]
            theta[:, 1, 2] = -(2 * part.y / SIDE - 1) * scale
            grid = F.affine_grid(theta, [len(chosen), 4, SIDE, SIDE], align_corners=False)
            drawn = F.grid_sample(sprite, grid, align_corners=False)
            canvas[part.row] = drawn[:, :3] + canvas[part.row] * (1 - drawn[:, 3:])

    def _tinted(self, sprite: Tensor, tint: Tensor) -> Tensor:
        some = (tint >= 0).nonzero().flatten()
        if not len(some):
            return sprite
        rgb, alpha = straight(sprite[some])
        sprite[some, :3] = tint_main(rgb, alpha, self.colours[tint[some]]) * alpha
        return sprite

    def _textured(self, sprite: Tensor, texture: Tensor, side: int) -> Tensor:
        """The outline and the shade of a drawing with the colours of another one's middle, mirrored all over."""
        some = (texture >= 0).nonzero().flatten()
        if not len(some):
            return sprite
        rgb, alpha = straight(sprite[some])
        other, cover = straight(self.levels[side][texture[some]].float() / 255)
        mean = (other * cover).sum((2, 3), keepdim=True) / cover.sum((2, 3), keepdim=True).clamp(min=1)
        other = other * cover + mean * (1 - cover)
        quarter = side // 4
        middle = other[:, :, quarter : side - quarter, quarter : side - quarter]
        wide = F.pad(middle, (quarter, quarter, quarter, quarter), mode="reflect")[..., :side, :side]
        light = lightness(rgb)
        mid = (light * alpha).sum((2, 3), keepdim=True) / alpha.sum((2, 3), keepdim=True).clamp(min=1)
        sprite[some, :3] = (wide * (0.55 + 0.45 * light / mid.clamp(min=0.2)).clamp(0.3, 1.3)).clamp(0, 1) * alpha
        return sprite


def boxes(drawings: Drawings) -> Tensor:
    """(N, 5) on the CPU: see ``relations.bounding_boxes``."""
    opaque = torch.from_numpy(drawings.rgba[:, ::2, ::2, 3] > 76)
    return torch.cat([bounding_boxes(some) for some in opaque.split(512)])


def straight(premultiplied: Tensor) -> tuple[Tensor, Tensor]:
    """Colours and opacity of (n, 4, H, W) with premultiplied alpha."""
    alpha = premultiplied[:, 3:]
    return (premultiplied[:, :3] / alpha.clamp(min=1 / 255)).clamp(0, 1), alpha


def main_part(rgb: Tensor, alpha: Tensor, bins: int = 24) -> Tensor:
    """How much of the main colour each pixel is, (n, 1, H, W): the hue that most of a drawing has, or its grey.

    So that a tint leaves eyes, leaves and wheels as they are.
    """
    light = lightness(rgb)
    u, v = rgb[:, :1] - light, rgb[:, 2:] - light
    chroma = (u.square() + v.square()).sqrt()
    hue = torch.atan2(v, u) / (2 * math.pi) + 0.5
    weight = alpha * chroma * (chroma > 0.06)
    number = (hue * bins).long().clamp(0, bins - 1).flatten(1)
    count = torch.zeros(len(rgb), bins, device=rgb.device).scatter_add_(1, number, weight.flatten(1))
    count = count + 0.6 * (count.roll(1, 1) + count.roll(-1, 1))
    peak = (count.argmax(1) + 0.5) / bins
    apart = (hue - peak[:, None, None, None]).abs()
    apart = torch.minimum(apart, 1 - apart)
    coloured = ((0.19 - apart) / 0.05).clamp(0, 1) * ((chroma - 0.02) / 0.06).clamp(0, 1)
    whole = alpha.sum((1, 2, 3)).clamp(min=1)
    colourless = ((0.14 - chroma) / 0.06).clamp(0, 1) * ((light - 0.3) / 0.1).clamp(0, 1)
    dark = ((0.14 - chroma) / 0.06).clamp(0, 1)
    share = [(alpha * part).sum((1, 2, 3)) / whole for part in (coloured, colourless, dark)]
    best = torch.stack([share[0] * 1.4, share[1], share[2] * 0.6], 1).argmax(1)
    parts = torch.stack([coloured, colourless, dark], 1)
    return parts[torch.arange(len(rgb), device=rgb.device), best]


def tint_main(rgb: Tensor, alpha: Tensor, colours: Tensor) -> Tensor:
    """Drawings (n, 3, H, W) whose main part has colours (n, 3): its light and shade kept, its hue replaced."""
    part, light = main_part(rgb, alpha), lightness(rgb)
    weight = part * alpha
    mid = ((light * weight).sum((2, 3), keepdim=True) / weight.sum((2, 3), keepdim=True).clamp(min=1)).clamp(0.25, 0.93)
    base = colours[:, :, None, None]
    tinted = torch.where(light < mid, base * light / mid, 1 - (1 - base) * (1 - light) / (1 - mid))
    return part * tinted + (1 - part) * rgb


VARIANTS = 32  # of each place


class Pool:
    """Scenes of all drawings but the held-out ones, on a device."""

    def __init__(self, job: Job, drawings: Drawings, seed: int, variants: int = VARIANTS):
        self.job, self.stock = job, Stock(drawings, job.device)
        self.rows = torch.from_numpy(~drawings.held_out()).nonzero().flatten().to(job.device)
        self.rng = torch.Generator(device=job.device).manual_seed(seed)
        rng = torch.Generator().manual_seed(seed)
        made = [torch.stack([field(place, SIDE, rng) for _ in range(variants)]) for place in FIELDS]
        self.fields = (torch.stack(made) * 255).round().byte().to(job.device)
        self.ready: list[Tensor] = []

    def draw(self, count: int, at_once: int = 12) -> Tensor:
        """``count`` scenes as ``varied`` makes them, of many that are made together."""
        if not self.ready:
            many = varied(self.stock, self.rows, count * at_once, self.fields.flatten(0, 1), self.rng)
            order = torch.randperm(len(many), generator=self.rng, device=many.device)
            self.ready = list(self.job.place(many[order]).split(count))
        return self.ready.pop()

    def scenes(self, spec: Spec, some: slice) -> Tensor:
        """The pictures (n, 3, SIDE, SIDE) of some of what a ``captions.Writer`` wrote."""
        device = self.job.device
        ground = torch.from_numpy(spec.ground[some]).long().to(device)
        layers = torch.from_numpy(spec.layers[some]).to(device)
        canvas = torch.ones(len(ground), 3, SIDE, SIDE, device=device)
        plain, placed = (ground >= PLAIN) & (ground < FIELD), ground >= FIELD
        papers = self.stock.colours[ground[plain]]
        papers = (papers + 0.03 * torch.randn(papers.shape, generator=self.rng, device=device)).clamp(0, 1)
        canvas[plain] = papers[:, :, None, None].expand(-1, -1, SIDE, SIDE)
        places = ground[placed] - FIELD
        variant = torch.randint(self.fields.shape[1], places.shape, generator=self.rng, device=device)
        canvas[placed] = self.fields[places, variant].float() / 255
        for k in range(LAYERS):
            row = (layers[:, k, 0] >= 0).nonzero().flatten()
            drawing, side, x, y, flip, tint, texture = layers[row, k].unbind(1)
            self.stock.paint(canvas, Layer(row, drawing.long(), side, x, y, flip > 0, tint.long(), texture.long()))
        return canvas


def varied(stock: Stock, rows: Tensor, count: int, fields: Tensor, rng: torch.Generator) -> Tensor:
    """Scenes (count, 3, SIDE, SIDE) without captions, of drawings ``rows``, on some of ``fields``: for a first stage.

    A third a whole drawing on white; others at any size and place, tinted, mirrored, in twos, on papers and places.
    """
    device = stock.device

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=rng, device=device)

    canvas = torch.ones(count, 3, SIDE, SIDE, device=device)
    ground, plain = rand(count), (rand(count) < 0.33)
    placed = ~plain & (ground < 0.25)
    paper = ~plain & (ground > 0.7)
    canvas[placed] = (
        fields[torch.randint(len(fields), (int(placed.sum()),), generator=rng, device=device)].float() / 255
    )
    papers = stock.colours[torch.randint(len(stock.colours), (count,), generator=rng, device=device)]
    papers = torch.where(rand(count, 1) < 0.5, papers, rand(count, 3))
    canvas[paper] = papers[paper][:, :, None, None].expand(-1, -1, SIDE, SIDE)
    for number in range(3):
        shown = torch.ones_like(plain) if number == 0 else ~plain & (rand(count) < (0.5 if number == 1 else 0.25))
        row = shown.nonzero().flatten()
        free = rand(len(row))
        side = torch.where(free < 0.45, 112.0, 24 + 104 * rand(len(row))) if number == 0 else 24 + 56 * rand(len(row))
        room = (SIDE - side).clamp(min=0) / 2 + (4 if number else 0)
        x, y = (64 + ((2 * rand(len(row)) - 1) * room).round() for _ in range(2))
        centred = (free < 0.3) & (number == 0)
        x, y = torch.where(centred, 64.0, x), torch.where(centred, 64.0, y)
        if number == 0:
            whole = plain[row]
            side, x, y = (torch.where(whole, v, w) for v, w in ((128.0, side), (64.0, x), (64.0, y)))
        tints = torch.randint(len(stock.colours), (len(row),), generator=rng, device=device)
        tint = torch.where((rand(len(row)) < 0.2), tints, -1)
        drawing = rows[torch.randint(len(rows), (len(row),), generator=rng, device=device)]
        flip = rand(len(row)) < 0.3
        stock.paint(canvas, Layer(row, drawing, side, x, y, flip, tint, torch.full_like(row, -1)))
    return canvas
