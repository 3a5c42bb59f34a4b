"""Latents on a codebook: what VQGAN and the dVAE share, and the ways in which a gradient reaches them."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from clipgen.device import autocast
from clipgen.errors import ClipgenError
from clipgen.generators.codes import Codes, clamp, live, straight_through
from clipgen.generators.protocol import Randomness, check_size, check_tokens, unpacked
from clipgen.precision import Computing

__all__ = ["Codebook", "Codes", "Gumbel", "Sampled", "Unsnapped", "clamp", "live"]


class Codebook(Computing):
    """A frozen autoencoder whose latent (B, dim, H/stride, W/stride) is snapped to the codebook straight through.

    The families share it, because their nets are all ``Codes``; what differs stays in their files.
    """

    def __init__(self, name: str, net: Codes, side: int):
        self.name, self.side, self.stride = name, side, net.stride
        self.net = net.eval().requires_grad_(False)
        for part in net.children():
            if part is not net.encoder:  # which stays on the disk until it is needed
                part.to(memory_format=torch.channels_last)
        self.low, self.high = self.codebook.amin(0)[:, None, None], self.codebook.amax(0)[:, None, None]
        self.deviation = float(live(self.codebook).std())
        self.lr = self.deviation

    def settle(self, precision: str) -> None:
        super().settle(precision)
        self.narrow(self.net.decoding)  # the encoder stays on the disk until it is needed

    @property
    def device(self) -> torch.device:
        return self.codebook.device

    @property
    def codebook(self) -> Tensor:
        """(K, dim)"""
        return self.net.codebook

    @property
    def encoding(self) -> Codes:
        """The net, about to encode a picture."""
        self.net.encoder.to(memory_format=torch.channels_last)
        return self.net

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
        points = self.compute(self.encoding.encode, image)
        with autocast(image.device, self.precision):
            return self.net.lookup(self.net.tokens(points))

    @torch.no_grad()
    def tokens(self, latent: Tensor) -> Tensor:
        """(B, h, w) int64: the code of every place."""
        return self.net.tokens(latent)

    def image(self, latent: Tensor, progress: float = 1.0, rng: Randomness | None = None) -> Tensor:
        """A latent to (B, 3, H, W) in [0, 1]; the gradient passes the snapping unchanged."""
        return self._decode(straight_through(self.net.lookup(self.tokens(latent)), latent))

    def _decode(self, latent: Tensor) -> Tensor:
        return self.compute(self.net.decode, latent)

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
    """The same without the snapping: more freedom, and pictures that no tokens stand for (Murdoch 2021).

    ``limit``: how far its numbers go, instead of the codebook's range, as in Murdoch's notebook: it then starts with
    normal numbers of deviation 0.5 whose extremes are drawn out, and where latent or picture is clipped there is no
    gradient.
    """

    def __init__(self, name: str, net: Codes, side: int, limit: float | None = None):
        super().__init__(name, net, side)
        self.limit = limit
        if limit is not None:
            self.low, self.high = torch.full_like(self.low, -limit), torch.full_like(self.high, limit)

    def start(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        if self.limit is None:
            return super().start(size, rng)
        shape = 1, self.codebook.shape[1], size[0] // self.stride, size[1] // self.stride
        return (1.9 * (0.5 * torch.randn(shape, generator=rng)).arcsinh()).sinh().to(self.device)

    def image(self, latent: Tensor, progress: float = 1.0, rng: Randomness | None = None) -> Tensor:
        if self.limit is None:
            return self._decode(latent)
        image = self._decode(latent.clamp(-self.limit, self.limit))
        return torch.where((image > 0) & (image < 1), image, image.detach())

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        check_size(self.name, self.stride, (image.shape[-1], image.shape[-2]))
        return self.compute(self.encoding.encode, image)

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
    1/16 (Ramesh et al. 2021; Jang et al. 2017), so that tokens are what is left. It takes codes/dim times the memory
    of a latent on the codebook.

    With a fixed ``temperature`` it never hardens, and the mixture itself is what is shown and kept, as in Murdoch's
    notebook. So is ``groups``: a softmax for each so many-th token, 2 for the even and the odd ones, whose weights sum
    to that number; a start of one logit of 1 a place; and no gradient to what is clipped for being brighter than white.
    """

    def __init__(self, name: str, net: Codes, side: int, temperature: float | None = None, groups: float = 1):
        super().__init__(name, net, side)
        if not net.has_logits:
            raise ClipgenError(f"relax='gumbel': {name} has no token logits; use relax='straight-through'")
        self.lr, self.temperature, self.groups = 1.0, temperature, int(groups)

    def start(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        """Normal logits; with a fixed temperature, a token drawn at each place."""
        codes, height, width = len(self.codebook), size[0] // self.stride, size[1] // self.stride
        if self.temperature is None:
            logits = torch.randn(1, codes, height, width, generator=rng)
        else:
            drawn = torch.randint(codes, (1, height, width), generator=rng)
            logits = F.one_hot(drawn, codes).permute(0, 3, 1, 2).float()
        # The logits of a place side by side: a softmax over them takes a CPU a sixth of the time.
        return logits.to(self.device, memory_format=torch.channels_last)

    def place(self, tokens: Tensor) -> Tensor:
        # A token e^8 times as likely as any other: nearly sure, and still within a gradient's reach.
        sure = 8 if self.temperature is None else self.temperature * (3 + math.log(len(self.codebook)))
        return sure * F.one_hot(tokens, len(self.codebook)).permute(0, 3, 1, 2).float()

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        check_size(self.name, self.stride, (image.shape[-1], image.shape[-2]))
        return self.compute(self.encoding.logits, image)

    @torch.no_grad()
    def tokens(self, latent: Tensor) -> Tensor:
        return latent.argmax(1)

    def image(self, latent: Tensor, progress: float = 1.0, rng: Randomness | None = None) -> Tensor:
        """With ``rng``, the relaxation for gradients; without, the likeliest tokens, or the mixture if it stays one."""
        if rng is None and self.temperature is None:
            return self._decode(self.net.lookup(self.tokens(latent)))
        temperature = self.temperature or 16**-progress
        if rng is None:
            logits = _rows(latent) / temperature
        else:
            logits = _gumbel(latent, rng).add_(_rows(latent)).div_(temperature)
        image = self._decode(self._mix(logits))
        return image if self.temperature is None else torch.where(image < 1, image, image.detach())

    def _mix(self, logits: Tensor) -> Tensor:
        """(B, dim, h, w): where on the codebook logits (B, h, w, codes) stand."""
        parts = [slice(first, None, self.groups) for first in range(self.groups)]
        mixed = [logits[..., part].softmax(-1) @ self.codebook[part] for part in parts]
        return torch.stack(mixed).sum(0).permute(0, 3, 1, 2)

    def distance(self, latent: Tensor, other: Tensor) -> Tensor:
        one, two = (self._mix(_rows(logits) / (self.temperature or 1)) for logits in (latent, other))
        return super().distance(one, two)

    def residual(self, latent: Tensor) -> Tensor:
        return torch.zeros_like(latent)  # no measure of it: the encoder's logits have a scale of their own

    def project_(self, latent: Tensor) -> None:
        """Logits may be anything."""

    def pack(self, latent: Tensor) -> Tensor:
        """The tokens (h, w); with a fixed temperature the logits in 16 bits."""
        return super().pack(latent) if self.temperature is None else latent.half()

    def unpack(self, saved: Tensor, size: tuple[int, int]) -> Tensor:
        if self.temperature is None or not saved.is_floating_point():
            return super().unpack(saved, size)
        shape = 1, len(self.codebook), size[0] // self.stride, size[1] // self.stride
        return unpacked(self.name, saved, shape).to(self.device, memory_format=torch.channels_last)


class Sampled(Gumbel):
    """Token logits of which one token a place is drawn; the gradient is the softmax's (Crowson 2021, dVAE+CLIP)."""

    def image(self, latent: Tensor, progress: float = 1.0, rng: Randomness | None = None) -> Tensor:
        """With ``rng``, the picture of tokens that are drawn; without, of the likeliest."""
        if rng is None:
            return super().image(latent)
        noisy = _gumbel(latent, rng).add_(_rows(latent.detach()))
        drawn = self.tokens(noisy.permute(0, 3, 1, 2))  # the largest with Gumbel noise is such a draw
        return self._decode(straight_through(self.net.lookup(drawn), self._mix(_rows(latent))))


def _rows(latent: Tensor) -> Tensor:
    """(B, codes, h, w) as (B, h, w, codes)."""
    return latent.permute(0, 2, 3, 1)


def _gumbel(latent: Tensor, rng: Randomness) -> Tensor:
    """Gumbel noise for a latent (B, codes, h, w), as (B, h, w, codes)."""
    shape = _rows(latent).shape
    if isinstance(rng, torch.Generator):
        uniform = torch.rand(shape, generator=rng)
    else:
        uniform = torch.stack([torch.rand(shape[1:], generator=one) for one in rng])
    return uniform.clamp_(min=1e-20).log_().neg_().log_().neg_().to(latent.device)
