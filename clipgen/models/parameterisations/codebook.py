"""Latents on a codebook: what VQGAN and the dVAE share, and the ways in which a gradient reaches them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipgen.device import autocast
from clipgen.errors import ClipgenError
from clipgen.models.parameterisations.protocol import check_size, check_tokens, unpacked


class Codes(nn.Module):
    """A net with a ``codebook`` (K, dim), and ``logits`` over it where its encoder gives them."""

    stride: int

    @property
    def has_logits(self) -> bool:
        return True

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


class Codebook:
    """A frozen autoencoder whose latent (B, dim, H/stride, W/stride) is snapped to the codebook straight through.

    The families share it, because their nets are all ``Codes``; what differs stays in their files.
    """

    def __init__(self, name: str, net: Codes, side: int):
        self.name, self.side, self.stride = name, side, net.stride
        self.net = net.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.low, self.high = self.codebook.amin(0)[:, None, None], self.codebook.amax(0)[:, None, None]
        self.deviation = float(self.codebook.std())
        self.lr = self.deviation

    @property
    def device(self) -> torch.device:
        return self.codebook.device

    @property
    def codebook(self) -> Tensor:
        """(K, dim)"""
        return self.net.codebook

    def start(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        """Codes drawn at random."""
        shape = 1, size[0] // self.stride, size[1] // self.stride
        return self.place(torch.randint(len(self.codebook), shape, generator=rng).to(self.device))

    def place(self, tokens: Tensor) -> Tensor:
        """(B, h, w) int64 to the latent that stands for them."""
        return self.net.lookup(tokens).clone()

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1], H and W multiples of ``stride``, to a latent, snapped to the codebook."""
        check_size(self.name, self.stride, (image.shape[-1], image.shape[-2]))
        with autocast(image.device):
            tokens = self.net.tokens(self.net.encode(image))
        return self.net.lookup(tokens)

    @torch.no_grad()
    def tokens(self, latent: Tensor) -> Tensor:
        """(B, h, w) int64: the code of every place."""
        return self.net.tokens(latent)

    def image(self, latent: Tensor, progress: float = 1.0, rng: torch.Generator | None = None) -> Tensor:
        """A latent to (B, 3, H, W) in [0, 1]; the gradient passes the snapping unchanged."""
        return self._decode(straight_through(self.net.lookup(self.tokens(latent)), latent))

    def _decode(self, latent: Tensor) -> Tensor:
        with autocast(latent.device):
            return self.net.decode(latent).float()

    def distance(self, latent: Tensor, other: Tensor) -> Tensor:
        """Mean squared difference, in variances of the codebook."""
        return (latent - other).square().mean() / self.deviation**2

    @torch.no_grad()
    def residual(self, latent: Tensor) -> Tensor:
        """How far a latent has gone from its codes."""
        return latent - self.net.lookup(self.net.tokens(latent))

    def project_(self, latent: Tensor) -> None:
        """Clamp to the range of the codebook's channels."""
        latent.data.clamp_(self.low, self.high)

    def pack(self, latent: Tensor) -> Tensor:
        """The tokens (h, w)."""
        return self.tokens(latent)[0]

    def unpack(self, saved: Tensor, size: tuple[int, int]) -> Tensor:
        """Tokens (h, w) to a latent."""
        check_tokens(self.name, saved, size, self.stride, len(self.codebook))
        return self.place(saved[None].long().to(self.device))


class Unsnapped(Codebook):
    """The same without the snapping: more freedom, and pictures that no tokens stand for (Murdoch 2021)."""

    def image(self, latent: Tensor, progress: float = 1.0, rng: torch.Generator | None = None) -> Tensor:
        return self._decode(latent)

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        check_size(self.name, self.stride, (image.shape[-1], image.shape[-2]))
        with autocast(image.device):
            return self.net.encode(image).float()

    def residual(self, latent: Tensor) -> Tensor:
        return torch.zeros_like(latent)

    def pack(self, latent: Tensor) -> Tensor:
        """The latent in 16 bits: tokens would not bring the picture back."""
        return latent.half()

    def unpack(self, saved: Tensor, size: tuple[int, int]) -> Tensor:
        if not saved.is_floating_point():
            return super().unpack(saved, size)
        shape = 1, self.codebook.shape[1], size[0] // self.stride, size[1] // self.stride
        return unpacked(self.name, saved, shape).to(self.device)


class Gumbel(Codebook):
    """Token logits (B, codes, h, w) for a latent, relaxed as DALL-E's dVAE was trained.

    The decoder sees a softmax over the whole codebook, with Gumbel noise and a temperature that falls from 1 to
    1/16 (Ramesh et al. 2021; Jang et al. 2017). It takes codes/dim times the memory of a latent on the codebook.
    """

    def __init__(self, name: str, net: Codes, side: int):
        super().__init__(name, net, side)
        if not net.has_logits:
            raise ClipgenError(f"relax='gumbel': {name} has no token logits; use relax='straight-through'")
        self.lr = 1.0

    def start(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        """Normal logits."""
        shape = 1, len(self.codebook), size[0] // self.stride, size[1] // self.stride
        return torch.randn(shape, generator=rng).to(self.device)

    def place(self, tokens: Tensor) -> Tensor:
        # A token e^8 times as likely as any other: nearly sure, and still within a gradient's reach.
        return 8 * F.one_hot(tokens, len(self.codebook)).permute(0, 3, 1, 2).float()

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        check_size(self.name, self.stride, (image.shape[-1], image.shape[-2]))
        with autocast(image.device):
            return self.net.logits(image).float()

    @torch.no_grad()
    def tokens(self, latent: Tensor) -> Tensor:
        return latent.argmax(1)

    def image(self, latent: Tensor, progress: float = 1.0, rng: torch.Generator | None = None) -> Tensor:
        """With ``rng``, the relaxation for gradients; without, the picture of the likeliest tokens."""
        if rng is None:
            return self._decode(self.net.lookup(self.tokens(latent)))
        noise = torch.rand(latent.shape, generator=rng).clamp(min=1e-20).log().neg().log().neg()
        return self._decode(self._mix((latent + noise.to(latent.device)) * 16**progress))

    def _mix(self, logits: Tensor) -> Tensor:
        """(B, dim, h, w): where on the codebook logits stand."""
        return torch.einsum("bkhw,kd->bdhw", logits.softmax(1), self.codebook)

    def distance(self, latent: Tensor, other: Tensor) -> Tensor:
        return super().distance(self._mix(latent), self._mix(other))

    def residual(self, latent: Tensor) -> Tensor:
        return torch.zeros_like(latent)  # no measure of it: the encoder's logits have a scale of their own

    def project_(self, latent: Tensor) -> None:
        """Logits may be anything."""


def straight_through(value: Tensor, gradient_to: Tensor) -> Tensor:
    """``value`` on the way forward; the gradient goes to ``gradient_to`` unchanged (Bengio et al. 2013)."""
    return gradient_to + (value - gradient_to).detach()


def clamp(images: Tensor) -> Tensor:
    """To [0, 1], with a gradient that still brings back what lies outside."""
    return straight_through(images.clamp(0, 1), images)
