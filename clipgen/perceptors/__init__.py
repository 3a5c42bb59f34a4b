"""Perceptors: text and images as unit vectors in one space."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from clipgen import weights
from clipgen.device import autocast
from clipgen.errors import ClipgenError


class Perceptor(Protocol):
    """What the loop needs to know of a CLIP-like model."""

    name: str
    size: int  # side of the square it looks at, in pixels

    def embed_text(self, texts: list[str]) -> Tensor:
        """(P, d) unit-norm float32."""

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, size, size) in [0, 1] to (B, d) unit-norm float32."""


class Mini:
    """The embedded mini CLIP: 64 x 64 pixels, emoji art and plain scenes."""

    name, size = "mini", 64

    def __init__(self, device: torch.device | str = "cpu"):
        from clipgen.perceptors.mini import MiniCLIP

        tensors, config = weights.read(weights.EMBEDDED / "clip.safetensors")
        with torch.device("meta"):
            net = MiniCLIP(**config)
        net.load_state_dict(tensors, assign=True)
        net.image.fuse()
        self.net = net.to(device).eval().requires_grad_(False)
        self.net.image.to(memory_format=torch.channels_last)
        self.device = torch.device(device)

    @torch.no_grad()
    def embed_text(self, texts: list[str]) -> Tensor:
        return self.net.embed_text(texts)

    def encode_image(self, images: Tensor) -> Tensor:
        with autocast(images.device):
            return self.net.encode_image(images.contiguous(memory_format=torch.channels_last))


REGISTRY = {"mini": Mini}


def load_perceptor(name: str = "mini", device: torch.device | str = "cpu") -> Perceptor:
    """A perceptor of the registry, ready on ``device``. Raises ClipgenError for an unknown name."""
    if name not in REGISTRY:
        raise ClipgenError(f"perceptor={name!r} is unknown; choose one of: {', '.join(REGISTRY)}")
    return REGISTRY[name](device)
