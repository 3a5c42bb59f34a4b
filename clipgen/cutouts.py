"""Random views of a picture: what CLIP is shown, so that it judges the picture and not its pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def cutouts(
    images: Tensor,
    count: int,
    size: int,
    rng: torch.Generator,
    smallest: float = 0.65,
    largest: float = 1.05,
    turn: float = 0.12,
    noise: float = 0.03,
) -> Tensor:
    """``count`` views of every picture, cropped, turned and resized in one differentiable resampling.

    images: (B, 3, H, W) in [0, 1]; returns (B·count, 3, size, size), all views of a picture together.
    ``smallest`` and ``largest`` are the side of a view as a share of the shorter side of the picture, ``turn``
    radians to either side, ``noise`` the deviation of Gaussian noise. The random numbers are drawn on the CPU, so
    that a seed gives the same views on every device.
    """
    b, _, height, width = images.shape
    while min(images.shape[-2:]) >= 3 * size:  # bilinear sampling skips pixels beyond a factor of two
        images = F.avg_pool2d(images, 2)
    total = b * count

    def rand(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(total, generator=rng)

    scale, angle, flip = rand(smallest, largest), rand(-turn, turn), rand(-1, 1).sign()
    short = min(height, width)
    across, down = scale * short / width, scale * short / height
    theta = torch.zeros(total, 2, 3)
    theta[:, 0, 0] = across * angle.cos() * flip
    theta[:, 0, 1] = -across * angle.sin()
    theta[:, 1, 0] = down * angle.sin() * flip
    theta[:, 1, 1] = down * angle.cos()
    theta[:, 0, 2] = rand(-1, 1) * (1 - across).abs()
    theta[:, 1, 2] = rand(-1, 1) * (1 - down).abs()
    grid = F.affine_grid(theta.to(images.device), [total, 3, size, size], align_corners=False)
    views = F.grid_sample(images.repeat_interleave(count, 0), grid, padding_mode="border", align_corners=False)
    return views + noise * torch.randn(views.shape, generator=rng).to(views.device)
