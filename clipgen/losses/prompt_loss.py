"""What CLIP says about a picture, and the gradient of it: prompts, perceptors, cutouts, spot prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from clipgen.clip.catalogue import embed
from clipgen.clip.protocol import Perceptor
from clipgen.cutouts.sampling import Cutouts
from clipgen.images import masks
from clipgen.losses.objectives import Moment, Objective
from clipgen.prompts import Prompt, weights_at


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

    A view that is nearer to a prompt than its stop (P,) is not moved by it; nor is one that is further from a prompt
    that repels: ``max(-d, stop)`` in the notebooks, which write that stop with a minus (Crowson 2021).
    """
    away = distance(images, targets)
    if stops is not None:
        away = torch.where(weights < 0, away.minimum(stops.abs()), away.maximum(stops))
    return (away.mean(0) * weights).sum() / weights.abs().sum().clamp(min=1e-12)


def clip_score(images: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """The cosine between the mean view and the weighted prompts, averaged over the positive ones, as a scalar."""
    wanted, mean = weights.clamp(min=0), images.detach().mean(0)
    return (mean @ targets.T * wanted).sum() / wanted.sum() / mean.norm()


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

    def cropped(self, picture: Image.Image) -> Image.Image:
        """The same part of a finished picture."""
        if self.mask is None:
            return picture
        rows, columns = self.box
        return picture.crop((columns.start, rows.start, columns.stop, rows.stop))


def spots(prompts: Sequence[Prompt], mask: Callable[[str], Tensor]) -> list[Spot]:
    """The parts that prompts are about; ``mask`` turns what stands in their brackets into one."""
    places: dict[str, list[int]] = {}
    for i, prompt in enumerate(prompts):
        places.setdefault(prompt.where, []).append(i)
    return [Spot(which, mask(where) if where else None) for where, which in places.items()]


class Look(NamedTuple):
    """Views that a perceptor is to be shown, and what their embeddings are worth."""

    perceptor: Perceptor
    show: Callable[[], tuple[Tensor, Tensor | None]]  # makes the views (n, 3, size, size), and which patches are kept
    worth: Callable[[Tensor], Tensor]  # (n, d) to a scalar, a term of the loss


@dataclass(frozen=True, repr=False)
class PromptLoss(Objective):
    """How far the views of a picture are from its prompts, as each perceptor understands them."""

    prompts: Sequence[Prompt]
    perceptors: Sequence[tuple[Perceptor, float]]  # with their shares, which sum to one
    targets: Sequence[Tensor]  # of every perceptor, (P, d)
    spots: Sequence[Spot]
    cutouts: Cutouts
    distance: Callable[[Tensor, Tensor], Tensor] = spherical_distance
    averaged: float = 0.0  # how much the distance of the mean of all views counts, from 0 to 1
    combined: bool = False  # whether texts are added up to one target, instead of their distances
    name = "prompts"

    def terms(self, moment: Moment) -> Iterator[Tensor]:
        """A term for every look. The CLIP score, the mean of all views, is told as ``clip``."""
        for look in self.looks(moment):
            yield look.worth(look.perceptor.encode_image(*look.show()))

    def looks(self, moment: Moment) -> Iterator[Look]:
        """What each perceptor is to be shown, in parts where memory is short."""
        image = moment.image
        # On the CPU, where asking for a number makes nobody wait.
        weights = torch.tensor(weights_at(self.prompts, moment.step))
        stops = torch.tensor([prompt.stop for prompt in self.prompts])
        scale, moment.scores["clip"] = float(weights.abs().sum()) or 1.0, torch.zeros((), device=image.device)
        for spot in self.spots:
            if not weights[spot.which].any():
                continue
            much = float(weights[spot.which].abs().sum()) / scale  # spots count by the weight of their prompts
            wanted = float(weights[spot.which].clamp(min=0).sum()) / (float(weights.clamp(min=0).sum()) or 1.0)
            for (perceptor, share), every in zip(self.perceptors, self.targets, strict=True):
                asked = every[spot.which], weights[spot.which], stops[spot.which]
                asked = combination(*asked) if self.combined else asked
                yield from self._looks(moment, spot, perceptor, asked, share * much, share * wanted)

    def _looks(
        self,
        moment: Moment,
        spot: Spot,
        perceptor: Perceptor,
        asked: tuple[Tensor, Tensor, Tensor],
        much: float,
        wanted: float,
    ) -> Iterator[Look]:
        """Those of one perceptor at a spot; ``asked``: its targets, weights and stops.

        ``much`` and ``wanted``: how much they count in the loss and in the score.
        """
        image = moment.image
        targets, strength, stop = (numbers.to(image.device, non_blocking=True) for numbers in asked)
        views = self.cutouts.draw(spot.seen(image).shape, perceptor.size, moment.rng, perceptor.patches)
        runs, total = parts(views.count, moment.passes), None

        def show(part: slice) -> tuple[Tensor, Tensor | None]:
            return views.render(spot.seen(image), part), views.patches(part, image.device)

        if self.averaged and len(runs) > 1:  # the gradient of the mean is the part's own: all are looked at before
            with torch.no_grad():
                total = sum(perceptor.encode_image(*show(part)).sum(0) for part in runs)

        def away(seen: Tensor) -> Tensor:
            return prompt_distance(seen, targets, strength, self.distance, stop)

        def worth(seen: Tensor) -> Tensor:
            share = len(seen) / views.count
            loss = share * away(seen)
            if self.averaged:
                own = seen.sum(0)
                mean = (own if total is None else total + own - own.detach()) / views.count
                joint = away(F.normalize(mean, dim=-1)[None])
                loss = loss.lerp(joint + (share - 1) * joint.detach(), self.averaged)
            if wanted:
                moment.scores["clip"] = moment.scores["clip"] + wanted * share * clip_score(seen, targets, strength)
            return loss * much

        for part in runs:
            yield Look(perceptor, partial(show, part), worth)


def combination(targets: Tensor, weights: Tensor, stops: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Targets (P, d) of which those with a positive weight are added up to one, of weight 1; with weights and stops.

    Negative ones stay as they are, their weights relative to it (Murdoch 2021).
    """
    wanted = weights > 0
    if not wanted.any():
        return targets, weights, stops
    one = F.normalize(weights.clamp(min=0).to(targets.device) @ targets, dim=-1)
    return (
        torch.cat([one[None], targets[(~wanted).nonzero().flatten().tolist()]]),
        torch.cat([weights.new_ones(1), weights[~wanted]]),
        torch.cat([stops[wanted].amin()[None], stops[~wanted]]),
    )


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
