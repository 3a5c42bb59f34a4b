"""What a run needs to know of a CLIP-like model: text and images as unit vectors in one space."""

from __future__ import annotations

from typing import Protocol

import torch
from PIL import Image
from torch import Tensor


class Perceptor(Protocol):
    """A model that judges pictures by texts. Its class is called with (name, device)."""

    name: str
    size: int  # side of the square it looks at, in pixels
    device: torch.device
    default_start: str  # the start from which it draws best

    @classmethod
    def knows(cls, name: str) -> bool:
        """Whether a name has the form of one of this family."""

    @classmethod
    def check(cls, name: str) -> None:
        """Raise ClipgenError for a model that does not exist, before anything is downloaded."""

    @property
    def scale(self) -> float:
        """What cosines are multiplied with before a softmax, or a sigmoid if there is a bias."""

    @property
    def bias(self) -> float | None:
        """What is added before the sigmoid (SigLIP); None for a model trained with a softmax."""

    def fits(self, text: str) -> bool:
        """Whether a text is within the context length."""

    def embed_text(self, texts: list[str]) -> Tensor:
        """(P, d) unit-norm float32; what is beyond the context length is dropped."""

    def embed_image(self, pictures: list[Image.Image]) -> Tensor:
        """(N, d) unit-norm float32, each picture resized as the model was trained."""

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, size, size) in [0, 1] to (B, d) unit-norm float32, with a gradient."""
