"""The interface of a generator: a latent that can be optimised, and the way from it to an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clipgen.errors import ClipgenError
from clipgen.precision import share_weights

Randomness = torch.Generator | Sequence[torch.Generator]  # one for the whole batch, or one for each image


class Generator:
    """A latent and the image that it stands for.

    Images are (B, 3, H, W) float32 in [0, 1]. A latent is one float32 tensor whose first dimension is the batch; the
    rest is the generator's own: codebook vectors, frequencies, strokes. The defaults here are those of a continuous
    latent without a net.
    """

    name: str
    native_size: int  # width and height in pixels that suit it best
    stride = 1  # height and width of an image are multiples of it
    lr: float  # the step, in the latent's own units, that a learning rate of 1 stands for
    limit: float  # latents are clamped to [-limit, limit]
    device: torch.device
    net: Any = None  # an autoencoder with ``encode``, ``decode`` and a module ``decoder``, if there is one
    precision = "fp32"  # see ``clipgen.device``
    is_vector = False  # whether its images are drawings of marks, see ``clipgen.generators.vectors``

    def set_precision(self, precision: str) -> None:
        """Compute in one of ``clipgen.device.PRECISIONS``; without a net there is only fp32."""

    def enable_checkpointing(self) -> bool:
        """Recompute activations in the backward pass instead of storing them; return whether that is new."""
        return False

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Return the shape of the latent of one image of (H, W)."""
        raise NotImplementedError

    def start(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        """Return a random latent of one image of (H, W), drawn on the CPU."""
        raise NotImplementedError

    def encode(self, image: Tensor) -> Tensor:
        """Return the latent whose image is nearest to ``image``, without a gradient."""
        raise NotImplementedError

    def image(self, latent: Tensor, progress: float = 1.0, rng: Randomness | None = None) -> Tensor:
        """Return the image of a latent, differentiable.

        Args:
            latent: One latent or several along the first dimension.
            progress: Share of the run that is done, in [0, 1]; a relaxation may harden with it.
            rng: Source of a relaxation's noise; None for the image that is shown. With a generator for each image, each
                image is the one that it would be alone, to rounding.
        """
        raise NotImplementedError

    def distance(self, latent: Tensor, other: Tensor) -> Tensor:
        """Return the distance of two latents, a scalar of about 1 for unrelated images."""
        raise NotImplementedError

    def residual(self, latent: Tensor) -> Tensor:
        """Return the part of a latent that its image does not show, and that ``encode`` would lose."""
        return torch.zeros_like(latent)

    def transform(self, latents: Tensor, origin: Tensor, rng: torch.Generator) -> Tensor:
        """Return the latents of drawings as a camera sees them after its move, see ``clipgen.generators.vectors``."""
        raise NotImplementedError

    def project_(self, latent: Tensor) -> None:
        """Clamp a latent to its range, in place."""
        latent.data.clamp_(-self.limit, self.limit)

    def pack(self, latent: Tensor) -> Tensor:
        """Return what is stored of the latent of one image: the latent as float16, or tokens (h, w) int64."""
        return latent.detach().half()

    def unpack(self, saved: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the latent of an image of (H, W) from what ``pack`` returned.

        Raises:
            ClipgenError: Another shape, or numbers that are not finite.
        """
        shape = self.shape(size)
        if tuple(saved.shape) != shape or not saved.isfinite().all():
            raise ClipgenError(
                f"init: a latent of shape {tuple(saved.shape)} was given; {self.name} at this size needs {shape}, "
                "finite numbers"
            )
        return saved.float().to(self.device)


def wrap_edges(generator: Generator) -> Generator:
    """Return a generator with the same weights whose decoder pads with the opposite edge: its images tile."""
    twin = share_weights(generator)
    for module in twin.net.decoder.modules() if twin.net is not None else ():
        if isinstance(module, nn.Conv2d):
            module.padding_mode = "circular"
    return twin


def check_size(name: str, stride: int, size: tuple[int, int]) -> None:
    """Raise ClipgenError unless (width, height) in pixels are multiples of ``stride``, from 4 of them to 4096."""
    least = 4 * stride
    nearest = tuple(min(4096, max(least, round(side / stride) * stride)) for side in size)
    if tuple(size) != nearest:
        raise ClipgenError(
            f"size={tuple(size)}: {name} works in steps of {stride} from {least} to 4096; nearest is {nearest}"
        )


def check_tokens(name: str, tokens: Any, size: tuple[int, int], stride: int, codes: int) -> None:
    """Raise ClipgenError unless whole numbers (h, w) are tokens of an image of (H, W) pixels."""
    shape = size[0] // stride, size[1] // stride
    if tuple(tokens.shape) != shape or tokens.min() < 0 or tokens.max() >= codes:
        raise ClipgenError(
            f"init: tokens of shape {tuple(tokens.shape)} from {tokens.min()} to {tokens.max()} were given; "
            f"{name} at this size needs {shape}, from 0 to {codes - 1}"
        )


class _Clamp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, images: Tensor) -> Tensor:  # type: ignore[override]
        clamped = images.clamp(0, 1)
        ctx.save_for_backward(images - clamped)
        return clamped

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (excess,) = ctx.saved_tensors
        return gradient * (gradient * excess >= 0)


def clamp(images: Tensor) -> Tensor:
    """Clamp to [0, 1]. A gradient passes unless it would push a value outside further out (Crowson 2021)."""
    return _Clamp.apply(images)
