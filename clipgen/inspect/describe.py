"""A picture in words: its embedding as a sum of few of them (SpLiCE, Bhalla et al. 2024, arXiv:2402.10376)."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from clipgen.clip.base import Perceptor
from clipgen.errors import ClipgenError
from clipgen.images.reading import to_picture
from clipgen.inspect.looking import embedded, looked_at, words_of
from clipgen.registry import PICTURES

_MEANS: WeakKeyDictionary[Perceptor, dict[str, Tensor]] = WeakKeyDictionary()  # of pictures that have a name


@dataclass(frozen=True)
class Words:
    """What a perceptor sees in a picture. As a string: ``apple 0.61, red 0.22, balloon 0.08``."""

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
    """The few words whose weighted sum comes nearest to a picture's embedding: what a CLIP sees, by itself.

    ``image``: a picture in any form, a file, a run (its newest frame, seen by its own perceptor) or a frame.
    ``vocabulary``: words, or ``common`` (285, for the embedded CLIP) or ``emoji`` (1,478). ``penalty``, in (0, 1): the
    L1 penalty as a share of the one that leaves no word; higher is fewer words.

    Pictures and texts lie apart in a CLIP's space, so both are centred on their means: words on the vocabulary's,
    the picture on that of ``pictures``, which should be of the kind that is described. By default these are the 200
    drawings that ship with clipgen; for photographs a few dozen of your own are better.

    Raises ClipgenError for a picture that cannot be read, and for no words.
    """
    if not 0 < penalty < 1:
        raise ClipgenError(f"penalty={penalty}: has to be above 0 and below 1; lower gives more words, such as 0.3")
    words = words_of(vocabulary)
    if len(words) < 2:
        raise ClipgenError(f"vocabulary={list(words)!r}: one word alone has nothing to be told from; give several")
    picture, perceptor = looked_at(image, perceptor, device)
    texts = embedded(perceptor, words)
    atoms = F.normalize(texts - texts.mean(0), dim=-1)
    seen = F.normalize(perceptor.embed_image([picture])[0] - _middle(perceptor, pictures), dim=-1)
    weights = sparse(seen, atoms, penalty)
    cosine = float(F.cosine_similarity(weights @ atoms, seen, dim=0))
    found = [(words[i], float(weights[i])) for i in weights.argsort(descending=True).tolist() if weights[i] > 1e-3]
    return Words(found, cosine)


def sparse(target: Tensor, atoms: Tensor, penalty: float, steps: int = 200) -> Tensor:
    """The weights w >= 0, (V,), with the least ½‖target - w·atoms‖² + λ·Σw, where λ is ``penalty`` of the largest
    product of the target with an atom: with all of it, every weight is 0.

    ``target``: (d,); ``atoms``: (V, d). By accelerated proximal gradient steps (FISTA, Beck and Teboulle 2009).
    """
    threshold = penalty * (atoms @ target).amax().clamp(min=0)
    rate = 1 / torch.linalg.eigvalsh(atoms.T @ atoms)[-1]  # of the gradient's Lipschitz constant
    weights = ahead = target.new_zeros(len(atoms))
    pace = 1.0
    for _ in range(steps):
        before, weights = weights, (ahead - rate * (atoms @ (ahead @ atoms - target) + threshold)).clamp(min=0)
        pace, earlier = (1 + (1 + 4 * pace**2) ** 0.5) / 2, pace
        ahead = weights + (earlier - 1) / pace * (weights - before)
    return weights


def _middle(perceptor: Perceptor, pictures: str | Sequence[Any]) -> Tensor:
    """(d,) the mean embedding of pictures; of those that have a name, it is remembered."""
    if not isinstance(pictures, str):
        return _mean(perceptor, [to_picture(picture) for picture in pictures])
    known = _MEANS.setdefault(perceptor, {})
    if pictures not in known:
        known[pictures] = _mean(perceptor, PICTURES[pictures]())
    return known[pictures]


def _mean(perceptor: Perceptor, pictures: list[Image.Image]) -> Tensor:
    if not pictures:
        raise ClipgenError("pictures=[]: give some whose mean embedding is taken, or leave it out")
    return torch.cat([perceptor.embed_image(pictures[i : i + 32]) for i in range(0, len(pictures), 32)]).mean(0)
