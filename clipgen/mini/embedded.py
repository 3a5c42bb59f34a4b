"""What both embedded perceptors have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from clipgen.clip.base import Perceptor
from clipgen.images.reading import to_tensor
from clipgen.mini import WEIGHTS
from clipgen.storage import weights


class Embedded(Perceptor):
    """A perceptor of 64 x 64 pixels that is always there: ``build`` makes its net, for the weights in ``file``."""

    size = 64
    default_start = "dalle"
    built_in_name: ClassVar[str]
    file: ClassVar[str]
    build: ClassVar[Callable[..., nn.Module]]

    def __init__(self, name: str | None = None, device: torch.device | str = "cpu"):
        self.name, self.device = name or self.built_in_name, torch.device(device)
        tensors, config = weights.load_weights(WEIGHTS / self.file)
        net = weights.build_net(type(self).build, config, tensors, self.name)
        self.net = net.to(device).eval().requires_grad_(False)
        self.scale = float(self.net.logit_scale.exp())

    @classmethod
    def knows(cls, name: str) -> bool:
        return name == cls.built_in_name

    @torch.no_grad()
    def embed_text(self, texts: list[str]) -> Tensor:
        return self.net.embed_text(texts)

    def encode_image(self, images: Tensor, patch_indices: Tensor | None = None) -> Tensor:
        return self.compute(self.net.encode_image, images)

    @torch.no_grad()
    def embed_image(self, pictures: list[Image.Image]) -> Tensor:
        pixels = torch.cat([to_tensor(picture, (self.size, self.size)) for picture in pictures])
        return self.encode_image(pixels.to(self.device))
