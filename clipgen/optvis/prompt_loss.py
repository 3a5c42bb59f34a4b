"""What CLIP says about a picture, and the gradient of it: prompts, perceptors, cutouts, spot prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from PIL import Image
from torch import Tensor

from clipgen.images import masks
from clipgen.models.perceptors.catalogue import embed
from clipgen.models.perceptors.protocol import Perceptor
from clipgen.optvis.cutouts import Cutouts
from clipgen.optvis.objectives import Moment, Objective
from clipgen.optvis.prompt import Prompt, strengths


def spherical_distance(images: Tensor, targets: Tensor) -> Tensor:
    """Half the squared angle between unit vectors, (N, d) and (P, d) to (N, P), in [0, π²/2].

    Unlike the cosine it keeps pulling when the two are nearly opposite (Crowson 2021, VQGAN+CLIP).
    """
    chord = (images[:, None] - targets[None]).norm(dim=-1)
    return 2 * (chord / 2).clamp(max=1 - 1e-6).arcsin().square()


def cosine_distance(images: Tensor, targets: Tensor) -> Tensor:
    """One minus the cosine of unit vectors, (N, d) and (P, d) to (N, P), in [0, 2]."""
    return 1 - images @ targets.T


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"spherical": spherical_distance, "cosine": cosine_distance}


def prompt_distance(
    images: Tensor,
    targets: Tensor,
    weights: Tensor,
    distance: Callable[[Tensor, Tensor], Tensor] = spherical_distance,
    stops: Tensor | None = None,
) -> Tensor:
    """The weighted mean distance of views (N, d) to prompts (P, d) with weights (P,); a negative weight repels.

    A view that is nearer to a prompt than its stop (P,) is not moved by it (Crowson 2021).
    """
    away = distance(images, targets)
    if stops is not None:
        away = away.maximum(stops)
    return (away.mean(0) * weights).sum() / weights.abs().sum().clamp(min=1e-12)


def clip_score(images: Tensor, targets: Tensor, weights: Tensor) -> float:
    """The cosine between the mean view and the weighted prompts, averaged over the positive ones."""
    wanted = weights > 0
    cosine = images.detach().mean(0) @ targets[wanted].T
    return float((cosine * weights[wanted]).sum() / weights[wanted].sum() / images.detach().mean(0).norm())


@dataclass(frozen=True)
class Spot:
    """A part of the picture and the prompts that are about it."""

    which: list[int]
    mask: Tensor | None = None  # (1, 1, H, W); None: all of it

    @cached_property
    def box(self) -> tuple[slice, slice]:
        return (slice(None), slice(None)) if self.mask is None else masks.box(self.mask)

    def seen(self, image: Tensor) -> Tensor:
        """What its prompts see: its surroundings too, but they move only what is inside."""
        if self.mask is not None:
            image = masks.blend(image, image.detach(), self.mask)
        return image[..., self.box[0], self.box[1]]


def spots(prompts: Sequence[Prompt], mask: Callable[[str], Tensor]) -> list[Spot]:
    """The parts that prompts are about; ``mask`` turns what stands in their brackets into one."""
    places: dict[str, list[int]] = {}
    for i, prompt in enumerate(prompts):
        places.setdefault(prompt.where, []).append(i)
    return [Spot(which, mask(where) if where else None) for where, which in places.items()]


@dataclass(frozen=True, repr=False)
class PromptLoss(Objective):
    """How far the views of a picture are from its prompts, as each perceptor understands them."""

    prompts: Sequence[Prompt]
    perceptors: Sequence[tuple[Perceptor, float]]  # with their shares, which sum to one
    targets: Sequence[Tensor]  # of every perceptor, (P, d)
    spots: Sequence[Spot]
    cutouts: Cutouts
    distance: Callable[[Tensor, Tensor], Tensor] = spherical_distance
    name = "prompts"

    def terms(self, moment: Moment) -> Iterator[Tensor]:
        """A term for every part of the views. The CLIP score, the mean of all, is told as ``clip``."""
        image, device = moment.image, moment.image.device
        weights = torch.tensor(strengths(self.prompts, moment.step), device=device)
        stops = torch.tensor([prompt.stop for prompt in self.prompts], device=device)
        scale, score = float(weights.abs().sum()) or 1.0, 0.0
        for spot in self.spots:
            strength = weights[spot.which]
            if not strength.any():
                continue
            for (perceptor, share), every in zip(self.perceptors, self.targets, strict=True):
                targets, views = (
                    every[spot.which],
                    self.cutouts.draw(spot.seen(image).shape, perceptor.size, moment.rng),
                )
                for part in parts(views.count, moment.passes):
                    seen = perceptor.encode_image(views.render(spot.seen(image), part))
                    much = (part.stop - part.start) / views.count
                    loss = prompt_distance(seen, targets, strength, self.distance, stops[spot.which])
                    # That is a mean over its prompts; spots count by the weight of theirs.
                    yield loss * share * much * float(strength.abs().sum()) / scale
                    if (strength > 0).any():
                        wanted = float(strength[strength > 0].sum()) / float(weights[weights > 0].sum())
                        score += share * much * wanted * clip_score(seen, targets, strength)
        moment.scores["clip"] = score


def parts(count: int, passes: int) -> list[slice]:
    """``count`` views in at most ``passes`` runs of nearly equal length."""
    edges = [round(i * count / min(passes, count)) for i in range(min(passes, count) + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]


def embedded(perceptor: Perceptor, prompts: Sequence[Prompt], pictures: Mapping[str, Image.Image]) -> Tensor:
    """(P, d): texts and pictures in one space; ``pictures``: those that image prompts name."""
    texts = [prompt.text for prompt in prompts if not prompt.is_image]
    images = [pictures[prompt.text] for prompt in prompts if prompt.is_image]
    said = iter(embed(perceptor, texts) if texts else ())
    shown = iter(perceptor.embed_image(images) if images else ())
    return torch.stack([next(shown) if prompt.is_image else next(said) for prompt in prompts])
