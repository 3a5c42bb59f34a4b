"""The distance of a picture's cutouts to its prompts, as CLIP sees both."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, reduce
from itertools import pairwise
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from clipgen.clip import Perceptor
from clipgen.clip.catalogue import embed
from clipgen.cutouts import CutoutConfig, CutoutParams
from clipgen.device import copy_to
from clipgen.images import masks
from clipgen.losses import Loss, StepContext
from clipgen.prompts import Prompt, weights_at

Distance = Callable[[Tensor, Tensor], Tensor]


def spherical_distance(image_embeddings: Tensor, targets: Tensor) -> Tensor:
    """Return half the squared angle between unit vectors, (N, d) and (P, d) to (N, P), in [0, π²/2].

    Unlike the cosine it keeps pulling when the two are nearly opposite (Crowson 2021, VQGAN+CLIP).
    """
    chord = (image_embeddings[:, None] - targets[None]).norm(dim=-1)
    return 2 * (chord / 2).clamp(max=1 - 1e-6).arcsin().square()


def cosine_distance(image_embeddings: Tensor, targets: Tensor) -> Tensor:
    """Return one minus the cosine of unit vectors, (N, d) and (P, d) to (N, P), in [0, 2]."""
    return 1 - image_embeddings @ targets.T


DISTANCES: dict[str, Distance] = {"spherical": spherical_distance, "cosine": cosine_distance}


class Targets(NamedTuple):
    """Prompts as a CLIP embeds them, and their weights."""

    embeddings: Tensor  # (P, d), unit norm
    weights: Tensor  # (P,); a negative one repels
    # (P,), distance at which an attracting prompt stops pulling, or a repelling one pushing; -inf: never.
    stops: Tensor | None
    sources: Tensor | None = None  # (P, d), embeddings of directions' source texts; zeros for the other prompts

    def to(self, device: torch.device) -> "Targets":
        stops = None if self.stops is None else copy_to(self.stops, device)
        return self._replace(weights=copy_to(self.weights, device), stops=stops)

    def combined(self) -> "Targets":
        """Return targets whose positive ones are one, their normalised weighted sum, of weight 1 (Murdock 2021)."""
        positive = self.weights > 0
        if not positive.any():
            return self
        positive_weights = copy_to(self.weights.clamp(min=0), self.embeddings.device)
        others = [self.embeddings[i] for i in (~positive).nonzero().flatten().tolist()]
        stops = self.stops
        if stops is not None:
            stops = torch.cat([stops[positive].amin()[None], stops[~positive]])
        return Targets(
            torch.stack([F.normalize(positive_weights @ self.embeddings, dim=-1), *others]),
            torch.cat([self.weights.new_ones(1), self.weights[~positive]]),
            stops,
        )


def _select(rows: Tensor, indices: Sequence[int]) -> Tensor:
    """Return some rows (k, d) of (n, d); an index that is a list would first be copied to the device."""
    return torch.stack([rows[i] for i in indices])


def direction_distance(moves: Tensor, directions: Tensor) -> Tensor:
    """Return one minus the cosine of moves (N, d) and directions (P, d), neither of length 1, (N, P), in [0, 2].

    A move is the difference of a picture from its start, a direction that of two texts (Gal et al. 2022). A move
    shorter than 0.01 is divided by 0.01, so that the gradient at the start is finite.
    """
    return 1 - F.normalize(moves, dim=-1, eps=1e-2) @ F.normalize(directions, dim=-1).T


def prompt_distance(
    image_embeddings: Tensor,
    targets: Targets,
    distance: Distance = spherical_distance,
    start_embeddings: Tensor | None = None,
) -> Tensor:
    """Return the weighted mean distance of image embeddings (N, d) to targets, as a scalar.

    Stops are applied as ``max(distance, stop)``, for negative weights as ``min(distance, |stop|)`` (Crowson 2021).
    ``start_embeddings``: (N, d) or (1, d), of the picture that the run started from, for directions.
    """
    distances = distance(image_embeddings, targets.embeddings)
    if targets.sources is not None and start_embeddings is not None:
        directed = direction_distance(image_embeddings - start_embeddings, targets.embeddings - targets.sources)
        distances = torch.where(targets.sources.any(1), directed, distances)
    if targets.stops is not None:
        repelled, attracted = distances.minimum(targets.stops.abs()), distances.maximum(targets.stops)
        distances = torch.where(targets.weights < 0, repelled, attracted)
    return (distances.mean(0) * targets.weights).sum() / targets.weights.abs().sum().clamp(min=1e-12)


def clip_score(image_embeddings: Tensor, embeddings: Tensor, weights: Tensor) -> Tensor:
    """Return the cosine of the mean image embedding to the targets, averaged by their positive weights, as a scalar."""
    positive, mean = weights.clamp(min=0), image_embeddings.detach().mean(0)
    return (mean @ embeddings.T * positive).sum() / positive.sum() / mean.norm()


@dataclass(frozen=True)
class Region:
    """A part of the picture and the prompts that are about it."""

    prompts: list[int]  # their indices
    mask: Tensor | None = None  # (1, 1, H, W); None: all of the picture

    @cached_property
    def box(self) -> tuple[slice, slice]:
        """The rows and columns that contain the mask."""
        return (slice(None), slice(None)) if self.mask is None else masks.bounding_box(self.mask)

    def crop(self, image: Tensor) -> Tensor:
        """Return the box of an image (B, 3, H, W), with a gradient inside the mask only."""
        if self.mask is not None:
            image = masks.blend(image, image.detach(), self.mask)
        return image[..., self.box[0], self.box[1]]

    def crop_picture(self, picture: Image.Image) -> Image.Image:
        """Return the box of a finished picture."""
        if self.mask is None:
            return picture
        rows, columns = self.box
        return picture.crop((columns.start, rows.start, columns.stop, rows.stop))


def find_regions(prompts: Sequence[Prompt], load_mask: Callable[[str], Tensor]) -> list[Region]:
    """Return the regions of prompts; ``load_mask`` returns the mask that their brackets name."""
    indices: dict[str, list[int]] = {}
    for i, prompt in enumerate(prompts):
        indices.setdefault(prompt.where, []).append(i)
    return [Region(members, load_mask(where) if where else None) for where, members in indices.items()]


@dataclass(frozen=True)
class CutoutBatch:
    """Cutouts of one region that go through one CLIP together."""

    perceptor: Perceptor
    region: Region
    targets: Targets
    params: CutoutParams
    part: slice  # of these cutouts
    image: Tensor  # (1, 3, H, W)
    # Embeddings (n, d) to their term of the loss; also adds to the CLIP score. Called once for each batch, in order.
    evaluate: Callable[[Tensor], Tensor]

    def render(self) -> tuple[Tensor, Tensor | None]:
        """Return the cutouts (n, 3, size, size), and the indices of the patches that CLIP is shown of each."""
        cutouts = self.params.render(self.region.crop(self.image), self.part)
        return cutouts, self.params.select_patches(self.part, self.image.device)


@dataclass(frozen=True)
class PromptLoss(Loss):
    """The weighted mean distance of cutouts to the prompts, over regions and CLIPs."""

    prompts: Sequence[Prompt]
    perceptors: Sequence[tuple[Perceptor, float]]  # with their weights, which sum to one
    embeddings: Sequence[Tensor]  # of the prompts by each perceptor, (P, d)
    regions: Sequence[Region]
    cutouts: CutoutConfig
    distance: Distance = spherical_distance
    averaged: float = 0.0  # weight of the distance of the cutouts' mean embedding, in [0, 1]
    combined: bool = False  # whether texts are added up to one target
    sources: Sequence[Tensor | None] = ()  # by each perceptor, (P, d): see ``Targets``
    name = "prompts"

    def terms(self, context: StepContext) -> Iterator[Tensor]:
        """Yield the term of each batch of cutouts. ``context.scores`` gets the CLIP score of all, as ``clip``."""
        for batch in self.cutout_batches(context):
            yield batch.evaluate(batch.perceptor.encode_image(*batch.render()))

    def cutout_batches(self, context: StepContext) -> Iterator[CutoutBatch]:
        """Yield the cutouts of a step: one batch per region, CLIP and pass."""
        weights = torch.tensor(weights_at(self.prompts, context.step))  # on the CPU: reading it does not synchronise
        context.scores.pop("clip", None)  # of an earlier call with this context
        if not (weights > 0).any():
            context.scores["clip"] = torch.zeros((), device=context.image.device)
        stops = torch.tensor([prompt.stop for prompt in self.prompts])
        total, positive = float(weights.abs().sum()) or 1.0, float(weights.clamp(min=0).sum()) or 1.0
        for region in self.regions:
            region_weights = weights[region.prompts]
            if not region_weights.any():
                continue
            loss_weight = float(region_weights.abs().sum()) / total
            score_weight = float(region_weights.clamp(min=0).sum()) / positive
            region_stops = None if stops.isneginf().all() else stops[region.prompts]
            sources = self.sources or [None] * len(self.perceptors)
            for (perceptor, weight), embeddings, source in zip(self.perceptors, self.embeddings, sources, strict=True):
                targets = Targets(_select(embeddings, region.prompts), region_weights, region_stops)
                if source is not None:
                    targets = targets._replace(sources=_select(source, region.prompts))
                targets = (targets.combined() if self.combined else targets).to(context.image.device)
                factors = weight * loss_weight, weight * score_weight
                yield from self._batches_of(context, region, perceptor, targets, *factors)

    def _batches_of(
        self,
        context: StepContext,
        region: Region,
        perceptor: Perceptor,
        targets: Targets,
        loss_weight: float,
        score_weight: float,
    ) -> Iterator[CutoutBatch]:
        rows, columns = region.box
        count, image = self.cutouts.cutouts, context.image
        shape = image[..., rows, columns].shape
        params = self.cutouts.sample(shape, perceptor.size, context.rng, perceptor.patches, image.device)
        passes = min(context.passes, count)
        parts = [slice(a, b) for a, b in pairwise(round(i * count / passes) for i in range(passes + 1))]
        total: Tensor | None = None  # the sum of all embeddings
        collected: list[Tensor] = []  # embeddings of the batches so far

        @cache
        @torch.no_grad()
        def embed_start(i: int) -> Tensor:
            """Return the embeddings of a part's cutouts of the picture that the run started from."""
            assert context.background is not None
            # Not by a CutoutBatch, which holds ``evaluate``, which holds this function.
            cutouts = params.render(region.crop(context.background), parts[i])
            return perceptor.encode_image(cutouts, params.select_patches(parts[i], image.device))

        def evaluate(embeddings: Tensor) -> Tensor:  # called once for each batch, in order
            fraction = len(embeddings) / count  # of the cutouts
            starts = None if targets.sources is None else embed_start(len(collected))
            loss = fraction * prompt_distance(embeddings, targets, self.distance, starts)
            if self.averaged:
                batch_sum = embeddings.sum(0)
                mean = (batch_sum if total is None else total + batch_sum - batch_sum.detach()) / count
                if starts is not None:
                    starts = F.normalize(torch.cat([*map(embed_start, range(len(parts)))]).mean(0), dim=-1)[None]
                joint = prompt_distance(F.normalize(mean, dim=-1)[None], targets, self.distance, starts)
                # The term's value is fraction * joint, so that all add up to joint; its gradient is that of joint.
                loss = loss.lerp(joint + (fraction - 1) * joint.detach(), self.averaged)
            collected.append(embeddings.detach())
            if score_weight and len(collected) == len(parts):
                score = score_weight * clip_score(torch.cat(collected), targets.embeddings, targets.weights)
                context.scores["clip"] = context.scores["clip"] + score if "clip" in context.scores else score
            return loss * loss_weight

        batches = [CutoutBatch(perceptor, region, targets, params, part, context.image, evaluate) for part in parts]
        if self.averaged and len(batches) > 1:  # each part's gradient needs the mean of all
            with torch.no_grad():
                total = reduce(torch.add, (perceptor.encode_image(*batch.render()).sum(0) for batch in batches))
        yield from batches


def embed_sources(perceptor: Perceptor, prompts: Sequence[Prompt]) -> Tensor | None:
    """Return the embeddings (P, d) of directions' source texts, zeros elsewhere; None without directions."""
    if not any(prompt.source for prompt in prompts):
        return None
    embeddings = embed(perceptor, [prompt.source for prompt in prompts])
    return embeddings * torch.tensor([[bool(prompt.source)] for prompt in prompts]).to(embeddings)


def embed_prompts(perceptor: Perceptor, prompts: Sequence[Prompt], pictures: Mapping[str, Image.Image]) -> Tensor:
    """Return the embeddings (P, d) of prompts; ``pictures``: those that image prompts name."""
    texts = [prompt.text for prompt in prompts if not prompt.is_image]
    images = [pictures[prompt.text] for prompt in prompts if prompt.is_image]
    text_rows = iter(embed(perceptor, texts) if texts else ())
    image_rows = iter(perceptor.embed_image(images) if images else ())
    return torch.stack([next(image_rows) if prompt.is_image else next(text_rows) for prompt in prompts])
