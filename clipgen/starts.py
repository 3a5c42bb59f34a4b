"""Pictures to start from that are made, not given: noise, clouds, gradients, colours."""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import ImageColor
from torch import Tensor
from torch.nn import functional as F


def noise(size: tuple[int, int], rng: torch.Generator) -> Tensor:
    """Every pixel a colour of its own."""
    return torch.rand(1, 3, *size, generator=rng)


def perlin(size: tuple[int, int], rng: torch.Generator) -> Tensor:
    """Coloured clouds: noise at several scales, the coarse counting most (after Perlin 1985)."""
    clouds = torch.zeros(1, 3, *size)
    for octave in range(1, 6):
        coarse = torch.randn(1, 3, *(2**octave + 1,) * 2, generator=rng)
        clouds += F.interpolate(coarse, size, mode="bicubic", align_corners=True) / octave**1.5
    return (0.5 + 0.2 * clouds).clamp(0, 1)


def gradient(size: tuple[int, int], rng: torch.Generator) -> Tensor:
    """From one random colour to another, in a random direction."""
    colours, angle = torch.rand(2, 1, 3, 1, 1, generator=rng), 6.2832 * torch.rand((), generator=rng)
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in size), indexing="ij")
    ramp = x * angle.cos() + y * angle.sin()
    ramp = (ramp - ramp.min()) / (ramp.max() - ramp.min())
    return colours[0].lerp(colours[1], ramp)


STARTS: dict[str, Callable[[tuple[int, int], torch.Generator], Tensor]] = {
    "noise": noise, "perlin": perlin, "gradient": gradient,
}  # fmt: skip


def knows(spec: str) -> bool:
    """Whether a word is one of STARTS or a colour (a CSS name or #rrggbb)."""
    return spec in STARTS or _colour(spec) is not None


def start(spec: str, size: tuple[int, int], rng: torch.Generator) -> Tensor | None:
    """(1, 3, H, W) in [0, 1] for a word that is known, None for any other; ``size`` is (H, W)."""
    if spec in STARTS:
        return STARTS[spec](size, rng)
    colour = _colour(spec)
    return None if colour is None else colour.expand(1, 3, *size).clone()


def _colour(spec: str) -> Tensor | None:
    try:
        return torch.tensor(ImageColor.getrgb(spec)[:3])[None, :, None, None] / 255
    except ValueError:
        return None
