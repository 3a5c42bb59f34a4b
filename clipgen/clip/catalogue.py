"""Perceptors by name, and the least that one can do with one: to say which text a picture matches."""

from __future__ import annotations

import warnings
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from clipgen import device as devices
from clipgen.clip.protocol import Perceptor
from clipgen.errors import ClipgenError
from clipgen.images.reading import to_picture
from clipgen.registry import PERCEPTORS


def family(name: str) -> type[Perceptor]:
    """The class of the family that a name belongs to. Raises ClipgenError for one of no family, or of no model."""
    for kind in PERCEPTORS.values():
        if kind.knows(name):
            kind.check(name)
            return kind
    raise ClipgenError(
        f"perceptor={name!r} is unknown; choose one of: mini, evaluator, ViT-B-32/openai or another architecture/tag "
        "of open_clip (python -m clipgen models), hf-hub:org/name"
    )


def load_perceptor(name: str = "mini", device: torch.device | str = "cpu", precision: str = "auto") -> Perceptor:
    """A perceptor by name, ready on ``device``.

    ``mini`` ships with clipgen, and ``evaluator``, which is built and trained otherwise and meant to judge what the
    first one guides. ``architecture/tag`` is any pair that open_clip lists (``ViT-B-32/openai``,
    ``ViT-B-16-SigLIP2/webli``; a tag's beginning will do where there is one such tag only, ``ViT-L-14/datacomp_xl``,
    ``ViT-B-16-SigLIP2``), ``architecture/file`` one with weights of your own, ``hf-hub:org/name`` a model on
    the Hugging Face hub; the CLIP paper's ``ViT-B/32``, ``RN50x4``, ``ViT-L/14@336px`` are OpenAI's weights.
    ``precision``: what it looks at pictures in, bf16, fp16 or fp32; auto: what suits the device. Raises ClipgenError
    for an unknown name and for weights that cannot be had, read or fitted.
    """
    kind, device = family(name), torch.device(device)
    precision = devices.precision(device, precision)
    model = kind(name, device)  # type: ignore[call-arg]
    model.settle(precision)
    return model


def embed(perceptor: Perceptor, texts: list[str]) -> Tensor:
    """``embed_text``, with a warning that quotes what a text is too long for."""
    for text in texts:
        if not perceptor.fits(text):
            words = text.split()
            kept = bisect_left(range(1, len(words)), True, key=lambda n: not perceptor.fits(" ".join(words[:n])))
            warnings.warn(
                f"prompt too long for {perceptor.name}; this is dropped: {' '.join(words[kept:])!r}", stacklevel=3
            )
    return perceptor.embed_text(texts)


def rank(
    images: Sequence[Image.Image | str | Path] | Image.Image | str | Path,
    texts: Sequence[str] | str,
    perceptor: Perceptor | str = "mini",
    device: str = "auto",
) -> Tensor:
    """How well each picture matches each text, as (images, texts) probabilities: what CLIP is, in one call.

    Pictures are PIL images or files. A softmax over the texts with the model's own temperature (Radford et al.
    2021); for SigLIP a sigmoid, so that rows need not sum to one (Zhai et al. 2023). Raises ClipgenError for a
    picture that cannot be read.
    """
    several = [images] if isinstance(images, (Image.Image, str, Path)) else list(images)
    words = [texts] if isinstance(texts, str) else list(texts)
    if not several or not words:
        raise ClipgenError("rank needs at least one picture and one text")
    model = load_perceptor(perceptor, devices.pick(device)) if isinstance(perceptor, str) else perceptor
    logits = model.scale * model.embed_image([to_picture(image) for image in several]) @ embed(model, words).T
    return (logits.softmax(1) if model.bias is None else (logits + model.bias).sigmoid()).cpu()
