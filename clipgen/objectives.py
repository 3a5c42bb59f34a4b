"""What a picture is asked for, as small functions that return a loss."""

from __future__ import annotations

from torch import Tensor


def spherical_distance(images: Tensor, targets: Tensor) -> Tensor:
    """Half the squared angle between unit vectors, (N, d) and (P, d) to (N, P), in [0, π²/2].

    Unlike the cosine it keeps pulling when the two are nearly opposite (Crowson 2021, VQGAN+CLIP).
    """
    chord = (images[:, None] - targets[None]).norm(dim=-1)
    return 2 * (chord / 2).clamp(max=1 - 1e-6).arcsin().square()


def follow(images: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean distance of views (N, d) to prompts (P, d) with weights (P,); a negative weight repels."""
    return (spherical_distance(images, targets).mean(0) * weights).sum() / weights.abs().sum()


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels of (B, 3, H, W)."""
    return images.diff(dim=-1).abs().mean() + images.diff(dim=-2).abs().mean()


def distance(latent: Tensor, anchor: Tensor) -> Tensor:
    """Mean squared difference of two latents: keeps one near the other."""
    return (latent - anchor).square().mean()


def clip_score(images: Tensor, targets: Tensor, weights: Tensor) -> float:
    """The cosine between the mean view and the weighted prompts, averaged over the positive ones."""
    wanted = weights > 0
    cosine = images.detach().mean(0) @ targets[wanted].T
    return float((cosine * weights[wanted]).sum() / weights[wanted].sum() / images.detach().mean(0).norm())
