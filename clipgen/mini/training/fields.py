"""Backgrounds of training scenes beyond those of ``scenes``: a skyline by day and night, a room, a road, mountains."""

from __future__ import annotations

import torch
from torch import Tensor

from clipgen.mini.scenes import LOCATIONS, draw_scenery


def field(place: str, size: int, rng: torch.Generator) -> Tensor:
    """One (3, size, size) picture of a place."""
    return _drawn(place, size, rng).expand(3, size, size).clamp(0, 1)


def _drawn(place: str, size: int, rng: torch.Generator) -> Tensor:
    if place in LOCATIONS or place == "sky":
        picture = draw_scenery(place, size, rng)
        return _clouds(picture, rng) if place == "sky" else picture

    def rand(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=rng))

    def colour(*rgb: float, vary: float = 0.05) -> Tensor:
        return (torch.tensor(rgb) + vary * torch.randn((), generator=rng)).clamp(0, 1)[:, None, None]

    ys, xs = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")

    def ramp(top: Tensor, bottom: Tensor) -> Tensor:
        return top * (1 - ys) + bottom * ys

    night = place.endswith("night")
    if place.startswith("city"):
        high, low = ((0.03, 0.04, 0.16), (0.2, 0.16, 0.35)) if night else ((0.45, 0.7, 0.97), (0.9, 0.93, 0.97))
        picture = ramp(colour(*high), colour(*low))
        for depth in (0, 1):
            x = rand(-0.1, 0)
            while x < 1:
                width, top = rand(0.1, 0.2), rand(0.2, 0.5) if depth == 0 else rand(0.4, 0.68)
                grey = rand(0.45, 0.75) - 0.2 * depth
                tone = torch.tensor([grey * rand(0.9, 1.1), grey, grey * rand(0.95, 1.2)]) * (0.28 if night else 1.0)
                house = (xs >= x) & (xs < x + width) & (ys >= top)
                picture = torch.where(house, tone[:, None, None].clamp(0, 1), picture)
                step = 0.055
                windows = ((xs - x) % step > 0.02) & ((ys - top) % (step * 1.3) > 0.035) & (xs < x + width - 0.02)
                lit = (torch.rand(40, 40, generator=rng) < (0.5 if night else 0.9)).repeat_interleave(size // 40 + 1, 0)
                lit = lit.repeat_interleave(size // 40 + 1, 1)[:size, :size]
                pane = colour(1.0, 0.85, 0.45) if night else colour(0.8, 0.9, 0.98)
                picture = torch.where(house & windows & lit & (ys > top + 0.03), pane, picture)
                x += width + rand(0, 0.03)
        street = ys > 0.92
        return torch.where(street, colour(0.12, 0.12, 0.15) if night else colour(0.4, 0.4, 0.43), picture)
    if place == "desert":
        picture = ramp(colour(0.5, 0.75, 0.95), colour(0.95, 0.9, 0.8))
        for level in (0.55, 0.7):
            dune = ys > level - 0.06 * torch.sin(6.3 * (xs * rand(0.6, 1.2) + rand(0, 1)))
            picture = torch.where(dune, colour(0.93 - 0.1 * (level > 0.6), 0.75 - 0.1 * (level > 0.6), 0.45), picture)
        return picture
    if place == "room":
        wall = colour(rand(0.75, 0.95), rand(0.75, 0.92), rand(0.7, 0.9))
        picture = torch.where(
            ys > 0.7, colour(0.65, 0.45, 0.28) * (0.9 + 0.1 * ((xs * 8 + 4 * ys) % 1 > 0.1)), wall + 0 * ys
        )
        frame = (xs > 0.08) & (xs < 0.3) & (ys > 0.12) & (ys < 0.42)
        pane = (xs > 0.1) & (xs < 0.28) & (ys > 0.14) & (ys < 0.4) & ((xs - 0.19).abs() > 0.008)
        return torch.where(pane, colour(0.65, 0.85, 0.98), torch.where(frame, colour(0.95, 0.95, 0.95), picture))
    if place == "road":
        picture = torch.where(ys > 0.55, colour(0.42, 0.72, 0.3), ramp(colour(0.4, 0.7, 0.97), colour(0.85, 0.95, 1.0)))
        spread = (ys - 0.55).clamp(min=0) / 0.45
        picture = torch.where(
            (xs - 0.5).abs() < 0.05 + 0.4 * spread - (spread == 0) * 9, colour(0.38, 0.38, 0.4), picture
        )
        line = ((xs - 0.5).abs() < 0.008 + 0.02 * spread) & ((spread * 6) % 1 < 0.55) & (spread > 0)
        return torch.where(line, colour(0.97, 0.95, 0.85), picture)
    picture = ramp(colour(0.45, 0.7, 0.97), colour(0.88, 0.94, 1.0))
    for depth in (0, 1, 2):
        for _ in range(3):
            x, peak, slope = rand(0, 1), rand(0.2, 0.4) + 0.14 * depth, rand(0.8, 1.3)
            rise = ys - peak - slope * (xs - x).abs()
            picture = torch.where(
                rise > 0, colour(0.5 - 0.1 * depth, 0.55 - 0.06 * depth, 0.65 - 0.18 * depth), picture
            )
            snow = (rise > 0) & (ys < peak + 0.1 + 0.02 * torch.sin(40 * xs))
            picture = torch.where(snow, colour(0.97, 0.98, 1.0), picture)
    return torch.where(ys > 0.85, colour(0.35, 0.6, 0.3), picture)


def _clouds(picture: Tensor, rng: torch.Generator) -> Tensor:
    size = picture.shape[-1]
    ys, xs = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
    for _ in range(4):
        x, y = torch.rand(2, generator=rng).tolist()
        for _ in range(4):
            dx, dy, r = torch.rand(3, generator=rng).tolist()
            away = ((xs - x - 0.2 * (dx - 0.5)) ** 2 + (2 * (ys - y - 0.04 * (dy - 0.5))) ** 2).sqrt()
            cover = ((0.05 + 0.06 * r - away) / 0.015).clamp(0, 1)
            picture = picture * (1 - cover) + cover
    return picture
