"""Random views of a picture: what CLIP is shown, so that it judges the picture and not its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from clipgen.errors import ClipgenError
from clipgen.setting import setting

AUGMENTATIONS = ("flip", "affine", "perspective", "colour", "noise", "erase", "blur", "shift", "grain")


@dataclass(frozen=True)
class Cutouts:
    """How a picture is shown. Raises ClipgenError for an augmentation that does not exist."""

    cutouts: int = setting(16, "views that CLIP is shown at every step", 1, 10**4, shown="steer")
    cut_min: float = setting(0.65, "smallest side of a view, as a share of the shorter side", 0.05, 2)
    cut_max: float = setting(1.05, "largest side of a view", 0.05, 2)
    augment: str = setting("flip,affine,noise", f"of {', '.join(AUGMENTATIONS)}")
    noise: float = setting(0.03, "deviation of the noise on the views; of grain, the most that a view can have", 0, 1)
    shift: float = setting(0.17, "with shift: how far a view is moved, as a share of the side", 0, 1)

    def __post_init__(self) -> None:
        if unknown := [name for name in self.names if name not in AUGMENTATIONS]:
            raise ClipgenError(f"augment={unknown[0]!r}: choose among {', '.join(AUGMENTATIONS)}")
        if self.cut_min > self.cut_max:
            raise ClipgenError(f"cut_min={self.cut_min}: is above cut_max={self.cut_max}; swap them")

    @property
    def names(self) -> tuple[str, ...]:
        """The augmentations that are asked for."""
        return tuple(name.strip() for name in self.augment.split(",") if name.strip())

    def draw(self, shape: Sequence[int], size: int, rng: torch.Generator) -> Views:
        """Views of (size, size) of every picture of ``shape`` (B, 3, H, W)."""
        bounds = {"smallest": self.cut_min, "largest": self.cut_max, "noise": self.noise, "shift": self.shift}
        return plan(shape, self.cutouts, size, rng, augment=self.names, **bounds)


@dataclass(frozen=True)
class Views:
    """The random numbers of ``count`` views of every picture, and how to see them.

    Drawn apart from the rendering, so that views can be rendered in parts when memory is short, and are the same.
    """

    count: int
    size: int
    theta: Tensor  # (B·count, 2, 3) affine maps
    noise: Tensor | None = None  # (B·count, 3, size, size)
    tilt: Tensor | None = None  # (B·count, 2) perspective
    tint: Tensor | None = None  # (B·count, 3) brightness, contrast, saturation
    hole: Tensor | None = None  # (B·count, 4) x, y, width, height as shares
    blur: Tensor | None = None  # (B·count,) 0 or 1

    def render(self, images: Tensor, part: slice = slice(None)) -> Tensor:
        """Views ``part`` of each picture (B, 3, H, W) in [0, 1], in one differentiable resampling.

        Returns (B·n, 3, size, size), all views of a picture together.
        """
        while min(images.shape[-2:]) >= 3 * self.size:  # bilinear sampling skips pixels beyond a factor of two
            images = F.avg_pool2d(images, 2)
        b = len(images)

        def some(numbers: Tensor) -> Tensor:
            return numbers.unflatten(0, (b, self.count))[:, part].flatten(0, 1).to(images.device)

        theta = some(self.theta)
        grid = F.affine_grid(theta, [len(theta), 3, self.size, self.size], align_corners=False)
        if self.tilt is not None:
            # A plane that leans away: what is further is smaller.
            depth = 1 + (grid * some(self.tilt)[:, None, None]).sum(-1, keepdim=True)
            grid = grid / depth
        views = images.repeat_interleave(len(theta) // b, 0)
        views = F.grid_sample(views, grid, padding_mode="border", align_corners=False)
        if self.tint is not None:
            light, contrast, colour = (some(self.tint)[:, i, None, None, None] for i in range(3))
            views = views.mean(1, keepdim=True).lerp(views, colour)
            views = (views - 0.5) * contrast + 0.5 + light
        if self.blur is not None:
            soft = F.avg_pool2d(views, 3, 1, 1, count_include_pad=False)
            views = views.lerp(soft, some(self.blur)[:, None, None, None])
        if self.hole is not None:
            place = torch.linspace(0, 1, self.size, device=images.device)
            x, y, w, h = (some(self.hole)[:, i, None] for i in range(4))
            inside = ((place >= y) & (place < y + h))[:, :, None] & ((place >= x) & (place < x + w))[:, None]
            views = views.masked_fill(inside[:, None], 0.5)
        return views if self.noise is None else views + some(self.noise)


def plan(
    shape: Sequence[int],
    count: int,
    size: int,
    rng: torch.Generator,
    smallest: float = 0.65,
    largest: float = 1.05,
    augment: Sequence[str] = ("flip", "affine", "noise"),
    turn: float = 0.12,
    noise: float = 0.03,
    shift: float = 0.17,
) -> Views:
    """Draw ``count`` views of every picture of ``shape`` (B, 3, H, W).

    ``smallest`` and ``largest`` are the side of a view as a share of the shorter side of the picture, ``turn``
    radians to either side, ``noise`` the deviation of Gaussian noise (with ``grain`` each view has its own, up to that)
    and ``shift`` how far a view is moved, as a share of the picture. The random numbers are drawn on the CPU, so that a
    seed gives the same views on every device.
    """
    b, _, height, width = shape
    total = b * count

    def rand(low: float, high: float, *more: int) -> Tensor:
        return low + (high - low) * torch.rand(total, *more, generator=rng)

    scale, angle, flip = rand(smallest, largest), rand(-turn, turn), rand(-1, 1).sign()
    angle = angle if "affine" in augment else torch.zeros(total)
    flip = flip if "flip" in augment else torch.ones(total)
    short = min(height, width)
    across, down = scale * short / width, scale * short / height
    theta = torch.zeros(total, 2, 3)
    theta[:, 0, 0] = across * angle.cos() * flip
    theta[:, 0, 1] = -across * angle.sin()
    theta[:, 1, 0] = down * angle.sin() * flip
    theta[:, 1, 1] = down * angle.cos()
    theta[:, 0, 2] = rand(-1, 1) * (1 - across).abs()
    theta[:, 1, 2] = rand(-1, 1) * (1 - down).abs()
    views = Views(
        count,
        size,
        theta,
        noise=noise * torch.randn(total, 3, size, size, generator=rng) if "noise" in augment else None,
        tilt=rand(-0.25, 0.25, 2) if "perspective" in augment else None,
        tint=torch.stack([rand(-0.1, 0.1), rand(0.7, 1.3), rand(0.5, 1.5)], 1) if "colour" in augment else None,
        hole=torch.cat([rand(0, 0.8, 2), rand(0.1, 0.4, 2)], 1) if "erase" in augment else None,
        blur=(rand(0, 1) < 0.5).float() if "blur" in augment else None,
    )
    if "shift" in augment:
        theta[:, :, 2] += rand(-2 * shift, 2 * shift, 2)
    if "grain" in augment:
        grain = rand(0, noise)[:, None, None, None] * torch.randn(total, 3, size, size, generator=rng)
        views = replace(views, noise=grain if views.noise is None else views.noise + grain)
    return views


def cutouts(images: Tensor, count: int, size: int, rng: torch.Generator, **knobs) -> Tensor:
    """``count`` views of every picture (B, 3, H, W) in [0, 1] as (B·count, 3, size, size); knobs as for ``plan``."""
    return plan(images.shape, count, size, rng, **knobs).render(images)
