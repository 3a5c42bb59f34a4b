"""What a net with a codebook is, and the ways of a gradient around what has none."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Codes(nn.Module):
    """A net with a ``codebook`` (K, dim), and ``logits`` over it where its encoder gives them."""

    stride: int
    encoder: nn.Module

    @property
    def has_logits(self) -> bool:
        return True

    @property
    def decoding(self) -> nn.Module:
        """What makes a picture of embedded tokens: the decoder without a codebook."""
        raise NotImplementedError

    @property
    def codebook(self) -> Tensor:
        raise NotImplementedError

    def logits(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def encode(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def decode(self, latent: Tensor) -> Tensor:
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


def live(codebook: Tensor) -> Tensor:
    """The codes (k, dim) of a codebook (K, dim) that a decoder uses.

    Published codebooks are mostly codes that were never chosen in training and lie where they began, near zero: of
    f16-16384 a few percent live (CompVis/taming-transformers issue 67). Those within a tenth of the longest, the
    longest hundredth left aside, are dead.
    """
    lengths = codebook.float().norm(dim=1)
    return codebook[lengths >= 0.1 * lengths.quantile(0.99)]


def straight_through(value: Tensor, gradient_to: Tensor) -> Tensor:
    """``value`` on the way forward; the gradient goes to ``gradient_to`` unchanged (Bengio et al. 2013)."""
    return gradient_to + (value - gradient_to).detach()


class _Clamp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, images: Tensor) -> Tensor:  # type: ignore[override]
        clamped = images.clamp(0, 1)
        ctx.save_for_backward(images - clamped)
        return clamped

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (beyond,) = ctx.saved_tensors
        return gradient * (gradient * beyond >= 0)


def clamp(images: Tensor) -> Tensor:
    """To [0, 1]. A gradient passes unless it would push what lies outside further out (Crowson 2021)."""
    return _Clamp.apply(images)
