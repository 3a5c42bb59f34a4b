"""Colours, and places with their backgrounds: of the scenes of the training, and of drafts."""

import math

import torch
from torch import Tensor

RGB = tuple[float, float, float]

COLOURS: dict[str, RGB] = {
    "red": (0.88, 0.15, 0.15),
    "orange": (0.98, 0.55, 0.1),
    "yellow": (0.99, 0.84, 0.15),
    "green": (0.2, 0.68, 0.25),
    "blue": (0.15, 0.4, 0.9),
    "purple": (0.55, 0.25, 0.75),
    "pink": (0.98, 0.55, 0.75),
    "brown": (0.5, 0.32, 0.2),
    "gray": (0.55, 0.55, 0.58),
    "black": (0.15, 0.15, 0.17),
    "white": (0.95, 0.95, 0.96),
}
LOCATIONS = {
    "grass": ("on the grass", "in a meadow", "on a green field"),
    "sea": ("over the sea", "in the sea", "on the ocean", "in the water"),
    "night sky": ("in the night sky", "at night", "under the stars", "in space"),
    "sunset": ("at sunset", "in front of a sunset", "at dusk"),
    "beach": ("on the beach", "on the sand"),
    "snow": ("in the snow", "in winter", "on a snowy field"),
    "forest": ("in the forest", "among the trees", "in the woods"),
}
# From the top of the sky, and of the ground, to its bottom.
_SKY: dict[str, tuple[RGB, RGB]] = {
    "grass": ((0.35, 0.65, 0.95), (0.75, 0.9, 1.0)),
    "sea": ((0.4, 0.7, 0.98), (0.8, 0.92, 1.0)),
    "night sky": ((0.02, 0.03, 0.14), (0.1, 0.1, 0.32)),
    "sunset": ((0.4, 0.2, 0.5), (1.0, 0.6, 0.25)),
    "beach": ((0.35, 0.7, 0.97), (0.7, 0.9, 1.0)),
    "snow": ((0.6, 0.75, 0.9), (0.85, 0.92, 0.98)),
    "forest": ((0.1, 0.28, 0.12), (0.3, 0.5, 0.25)),
    "sky": ((0.35, 0.65, 0.97), (0.75, 0.9, 1.0)),  # of drafts alone, not of training
}
_GROUND: dict[str, tuple[RGB, RGB]] = {
    "grass": ((0.4, 0.75, 0.25), (0.2, 0.55, 0.15)),
    "sea": ((0.2, 0.5, 0.85), (0.05, 0.25, 0.55)),
    "sunset": ((0.5, 0.22, 0.3), (0.2, 0.1, 0.25)),
    "beach": ((0.96, 0.86, 0.62), (0.88, 0.74, 0.48)),
    "snow": ((0.97, 0.98, 1.0), (0.85, 0.9, 0.97)),
    "forest": ((0.25, 0.4, 0.15), (0.2, 0.25, 0.1)),
}


def with_article(name: str) -> str:
    """As a person says it: "a cat", "an apple"."""
    return f"an {name}" if name[0].lower() in "aeiou" else f"a {name}"


def draw_scenery(location: str, size: int, rng: torch.Generator) -> Tensor:
    """Return a picture (3, size, size) of a location, with nothing in it."""

    def rand(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=rng))

    ground = _GROUND.get(location)
    horizon = size if not ground else int(size * rand(0.5, 0.75))
    picture = torch.empty(3, size, size)
    picture[:, :horizon] = _ramp(*_SKY[location], horizon)
    if ground:
        picture[:, horizon:] = _ramp(*ground, size - horizon)
    ys, xs = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
    if location == "night sky":
        for _ in range(int(rand(20, 45))):
            star = torch.exp(-((xs - rand(0, 1)) ** 2 + (ys - rand(0, 1)) ** 2) / rand(2e-5, 1.2e-4))
            picture = picture + (1 - picture) * star * rand(0.5, 1)
    if location == "sea":
        waves = torch.sin(40 * ys + 3 * torch.sin(2 * math.pi * (2 * xs + rand(0, 1))))
        picture = picture + 0.06 * (waves > 0.6) * (ys > horizon / size)
    if location == "forest":
        for _ in range(int(rand(5, 10))):
            x, width = rand(0, 1), rand(0.02, 0.05)
            trunk = ((xs - x).abs() < width) & (ys < horizon / size + rand(0, 0.15))
            picture = torch.where(trunk, torch.tensor([0.3, 0.2, 0.12])[:, None, None] * rand(0.7, 1.2), picture)
    if ground and location in ("grass", "snow"):
        hill = ys > horizon / size - 0.06 * torch.sin(math.pi * (xs * rand(1, 2) + rand(0, 1)))
        fill = torch.tensor(ground[0])[:, None, None].expand_as(picture)
        picture = torch.where(hill & (ys <= horizon / size), fill, picture)
    return (picture + 0.04 * torch.randn(3, 1, 1, generator=rng)).clamp(0, 1)


def _ramp(top: RGB, bottom: RGB, rows: int) -> Tensor:
    """(3, rows, 1) from one colour down to another."""
    fraction = torch.linspace(0, 1, rows)[None, :, None]
    return torch.tensor(top)[:, None, None] * (1 - fraction) + torch.tensor(bottom)[:, None, None] * fraction
