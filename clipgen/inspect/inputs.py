"""What ``describe`` and ``explain`` are given: a picture in any form, a perceptor, words."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from clipgen import device as devices
from clipgen.clip.base import Perceptor
from clipgen.clip.catalogue import embed, load_perceptor
from clipgen.images.reading import to_picture


@lru_cache(maxsize=1)  # with the embeddings that the perceptor caches
def _load(name: str, device: str) -> Perceptor:
    return load_perceptor(name, device)


def picture_and_perceptor(source: Any, perceptor: Perceptor | str | None, device: str) -> tuple[Image.Image, Perceptor]:
    """Return a picture and who looks at it: if nobody is named, the first perceptor of a run, or mini CLIP."""
    picture = to_picture(getattr(source, "image", source))  # a run and a frame have an image
    if perceptor is None:
        perceptor = source.models.perceptors[0][0] if hasattr(source, "models") else "mini"
    if isinstance(perceptor, str):
        perceptor = _load(perceptor, str(devices.pick(device)))
    return picture, perceptor


def embed_words(perceptor: Perceptor, words: Sequence[str]) -> Tensor:
    """Return (V, d) embeddings of words, which the perceptor caches."""
    batches = [list(words[i : i + 64]) for i in range(0, len(words), 64)]
    return perceptor.cached(tuple(words), lambda: torch.cat([embed(perceptor, batch) for batch in batches]))
