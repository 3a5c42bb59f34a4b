"""Latents on a codebook: what VQGAN and the dVAE have in common."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Codes(nn.Module):
    """A net with a ``codebook`` (K, dim), and ``logits`` over it where its encoder gives them."""

    @property
    def has_logits(self) -> bool:
        return True

    @property
    def codebook(self) -> Tensor:
        raise NotImplementedError

    def tokens(self, latent: Tensor) -> Tensor:
        """(B, dim, h, w) to the nearest codes, (B, h, w) int64."""
        points = latent.permute(0, 2, 3, 1).flatten(0, 2).float()
        codes = self.codebook.float()
        # |p - c|² without the term that is the same for every code
        distance = codes.square().sum(1) - 2 * points @ codes.T
        return distance.argmin(1).view(latent.shape[0], *latent.shape[2:])

    def lookup(self, tokens: Tensor) -> Tensor:
        """(B, h, w) int64 to (B, dim, h, w)."""
        return F.embedding(tokens, self.codebook).permute(0, 3, 1, 2)


def straight_through(value: Tensor, gradient_to: Tensor) -> Tensor:
    """``value`` on the way forward; the gradient goes to ``gradient_to`` unchanged (Bengio et al. 2013)."""
    return gradient_to + (value - gradient_to).detach()


def clamp(images: Tensor) -> Tensor:
    """To [0, 1], with a gradient that still brings back what lies outside."""
    return straight_through(images.clamp(0, 1), images)
