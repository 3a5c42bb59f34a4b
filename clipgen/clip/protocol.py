"""What a run needs to know of a CLIP-like model: text and images as unit vectors in one space."""

from __future__ import annotations

from typing import Protocol

import torch
from PIL import Image
from torch import Tensor, nn


class Perceptor(Protocol):
    """A model that judges pictures by texts. Its class is called with (name, device)."""

    name: str
    size: int  # side of the square it looks at, in pixels
    device: torch.device
    precision: str  # what it looks at pictures in, see ``clipgen.device``
    patches: int  # that a picture is cut into, if some can be left out; else 0
    default_start: str  # the start from which it draws best

    @classmethod
    def knows(cls, name: str) -> bool:
        """Whether a name has the form of one of this family."""

    @classmethod
    def check(cls, name: str) -> None:
        """Raise ClipgenError for a model that does not exist, before anything is downloaded."""

    @classmethod
    def drops(cls, name: str) -> bool:
        """Whether a model has patches that can be left out, before its weights are loaded."""

    def settle(self, precision: str) -> None:
        """Look at pictures in a precision from now on: one of ``clipgen.device.PRECISIONS``."""

    @property
    def maps(self) -> list[nn.Module]:
        """The parts of the image tower whose outputs ``clipgen.explain`` reads, laid out as a picture.

        Maps (B, C, h, w) of the last two stages, or tokens (B, N, C) of all blocks, one a patch behind any others.
        """

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

    def encode_image(self, images: Tensor, kept: Tensor | None = None) -> Tensor:
        """(B, 3, size, size) in [0, 1] to (B, d) unit-norm float32, with a gradient.

        ``kept`` (B, n): the numbers of the patches that are looked at; None: all of them.
        """
