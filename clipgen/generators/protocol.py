"""What a run needs to know of a latent and the way from it to a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from clipgen.errors import ClipgenError
from clipgen.images.drawing import Drawing

Randomness = torch.Generator | Sequence[torch.Generator]  # one for all pictures, or one for each


class Parameterisation(Protocol):
    """A latent that can be moved, and the picture that it stands for.

    Images are (B, 3, H, W) float32 in [0, 1]. A latent is one float32 tensor, its first dimension the batch; what it
    holds is the family's own: vectors of a codebook, a spectrum, a stack of pictures.
    """

    name: str
    side: int  # pixels of a side that it draws best
    stride: int  # height and width of a picture are multiples of it
    lr: float  # the step in the latent's own units that a learning rate of 1 stands for
    device: torch.device
    precision: str  # what its net computes in, see ``clipgen.device``

    def settle(self, precision: str) -> None:
        """Compute in a precision from now on: one of ``clipgen.device.PRECISIONS``."""

    def start(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        """Where it begins by itself: a latent for one picture of (H, W), drawn with ``rng`` on the CPU."""

    def encode(self, image: Tensor) -> Tensor:
        """The latent whose picture is nearest to an image, without a gradient."""

    def image(self, latent: Tensor, progress: float = 1.0, rng: Randomness | None = None) -> Tensor:
        """The picture of a latent, with a gradient.

        A relaxation may draw noise with ``rng`` and harden with ``progress`` in [0, 1]; without ``rng`` it is what is
        shown. Pictures drawn together with a generator each are those that they are alone, to rounding.
        """

    def distance(self, latent: Tensor, other: Tensor) -> Tensor:
        """How far apart two latents are: a scalar that is about 1 for two unrelated pictures."""

    def residual(self, latent: Tensor) -> Tensor:
        """What a latent has gathered that its picture does not show yet, and ``encode`` would lose."""

    def project_(self, latent: Tensor) -> None:
        """Bring a latent back, in place, to where pictures are."""

    def pack(self, latent: Tensor) -> Tensor:
        """What is kept of a latent of one picture: tokens (h, w) int64, or the latent in 16 bits."""

    def unpack(self, saved: Tensor, size: tuple[int, int]) -> Tensor:
        """The latent of a picture of (H, W) from what ``pack`` kept. Raises ClipgenError for what does not fit."""


class Vector(Parameterisation, Protocol):
    """One whose pictures are drawings: what is written as vectors."""

    def drawing(self, latent: Tensor) -> Drawing:
        """The marks of a latent of one picture."""

    def moved(self, latents: Tensor, origin: Tensor, rng: torch.Generator) -> Tensor:
        """Latents as a camera sees them; ``origin`` (2, 3): where each place of the picture was before its move."""


class Discrete(Parameterisation, Protocol):
    """One whose latents stand for tokens: what a prior writes."""

    @property
    def codebook(self) -> Tensor:
        """(K, dim), a vector for each token."""

    def tokens(self, latent: Tensor) -> Tensor:
        """(B, h, w) int64: the token of every place."""

    def place(self, tokens: Tensor) -> Tensor:
        """(B, h, w) int64 to the latent that stands for them."""


def check_size(name: str, stride: int, size: tuple[int, int]) -> None:
    """Raise ClipgenError unless (width, height) in pixels are multiples of ``stride``, from 4 of them to 4096."""
    least = 4 * stride
    nearest = tuple(min(4096, max(least, round(side / stride) * stride)) for side in size)
    if tuple(size) != nearest:
        raise ClipgenError(
            f"size={tuple(size)}: {name} works in steps of {stride} from {least} to 4096; nearest is {nearest}"
        )


def check_tokens(name: str, tokens: Any, size: tuple[int, int], stride: int, codes: int) -> None:
    """Raise ClipgenError unless whole numbers (h, w) are tokens of a picture of (H, W) pixels."""
    shape = size[0] // stride, size[1] // stride
    if tuple(tokens.shape) != shape or tokens.min() < 0 or tokens.max() >= codes:
        raise ClipgenError(
            f"init: tokens of shape {tuple(tokens.shape)} from {tokens.min()} to {tokens.max()} were given; "
            f"{name} at this size needs {shape}, from 0 to {codes - 1}"
        )


def unpacked(name: str, saved: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A latent that was kept in 16 bits, as float32. Raises ClipgenError for another shape, or what is no number."""
    if tuple(saved.shape) != shape or not saved.isfinite().all():
        raise ClipgenError(
            f"init: a latent of shape {tuple(saved.shape)} was given; {name} at this size needs {shape}, finite numbers"
        )
    return saved.float()
