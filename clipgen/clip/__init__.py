"""The base class of perceptors: models that embed texts and images as unit vectors in one space, as CLIP does."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from clipgen.precision import MixedPrecision


@contextmanager
def record_outputs(layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Collect what layers return within a ``with`` in this thread; other threads may use the same network."""
    outputs: list[Tensor] = []
    thread = get_ident()

    def record(_: nn.Module, __: Any, output: Tensor) -> None:
        if get_ident() == thread:
            outputs.append(output)

    hooks = [layer.register_forward_hook(record) for layer in layers]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


class Perceptor(MixedPrecision):
    """A CLIP-like model. A subclass is called with (name, device), and loads its weights then."""

    name: str
    device: torch.device
    size: int  # side of its square input, in pixels
    scale: float  # exp(logit_scale): the factor of cosines before the softmax, or the sigmoid if there is a bias
    bias: float | None = None  # logit_bias of a model trained with a sigmoid (SigLIP), otherwise None
    patches = 0  # number of an image's patches, if some can be left out
    default_init = "random"  # the ``init`` that suits it
    is_preference = False  # whether it was trained to tell which of two pictures people prefer for a text

    @classmethod
    def knows(cls, name: str) -> bool:
        """Return whether a name has the form of this family's names."""
        raise NotImplementedError

    @classmethod
    def check(cls, name: str) -> None:
        """Raise ClipgenError for a model that does not exist. Downloads nothing."""

    @classmethod
    def has_patches(cls, name: str) -> bool:
        """Return whether patches of the model's input can be left out. Downloads no weights."""
        return False

    @property
    def feature_layers(self) -> list[nn.Module]:
        """The layers of the image tower whose outputs ``clipgen.explain`` reads.

        A ResNet returns its last two stages, with outputs (B, C, h, w); a ViT all blocks, (B, N, C), patches last.
        """
        raise NotImplementedError

    def cached(self, key: Hashable, compute: Callable[[], Tensor]) -> Tensor:
        """Return what ``compute`` returned for this key first. It is kept as long as the perceptor."""
        cache = self.__dict__.setdefault("_cache", {})
        if key not in cache:
            cache[key] = compute()
        return cache[key]

    def fits(self, text: str) -> bool:
        """Return whether a text is within the context length."""
        raise NotImplementedError

    def embed_text(self, texts: list[str]) -> Tensor:
        """Return unit vectors (P, d), float32. Longer texts are cut at the context length."""
        raise NotImplementedError

    def embed_image(self, pictures: list[Image.Image]) -> Tensor:
        """Return unit vectors (N, d), float32, of pictures that are resized as in training. Not differentiable."""
        raise NotImplementedError

    def rate(self, picture: Image.Image) -> float | None:
        """Return the score of a picture without a text; None for a model that compares with texts."""
        return None

    def encode_image(self, images: Tensor, patch_indices: Tensor | None = None) -> Tensor:
        """Return unit vectors (B, d), float32, of images (B, 3, size, size) in [0, 1]. Differentiable.

        ``patch_indices``: indices (B, n) of the patches that are kept; None keeps all.
        """
        raise NotImplementedError
