"""Perceptors: text and images as unit vectors in one space."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from clipgen import weights
from clipgen.device import autocast, pick
from clipgen.errors import ClipgenError
from clipgen.images import to_picture, to_tensor
from clipgen.perceptors import openclip
from clipgen.prompts import weighted


class Perceptor(Protocol):
    """What the loop needs to know of a CLIP-like model."""

    name: str
    size: int  # side of the square it looks at, in pixels

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


class Mini:
    """The embedded mini CLIP: 64 x 64 pixels, emoji art and plain scenes."""

    name, size, bias = "mini", 64, None

    def __init__(self, device: torch.device | str = "cpu"):
        from clipgen.perceptors.mini import MiniCLIP

        tensors, config = weights.read(weights.EMBEDDED / "clip.safetensors")
        with torch.device("meta"):
            net = MiniCLIP(**config)
        weights.fit(net, tensors, self.name)
        net.image.fuse()
        self.net = net.to(device).eval().requires_grad_(False)
        self.net.image.to(memory_format=torch.channels_last)
        self.scale = float(net.logit_scale.exp())

    def fits(self, text: str) -> bool:
        return self.net.text.fits(text)

    @torch.no_grad()
    def embed_text(self, texts: list[str]) -> Tensor:
        return self.net.embed_text(texts)

    def encode_image(self, images: Tensor) -> Tensor:
        with autocast(images.device):
            return self.net.encode_image(images.contiguous(memory_format=torch.channels_last))

    @torch.no_grad()
    def embed_image(self, pictures: list[Image.Image]) -> Tensor:
        pixels = torch.cat([to_tensor(picture, (self.size, self.size)) for picture in pictures])
        return self.encode_image(pixels.to(self.net.logit_scale.device))


def load_perceptor(name: str = "mini", device: torch.device | str = "cpu") -> Perceptor:
    """A perceptor by name, ready on ``device``.

    ``mini`` ships with clipgen. ``architecture/tag`` is any pair that open_clip lists (``ViT-B-32/openai``,
    ``ViT-B-16-SigLIP2/webli``), ``architecture/file`` one with weights of your own, ``hf-hub:org/name`` a model on
    the Hugging Face hub; the CLIP paper's ``ViT-B/32``, ``RN50x4``, ``ViT-L/14@336px`` are OpenAI's weights.
    Raises ClipgenError for an unknown name and for weights that cannot be had, read or fitted.
    """
    if name == "mini":
        return Mini(device)
    if openclip.understood(name):
        return openclip.OpenCLIP(name, device)
    raise ClipgenError(
        f"perceptor={name!r} is unknown; choose one of: mini, ViT-B-32/openai or another architecture/tag of open_clip "
        "(python -m clipgen models), hf-hub:org/name"
    )


def load_perceptors(names: str, device: torch.device | str = "cpu") -> list[tuple[Perceptor, float]]:
    """An ensemble, ``mini | ViT-B-32/openai:0.5``: perceptors with their shares, which sum to one."""
    parts = weighted(names)
    if not parts or min(weight for _, weight in parts) <= 0:
        raise ClipgenError(f"perceptor={names!r}: name at least one, each with a weight above 0, such as mini:0.5")
    total = sum(weight for _, weight in parts)
    return [(load_perceptor(name, device), weight / total) for name, weight in parts]


def embed(perceptor: Perceptor, texts: list[str]) -> Tensor:
    """``embed_text``, with a warning that quotes what a text is too long for."""
    for text in texts:
        if not perceptor.fits(text):
            words = text.split()
            kept = max((n for n in range(len(words)) if perceptor.fits(" ".join(words[:n]))), default=0)
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
    model = load_perceptor(perceptor, pick(device)) if isinstance(perceptor, str) else perceptor
    logits = model.scale * model.embed_image([to_picture(image) for image in several]) @ embed(model, words).T
    return (logits.softmax(1) if model.bias is None else (logits + model.bias).sigmoid()).cpu()
