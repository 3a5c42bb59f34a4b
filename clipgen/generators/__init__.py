"""Generators: a latent that can be moved, and a pretrained decoder that turns it into a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from clipgen import weights
from clipgen.device import autocast
from clipgen.errors import ClipgenError
from clipgen.generators.codes import straight_through
from clipgen.generators.dvae import DVAE
from clipgen.generators.vqgan import VQModel

NETS: dict[str, Callable] = {"vqgan": VQModel, "dvae": DVAE}


@dataclass(frozen=True)
class Entry:
    """A line of the registry: which net, where its weights are, and the size it draws best."""

    net: str
    file: str
    size: int


REGISTRY = {
    "mini-vqgan": Entry("vqgan", "vqgan.safetensors", 128),
    "mini-dvae": Entry("dvae", "dvae.safetensors", 128),
}


class Generator:
    """A frozen autoencoder with a codebook. Latents are (B, dim, H/factor, W/factor) float32.

    Two families share it because both nets offer ``codebook``, ``encode``, ``tokens``, ``lookup`` and
    ``decode``; what differs stays in their files.
    """

    def __init__(self, name: str, net: VQModel | DVAE, size: int = 256):
        self.name, self.size, self.factor = name, size, net.factor
        self.net = net.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        codes = net.codebook
        self.low, self.high = codes.amin(0)[:, None, None], codes.amax(0)[:, None, None]

    def check_size(self, size: tuple[int, int]) -> None:
        """Raise ClipgenError unless (width, height) in pixels are positive multiples of ``factor``."""
        nearest = tuple(max(1, round(side / self.factor)) * self.factor for side in size)
        if tuple(size) != nearest or min(size) < 4 * self.factor or max(size) > 4096:
            nearest = tuple(min(4096, max(side, 4 * self.factor)) for side in nearest)
            raise ClipgenError(
                f"size={tuple(size)}: {self.name} works in steps of {self.factor} from {4 * self.factor} to 4096; "
                f"nearest is {nearest}"
            )

    def random(self, batch: int, height: int, width: int, rng: torch.Generator) -> Tensor:
        """A latent of codes drawn at random, for pictures of (height, width) pixels."""
        shape = batch, height // self.factor, width // self.factor
        return self.net.lookup(torch.randint(len(self.net.codebook), shape, generator=rng).to(self.low.device)).clone()

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to a latent, snapped to the codebook."""
        with autocast(images.device):
            tokens = self.net.tokens(self.net.encode(images))
        return self.net.lookup(tokens)

    @torch.no_grad()
    def tokens(self, latent: Tensor) -> Tensor:
        """(B, h, w) int64: the nearest code of every position."""
        return self.net.tokens(latent)

    def decode(self, latent: Tensor) -> Tensor:
        """A latent, or (B, h, w) tokens, to images (B, 3, H, W) in [0, 1].

        The latent is snapped to the codebook on the way, with a straight-through gradient.
        """
        if latent.dtype == torch.int64:
            latent = self.net.lookup(latent)
        else:
            latent = straight_through(self.net.lookup(self.tokens(latent)), latent)
        with autocast(latent.device):
            images = self.net.decode(latent)
        return images.float()

    def constrain(self, latent: Tensor) -> None:
        """Clamp the latent, in place, to the range of the codebook's channels."""
        latent.data.clamp_(self.low, self.high)

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] through the tokens and back."""
        return self.decode(self.encode(images))


def load_generator(name: str = "mini-vqgan", device: torch.device | str = "cpu") -> Generator:
    """A generator of the registry, ready on ``device``. Raises ClipgenError for an unknown name."""
    if name not in REGISTRY:
        raise ClipgenError(f"generator={name!r} is unknown; choose one of: {', '.join(REGISTRY)}")
    entry = REGISTRY[name]
    tensors, config = weights.read(weights.EMBEDDED / entry.file)
    with torch.device("meta"):
        net = NETS[entry.net](**config)
    net.load_state_dict(tensors, assign=True)
    return Generator(name, net.to(device), entry.size)
