"""What describing and explaining share: whose eyes look at which picture, and the texts that they compare it with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from PIL import Image
from torch import Tensor

from clipgen import device as devices
from clipgen.clip.base import Perceptor
from clipgen.clip.catalogue import embed, load_perceptor
from clipgen.errors import ClipgenError
from clipgen.images.reading import to_picture
from clipgen.registry import VOCABULARIES

_TEXTS: WeakKeyDictionary[Perceptor, dict[tuple[str, ...], Tensor]] = WeakKeyDictionary()


@lru_cache(maxsize=1)
def _loaded(name: str, device: str) -> Perceptor:
    """A perceptor by name; the last one stays, with the texts and means that are remembered of it."""
    return load_perceptor(name, device)


def looked_at(source: Any, perceptor: Perceptor | str | None, device: str) -> tuple[Image.Image, Perceptor]:
    """The picture, and who looks at it.

    ``source``: anything that ``images.to_picture`` takes, or what has a picture (a run's newest, a frame's). Nobody
    named: the first perceptor of a run, else the embedded one.
    """
    picture = to_picture(getattr(source, "image", source))
    if perceptor is None:
        perceptor = source.models.perceptors[0][0] if hasattr(source, "models") else "mini"
    if isinstance(perceptor, str):
        perceptor = _loaded(perceptor, str(devices.pick(device)))
    return picture, perceptor


def words_of(vocabulary: str | Sequence[str]) -> tuple[str, ...]:
    """The words of a vocabulary by name, or those of a list, each once. Raises ClipgenError for none."""
    words = VOCABULARIES[vocabulary]() if isinstance(vocabulary, str) else vocabulary
    if not words or not all(isinstance(word, str) and word.strip() for word in words):
        raise ClipgenError(
            f"vocabulary={vocabulary!r}: give words, as a list, or the name of one of: {', '.join(VOCABULARIES)}"
        )
    return tuple(dict.fromkeys(words))


def embedded(perceptor: Perceptor, words: tuple[str, ...]) -> Tensor:
    """(V, d) embeddings of words, remembered as long as the perceptor is there."""
    known = _TEXTS.setdefault(perceptor, {})
    if words not in known:
        known[words] = torch.cat([embed(perceptor, list(words[i : i + 64])) for i in range(0, len(words), 64)])
    return known[words]
