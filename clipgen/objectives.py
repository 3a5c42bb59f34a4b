"""What a picture is asked for, as small functions that return a loss."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F


def spherical_distance(images: Tensor, targets: Tensor) -> Tensor:
    """Half the squared angle between unit vectors, (N, d) and (P, d) to (N, P), in [0, π²/2].

    Unlike the cosine it keeps pulling when the two are nearly opposite (Crowson 2021, VQGAN+CLIP).
    """
    chord = (images[:, None] - targets[None]).norm(dim=-1)
    return 2 * (chord / 2).clamp(max=1 - 1e-6).arcsin().square()


def cosine_distance(images: Tensor, targets: Tensor) -> Tensor:
    """One minus the cosine of unit vectors, (N, d) and (P, d) to (N, P), in [0, 2]."""
    return 1 - images @ targets.T


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"spherical": spherical_distance, "cosine": cosine_distance}


def follow(
    images: Tensor,
    targets: Tensor,
    weights: Tensor,
    distance: Callable[[Tensor, Tensor], Tensor] = spherical_distance,
    stops: Tensor | None = None,
) -> Tensor:
    """The weighted mean distance of views (N, d) to prompts (P, d) with weights (P,); a negative weight repels.

    A view that is nearer to a prompt than its stop (P,) is not moved by it (Crowson 2021).
    """
    away = distance(images, targets)
    if stops is not None:
        away = away.maximum(stops)
    return (away.mean(0) * weights).sum() / weights.abs().sum().clamp(min=1e-12)


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels of (B, 3, H, W)."""
    return images.diff(dim=-1).abs().mean() + images.diff(dim=-2).abs().mean()


def saturation(images: Tensor) -> Tensor:
    """Less the more colour there is: minus the mean distance of pixels from their own grey."""
    return -(images - images.mean(1, keepdim=True)).square().sum(1).add(1e-8).sqrt().mean()


def symmetry(images: Tensor) -> Tensor:
    """Mean squared difference from the mirror image."""
    return (images - images.flip(-1)).square().mean()


def sharpness(images: Tensor) -> Tensor:
    """Less the more contrast there is in the small: minus the mean absolute Laplacian."""
    kernel = images.new_tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]).expand(3, 1, 3, 3)
    return -F.conv2d(images, kernel, groups=3).abs().mean()


def palette(images: Tensor, colours: Tensor) -> Tensor:
    """Mean squared distance of pixels (B, 3, H, W) to the nearest of colours (K, 3), all in [0, 1]."""
    pixels = images.permute(0, 2, 3, 1).unsqueeze(-2)
    return (pixels - colours).square().sum(-1).amin(-1).mean()


# A positive weight asks for more of what the name says; that of tv (total variation), for smoothness.
REGULARISERS: dict[str, Callable[[Tensor], Tensor]] = {
    "tv": total_variation, "saturation": saturation, "symmetry": symmetry, "sharpness": sharpness,
}  # fmt: skip


def distance(latent: Tensor, anchor: Tensor) -> Tensor:
    """Mean squared difference of two latents: keeps one near the other."""
    return (latent - anchor).square().mean()


def clip_score(images: Tensor, targets: Tensor, weights: Tensor) -> float:
    """The cosine between the mean view and the weighted prompts, averaged over the positive ones."""
    wanted = weights > 0
    cosine = images.detach().mean(0) @ targets[wanted].T
    return float((cosine * weights[wanted]).sum() / weights[wanted].sum() / images.detach().mean(0).norm())
