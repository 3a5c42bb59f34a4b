"""Latents on a codebook: what VQGAN and the dVAE share, and the relaxations by which a gradient reaches them."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipgen import device as devices
from clipgen import fast
from clipgen.generators import Generator, Randomness, check_size, check_tokens, token_grid
from clipgen.precision import MixedPrecision


class VQBase(nn.Module):
    """An autoencoder with a ``codebook`` (K, dim), and with ``logits`` over it if ``has_logits``."""

    stride: int
    sequence = 0  # see ``Generator``
    encoder: nn.Module
    decoder: nn.Module
    encode: Callable[[Tensor], Tensor]  # images (B, 3, H, W) to a latent (B, dim, h, w), not quantised
    decode: Callable[[Tensor], Tensor]  # a latent to images
    logits: Callable[[Tensor], Tensor]  # images to (B, K, h, w)
    has_logits = True

    @property
    def codebook(self) -> Tensor:
        raise NotImplementedError

    @property
    def decoder_layers(self) -> nn.Module:
        """All layers but the encoder's and the codebook."""
        return nn.ModuleList(part for part in self.children() if part is not self.encoder)

    def normalize(self, latent: Tensor) -> Tensor:
        """Return a latent with vectors as long as the codes, if those are all of one length; otherwise itself."""
        return latent

    def tokens(self, latent: Tensor) -> Tensor:
        """Return the indices (B, h, w), int64, of the codes nearest to a latent (B, dim, h, w)."""
        points = latent.permute(0, 2, 3, 1).flatten(0, 2).float()
        codes = self.codebook.float()
        # |p - c|² without |p|², which is the same for every code
        distance = codes.square().sum(1) - 2 * points @ codes.T
        return distance.argmin(1).view(latent.shape[0], *latent.shape[2:])

    def lookup(self, tokens: Tensor) -> Tensor:
        """Return the codes (B, dim, h, w) of tokens (B, h, w)."""
        return F.embedding(tokens, self.codebook).permute(0, 3, 1, 2)


def used_codes(codebook: Tensor) -> Tensor:
    """Return the codes (k, dim) of a codebook (K, dim) that its decoder was trained with."""
    # Most codes of published VQGANs were never chosen in training and lie near zero, where they were initialised: all
    # but a few percent of f16-16384's (CompVis/taming-transformers issue 67).
    lengths = codebook.float().norm(dim=1)
    return codebook[lengths >= 0.1 * lengths.quantile(0.99)]


def straight_through(value: Tensor, gradient_to: Tensor) -> Tensor:
    """Return ``value``; its gradient goes to ``gradient_to`` unchanged (Bengio et al. 2013)."""
    return gradient_to + (value - gradient_to).detach()


class Codebook(MixedPrecision, Generator):
    """A frozen autoencoder whose latent (B, dim, H/stride, W/stride) is quantised straight through."""

    net: VQBase

    def __init__(self, name: str, net: VQBase, native_size: int):
        self.name, self.native_size, self.stride, self.sequence = name, native_size, net.stride, net.sequence
        self.net, self.device = net.eval().requires_grad_(False), net.codebook.device
        fast.optimize_for(net.decoder_layers, self.device)  # the encoder is loaded lazily
        self.low, self.high = self.codebook.amin(0)[:, None, None], self.codebook.amax(0)[:, None, None]
        self.deviation = float(used_codes(self.codebook).std())
        self.lr = self.deviation

    def set_precision(self, precision: str) -> None:
        super().set_precision(precision)
        self.cast_weights(self.net.decoder_layers)

    @property
    def codebook(self) -> Tensor:
        """The vectors (K, dim) of the tokens."""
        return self.net.codebook

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        return 1, self.codebook.shape[1], *token_grid(self, size)

    def start(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        """Return random codes."""
        tokens = torch.randint(len(self.codebook), (1, *token_grid(self, size)), generator=rng)
        return self.from_tokens(tokens.to(self.device))

    def from_tokens(self, tokens: Tensor) -> Tensor:
        """Return the latent of tokens (B, h, w) int64."""
        return self.net.lookup(tokens).clone()

    @torch.no_grad()
    def tokens(self, latent: Tensor) -> Tensor:
        """Return the tokens (B, h, w) int64 of a latent."""
        return self.net.tokens(latent)

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """Return the latent of (B, 3, H, W); H and W are multiples of ``stride``."""
        check_size(self.name, self, (image.shape[-1], image.shape[-2]))
        fast.optimize_for(self.net.encoder, self.device)
        return self._encode(image)

    def _encode(self, image: Tensor) -> Tensor:
        """Return the quantised latent of (B, 3, H, W)."""
        points = self.compute(self.net.encode, image)
        with devices.autocast(image.device, self.precision):
            return self.net.lookup(self.net.tokens(points))

    def image(self, latent: Tensor, progress: float = 1.0, rng: Randomness | None = None) -> Tensor:
        return self._decode(straight_through(self.net.lookup(self.tokens(latent)), self.net.normalize(latent)))

    def _decode(self, latent: Tensor) -> Tensor:
        return self.compute(self.net.decode, latent)

    def distance(self, latent: Tensor, other: Tensor) -> Tensor:
        """Return the mean squared difference, divided by the variance of the codebook."""
        return (latent - other).square().mean() / self.deviation**2

    @torch.no_grad()
    def residual(self, latent: Tensor) -> Tensor:
        """Return the quantisation error."""
        return latent - self.net.lookup(self.net.tokens(latent))

    def project_(self, latent: Tensor) -> None:
        """Clamp each channel to the range that it has in the codebook, in place."""
        latent.data.clamp_(self.low, self.high)

    def pack(self, latent: Tensor) -> Tensor:
        return self.tokens(latent)[0]

    def unpack(self, saved: Tensor, size: tuple[int, int]) -> Tensor:
        if saved.is_floating_point():
            return super().unpack(saved, size)
        check_tokens(self.name, saved, token_grid(self, size), len(self.codebook))
        return self.from_tokens(saved[None].long().to(self.device))


class Unquantized(Codebook):
    """A latent that is decoded as it is: more freedom, and images that no tokens stand for (Murdock 2021).

    With a ``limit`` it behaves as Murdock's notebook: the latent is clamped to ``[-limit, limit]`` instead of the
    codebook's range, starts from a heavy-tailed normal distribution, and clipped latents and pixels get no gradient.
    """

    def __init__(self, name: str, net: VQBase, native_size: int, limit: float | None = None):
        super().__init__(name, net, native_size)
        self.latent_limit = limit
        if limit is not None:
            self.low, self.high = torch.full_like(self.low, -limit), torch.full_like(self.high, limit)

    def start(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        if self.latent_limit is None:
            return super().start(size, rng)
        return (1.9 * (0.5 * torch.randn(self.shape(size), generator=rng)).arcsinh()).sinh().to(self.device)

    def image(self, latent: Tensor, progress: float = 1.0, rng: Randomness | None = None) -> Tensor:
        if self.latent_limit is None:
            return self._decode(latent)
        image = self._decode(latent.clamp(-self.latent_limit, self.latent_limit))
        return torch.where((image > 0) & (image < 1), image, image.detach())

    def _encode(self, image: Tensor) -> Tensor:
        return self.compute(self.net.encode, image)

    def residual(self, latent: Tensor) -> Tensor:
        return torch.zeros_like(latent)

    def pack(self, latent: Tensor) -> Tensor:
        return latent.half()


class Gumbel(Codebook):
    """Token logits (B, codes, h, w), relaxed as DALL-E's dVAE was trained.

    The decoder sees a softmax over the codebook with Gumbel noise, whose temperature falls from 1 to 1/16 so that
    tokens remain (Ramesh et al. 2021; Jang et al. 2017). It takes codes/dim times the memory of a quantised latent.

    With a fixed ``temperature`` it behaves as Murdock's notebook: the output is the softmax mixture, not the argmax,
    logits start one-hot, and pixels above 1 get no gradient. ``groups=n`` splits the codebook into n interleaved
    groups, each with its own softmax, and adds the results.
    """

    def __init__(self, name: str, net: VQBase, native_size: int, temperature: float | None = None, groups: float = 1):
        super().__init__(name, net, native_size)
        self.lr, self.temperature, self.groups = 1.0, temperature, int(groups)

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        return 1, len(self.codebook), *token_grid(self, size)

    def start(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        """Return normally distributed logits; with a fixed temperature, those of random tokens."""
        if self.temperature is None:
            logits = torch.randn(self.shape(size), generator=rng)
        else:
            tokens = torch.randint(len(self.codebook), (1, *token_grid(self, size)), generator=rng)
            logits = self._one_hot(tokens)
        return fast.channels_last(logits.to(self.device))

    def _one_hot(self, tokens: Tensor) -> Tensor:
        return F.one_hot(tokens, len(self.codebook)).permute(0, 3, 1, 2).float()

    def from_tokens(self, tokens: Tensor) -> Tensor:
        # A token e^8 times as likely as any other is nearly certain, and a gradient can still change it.
        logit = 8 if self.temperature is None else self.temperature * (3 + math.log(len(self.codebook)))
        return logit * self._one_hot(tokens)

    @torch.no_grad()
    def tokens(self, latent: Tensor) -> Tensor:
        return latent.argmax(1)

    def _encode(self, image: Tensor) -> Tensor:
        return self.compute(self.net.logits, image)

    def image(self, latent: Tensor, progress: float = 1.0, rng: Randomness | None = None) -> Tensor:
        """Return the relaxed image; without ``rng`` of the likeliest tokens, at a fixed temperature without noise."""
        if rng is None and self.temperature is None:
            return self._decode(self.net.lookup(self.tokens(latent)))
        temperature = self.temperature or 16**-progress
        if rng is None:
            logits = _codes_last(latent) / temperature
        else:
            logits = _gumbel_noise(latent, rng).add_(_codes_last(latent)).div_(temperature)
        image = self._decode(self._mix(logits))
        return image if self.temperature is None else torch.where(image < 1, image, image.detach())

    def _mix(self, logits: Tensor) -> Tensor:
        """Return the mean codes (B, dim, h, w) under logits (B, h, w, codes)."""
        groups = [slice(first, None, self.groups) for first in range(self.groups)]
        means = [logits[..., group].softmax(-1) @ self.codebook[group] for group in groups]
        return torch.stack(means).sum(0).permute(0, 3, 1, 2)

    def distance(self, latent: Tensor, other: Tensor) -> Tensor:
        one, two = (self._mix(_codes_last(logits) / (self.temperature or 1)) for logits in (latent, other))
        return super().distance(one, two)

    def residual(self, latent: Tensor) -> Tensor:
        return torch.zeros_like(latent)  # not computed: the encoder's logits have another scale than the latent's

    def project_(self, latent: Tensor) -> None:
        """Logits have no bounds."""

    def pack(self, latent: Tensor) -> Tensor:
        return super().pack(latent) if self.temperature is None else latent.half()

    def unpack(self, saved: Tensor, size: tuple[int, int]) -> Tensor:
        return fast.channels_last(super().unpack(saved, size))


class Sampled(Gumbel):
    """Token logits; each step samples every token, and the gradient is the softmax's (Crowson 2021, dVAE+CLIP)."""

    def image(self, latent: Tensor, progress: float = 1.0, rng: Randomness | None = None) -> Tensor:
        """Return the image of tokens that are drawn with ``rng``; without it, of the likeliest."""
        if rng is None:
            return super().image(latent)
        noisy = _gumbel_noise(latent, rng).add_(_codes_last(latent.detach()))
        tokens = self.tokens(noisy.permute(0, 3, 1, 2))  # the argmax with Gumbel noise is a draw from the softmax
        return self._decode(straight_through(self.net.lookup(tokens), self._mix(_codes_last(latent))))


def _codes_last(latent: Tensor) -> Tensor:
    """Return (B, codes, h, w) as (B, h, w, codes)."""
    return latent.permute(0, 2, 3, 1)


def _gumbel_noise(latent: Tensor, rng: Randomness) -> Tensor:
    """Return noise (B, h, w, codes) for a latent (B, codes, h, w)."""
    shape, device = _codes_last(latent).shape, latent.device

    def draw(shape: Sequence[int], rng: torch.Generator) -> Tensor:
        return torch.rand(shape, generator=devices.fork_rng(rng, device), device=device)

    if isinstance(rng, torch.Generator):
        uniform = draw(shape, rng)
    else:
        uniform = torch.stack([draw(shape[1:], one) for one in rng])
    return uniform.clamp_(min=1e-20).log_().neg_().log_().neg_()
