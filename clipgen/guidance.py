"""What CLIP says about a picture, and the gradient of it: prompts, perceptors, cutouts, spot prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from PIL import Image
from torch import Tensor

from clipgen import masks, objectives
from clipgen.cutouts import Views, plan
from clipgen.perceptors import Perceptor, embed
from clipgen.prompts import Prompt, strengths
from clipgen.settings import Settings


@dataclass(frozen=True)
class _Spot:
    """A part of the picture and the prompts that are about it."""

    mask: Tensor | None  # (1, 1, H, W); None: all of it
    box: tuple[slice, slice]
    which: list[int]


class Guidance:
    """The prompts as each perceptor understands them.

    ``pictures``: what image prompts and mask files are called, and are. ``size`` is (H, W).
    """

    def __init__(
        self,
        prompts: list[Prompt],
        perceptors: list[tuple[Perceptor, float]],
        size: tuple[int, int],
        pictures: Mapping[str, Image.Image],
        device: torch.device,
    ):
        self.prompts, self.perceptors, self.device = prompts, perceptors, device
        self.targets = [_embed(perceptor, prompts, pictures) for perceptor, _ in perceptors]
        self.stops = torch.tensor([p.stop for p in prompts], device=device)
        places = dict.fromkeys(prompt.where for prompt in prompts)
        self.spots = [_spot(where, prompts, size, pictures, device) for where in places]

    def follow(self, image: Tensor, step: int, settings: Settings, rng: torch.Generator) -> Callable[[int], tuple]:
        """Draw the views of a (1, 3, H, W) image for a step; returns a function that looks at them.

        That function takes the number of passes, adds the gradient to ``image.grad`` and returns (loss, score) as
        floats. It may be called again, with more passes, when memory was short: it sees the same views.
        """
        weights = torch.tensor(strengths(self.prompts, step), device=self.device)
        names = tuple(name.strip() for name in settings.augment.split(",") if name.strip())
        looks: list[tuple[int, _Spot, Views]] = []
        for spot in self.spots:
            if weights[spot.which].any():
                shape = image[..., spot.box[0], spot.box[1]].shape
                for i, (perceptor, _) in enumerate(self.perceptors):
                    bounds = settings.cut_min, settings.cut_max
                    views = plan(shape, settings.cutouts, perceptor.size, rng, *bounds, names)
                    looks.append((i, spot, views))
        distance = objectives.DISTANCES[settings.distance]

        def look(passes: int) -> tuple[float, float]:
            total, score = 0.0, 0.0
            scale = float(weights.abs().sum()) or 1.0
            for i, spot, views in looks:
                perceptor, share = self.perceptors[i]
                strength, targets = weights[spot.which], self.targets[i][spot.which]
                for part in parts(settings.cutouts, passes):
                    seen = perceptor.encode_image(views.render(_part(image, spot), part))
                    much = (part.stop - part.start) / settings.cutouts
                    loss = objectives.follow(seen, targets, strength, distance, self.stops[spot.which])
                    # ``follow`` is a mean over its prompts; spots count by the weight of theirs.
                    loss = loss * share * much * float(strength.abs().sum()) / scale
                    loss.backward()
                    total += float(loss.detach())
                    if (strength > 0).any():
                        wanted = float(strength[strength > 0].sum()) / float(weights[weights > 0].sum())
                        score += share * much * wanted * objectives.clip_score(seen, targets, strength)
            return total, score

        return look


def parts(count: int, passes: int) -> list[slice]:
    """``count`` views in at most ``passes`` runs of nearly equal length."""
    edges = [round(i * count / min(passes, count)) for i in range(min(passes, count) + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]


def _part(image: Tensor, spot: _Spot) -> Tensor:
    """What a spot's prompts see: its surroundings too, but they move only what is inside."""
    if spot.mask is not None:
        image = masks.blend(image, image.detach(), spot.mask)
    return image[..., spot.box[0], spot.box[1]]


def _spot(
    where: str,
    prompts: list[Prompt],
    size: tuple[int, int],
    pictures: Mapping[str, Image.Image],
    device: torch.device,
) -> _Spot:
    which = [i for i, prompt in enumerate(prompts) if prompt.where == where]
    if not where:
        return _Spot(None, (slice(None), slice(None)), which)
    mask = masks.load(where, size, pictures).to(device)
    return _Spot(mask, masks.box(mask), which)


def _embed(perceptor: Perceptor, prompts: list[Prompt], pictures: Mapping[str, Image.Image]) -> Tensor:
    texts = [prompt.text for prompt in prompts if not prompt.is_image]
    images = [pictures[prompt.text] for prompt in prompts if prompt.is_image]
    said = iter(embed(perceptor, texts) if texts else ())
    shown = iter(perceptor.embed_image(images) if images else ())
    return torch.stack([next(shown) if prompt.is_image else next(said) for prompt in prompts])
