"""A picture in words: its embedding as a sum of few word embeddings (SpLiCE, Bhalla et al. 2024, arXiv:2402.10376)."""

from __future__ import annotations

import argparse
import html
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from clipgen import device as devices
from clipgen.clip import Perceptor
from clipgen.clip.catalogue import embed, load_perceptor
from clipgen.errors import ClipgenError
from clipgen.images.reading import to_list, to_picture
from clipgen.registry import PICTURES, VOCABULARIES
from clipgen.setting import check_number


@dataclass(frozen=True)
class Words:
    """A picture in weighted words. As a string: ``apple 0.61, red 0.22, balloon 0.08``."""

    words: list[tuple[str, float]]  # the heaviest first, each weight above 0
    cosine: float  # of their sum to the picture's embedding, both centred: 1 if nothing is left out

    def __str__(self) -> str:
        return ", ".join(f"{word} {weight:.2f}" for word, weight in self.words if weight >= 0.005)

    def _repr_html_(self) -> str:
        return f"{html.escape(str(self))} <small>(cosine {self.cosine:.2f})</small>"


def describe(
    image: Any,
    vocabulary: str | Sequence[str] = "common",
    perceptor: Perceptor | str | None = None,
    *,
    penalty: float = 0.5,
    pictures: str | Sequence[Any] = "drawings",
    device: str = "auto",
) -> Words:
    """Return the few words whose weighted sum is nearest to a picture's embedding.

    Args:
        image: A picture in any form, a file, a frame, or a run: its newest frame, seen by its own perceptor.
        vocabulary: Words, or ``common`` (285, for mini CLIP) or ``emoji`` (1,478).
        perceptor: The CLIP model to use, by default mini CLIP.
        penalty: The L1 penalty, in (0, 1), as a share of the one that leaves no word. Higher is fewer words.
        pictures: Their mean embedding is subtracted from the picture's, and the vocabulary's from each word's, because
            pictures and texts lie apart in CLIP's space. They should be of the same kind as the picture: ``drawings``,
            the 200 that ship with clipgen, or for photographs a few dozen of your own.
        device: auto, cpu, cuda or mps.

    Raises:
        ClipgenError: For a picture that cannot be read, and for fewer than two words.
    """
    penalty = check_number("penalty", penalty)
    if not 0 < penalty < 1:
        raise ClipgenError(f"penalty={penalty}: must be above 0 and below 1; lower gives more words, such as 0.3")
    words = _unique_words(vocabulary)
    picture, perceptor = picture_and_perceptor(image, perceptor, device)
    texts = embed_words(perceptor, words)
    atoms = F.normalize(texts - texts.mean(0), dim=-1)
    target = F.normalize(perceptor.embed_image([picture])[0] - _mean_embedding(perceptor, pictures), dim=-1)
    weights = sparse_weights(target, atoms, penalty)
    cosine = float(F.cosine_similarity(weights @ atoms, target, dim=0))
    order = weights.argsort(descending=True).tolist()
    return Words([(words[i], float(weights[i])) for i in order if weights[i] > 1e-3], cosine)


def sparse_weights(target: Tensor, atoms: Tensor, penalty: float, steps: int = 200) -> Tensor:
    """Return the weights w >= 0, (V,), with the least ½‖target - w·atoms‖² + λ·Σw: a non-negative lasso.

    Accelerated proximal gradient steps (FISTA, Beck and Teboulle 2009).

    Args:
        target: (d,).
        atoms: (V, d).
        penalty: λ as a share of the largest product of the target with an atom; at 1 every weight is 0.
        steps: Gradient steps.
    """
    threshold = penalty * (atoms @ target).amax().clamp(min=0)
    step_size = 1 / torch.linalg.eigvalsh(atoms.T @ atoms)[-1]  # of the gradient's Lipschitz constant
    weights = extrapolated = target.new_zeros(len(atoms))
    momentum = 1.0
    for _ in range(steps):
        previous, gradient = weights, atoms @ (extrapolated @ atoms - target)
        weights = (extrapolated - step_size * (gradient + threshold)).clamp(min=0)
        next_momentum = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        extrapolated = weights + (momentum - 1) / next_momentum * (weights - previous)
        momentum = next_momentum
    return weights


def _unique_words(vocabulary: str | Sequence[str]) -> list[str]:
    given = VOCABULARIES[vocabulary]() if isinstance(vocabulary, str) else vocabulary
    words = list(given) if isinstance(given, Iterable) else []
    if not all(isinstance(word, str) and word.strip() for word in words) or len({*words}) < 2:
        names = ", ".join(VOCABULARIES)
        raise ClipgenError(f"vocabulary={vocabulary!r}: give two words or more, as a list, or one of: {names}")
    return list(dict.fromkeys(words))


def _mean_embedding(perceptor: Perceptor, pictures: str | Sequence[Any]) -> Tensor:
    """Return the mean (d,) of pictures, which the perceptor caches of those with a name."""
    if isinstance(pictures, str):
        load = PICTURES[pictures]
        return perceptor.cached(pictures, lambda: _embed_in_batches(perceptor.embed_image, load(), 32).mean(0))
    several = [to_picture(picture) for picture in to_list(pictures)]
    if not several:
        raise ClipgenError("pictures=[]: give some whose mean embedding is taken, or leave it out")
    return _embed_in_batches(perceptor.embed_image, several, 32).mean(0)


def _embed_in_batches(embed: Callable[[list[Any]], Tensor], items: Sequence[Any], size: int) -> Tensor:
    return torch.cat([embed(list(items[i : i + size])) for i in range(0, len(items), size)])


def embed_words(perceptor: Perceptor, words: Sequence[str]) -> Tensor:
    """Return (V, d) embeddings of words, which the perceptor caches."""
    return perceptor.cached(tuple(words), lambda: _embed_in_batches(lambda batch: embed(perceptor, batch), words, 64))


@lru_cache(maxsize=1)  # with the embeddings that the perceptor caches
def _load(name: str, device: str) -> Perceptor:
    return load_perceptor(name, device)


def picture_and_perceptor(source: Any, perceptor: Perceptor | str | None, device: str) -> tuple[Image.Image, Perceptor]:
    """Return a picture and the CLIP model to use: by default the first perceptor of a run, or mini CLIP."""
    picture = to_picture(getattr(source, "image", source))  # a run and a frame have an image
    if perceptor is None:
        perceptor = source.models.perceptors[0][0] if hasattr(source, "models") else "mini"
    if isinstance(perceptor, str):
        perceptor = _load(perceptor, str(devices.resolve_device(device)))
    return picture, perceptor


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that ``clipgen describe`` and ``clipgen explain`` have in common."""
    parser.add_argument("image", help="a picture: a file or an address")
    parser.add_argument("--perceptor", help="the CLIP to use (default: mini, built in)")
    parser.add_argument("--device", help="auto, cpu, cuda or mps")
    parser.add_argument("--quiet", action="store_true", default=False, help="print only the file or the words")


def describe_command(parser: argparse.ArgumentParser, words: list[str]) -> int:
    """Print the words that describe a picture, and how near they come to its embedding."""
    add_options(parser)
    names = ", ".join(VOCABULARIES)
    parser.add_argument("--vocabulary", help=f"{names}, or comma-separated words (default: common)")
    parser.add_argument("--penalty", type=float, help="0 to 1; higher gives fewer words (default: 0.5)")
    options = vars(parser.parse_intermixed_args(words))
    quiet, vocabulary = options.pop("quiet"), options.get("vocabulary", "")
    if "," in vocabulary:
        options["vocabulary"] = [word.strip() for word in vocabulary.split(",")]
    description = describe(**options)
    print(description if quiet else f"{description} (cosine {description.cosine:.2f})")
    return 0
