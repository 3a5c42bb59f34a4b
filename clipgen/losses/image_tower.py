"""Losses that a CLIP gives without a text: LAION's aesthetic score, and the activation of a unit (Olah et al. 2017)."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from clipgen.clip import Perceptor, record_outputs
from clipgen.clip.published import apply_head, head_of, load_head
from clipgen.errors import ClipgenError
from clipgen.losses import Loss, StepContext
from clipgen.setting import setting


@dataclass(frozen=True)
class Aesthetic(Loss):
    """Ten minus the aesthetic score of the whole picture, by each CLIP of the run that has a head."""

    name = "aesthetic"
    aesthetic: float = setting(
        0.0, "weight of LAION's aesthetic score, such as 0.1; the perceptor must be one that it was trained on"
    )

    def check(self, perceptors: Sequence[str]) -> None:
        if self.aesthetic and not any(map(head_of, perceptors)):
            raise ClipgenError(
                f"aesthetic={self.aesthetic}: {', '.join(perceptors)} cannot give it; "
                "choose perceptor='ViT-L-14/openai', 'ViT-B-16/openai' or 'ViT-B-32/openai'"
            )

    def terms(self, context: StepContext) -> Iterator[Tensor]:
        for perceptor, share in context.spec.perceptors if self.aesthetic else ():
            if not (file := head_of(perceptor.name)):
                continue
            head = perceptor.cached("aesthetic head", partial(load_head, file, perceptor.device))
            view = F.interpolate(context.image, (perceptor.size,) * 2, mode="bilinear", antialias=True)
            yield self.aesthetic * share * (10 - apply_head(head, perceptor.encode_image(view)).mean())


CUTOUTS = 4  # cutouts that the unit is shown in a step


@dataclass(frozen=True)
class Neuron(Loss):
    """Minus the mean activation of a unit in a few cutouts, in units of its layer's root mean square."""

    name = "neuron"
    neuron: str = setting(
        "", "a unit of the first perceptor that shall be active, as layer:unit, such as -1:12 (of the last layer)"
    )
    neuron_weight: float = setting(1.0, "weight of neuron; a negative one makes the unit inactive")

    def check(self, perceptors: Sequence[str]) -> None:
        if self.neuron and not re.fullmatch(r"-?\d{1,4}:\d{1,6}", self.neuron):
            raise ClipgenError(f"neuron={self.neuron!r}: write layer:unit, each counted from 0, such as -1:12")

    @torch.no_grad()
    def check_models(self, perceptors: Sequence[Perceptor]) -> None:
        if self.neuron and self.neuron_weight:
            size = perceptors[0].size
            self._layer_outputs(perceptors[0], torch.zeros(1, 3, size, size, device=perceptors[0].device))

    def terms(self, context: StepContext) -> Iterator[Tensor]:
        if not (self.neuron and self.neuron_weight):
            return
        perceptor, image = context.spec.perceptors[0][0], context.image
        cutouts = replace(context.spec.cutouts, cutouts=min(CUTOUTS, context.spec.cutouts.cutouts))
        pictures = cutouts.sample(image.shape, perceptor.size, context.rng).render(image)
        unit, outputs = self._layer_outputs(perceptor, pictures)
        yield -self.neuron_weight * (outputs[..., unit].mean() / outputs.detach().square().mean().sqrt())

    def _layer_outputs(self, perceptor: Perceptor, pictures: Tensor) -> tuple[int, Tensor]:
        """Return the index of the unit, and what its layer returns for pictures (B, 3, H, W), as (B, N, C)."""
        layers, (layer, unit) = perceptor.feature_layers, map(int, self.neuron.split(":"))
        if not -len(layers) <= layer < len(layers):
            raise ClipgenError(f"neuron={self.neuron!r}: {perceptor.name} has layers 0 to {len(layers) - 1}")
        with record_outputs([layers[layer]]) as outputs:
            perceptor.encode_image(pictures)
        maps = outputs[-1].float()  # a network that left fp16's range was run twice
        maps = maps if maps.ndim == 3 else maps.flatten(2).mT
        if unit >= maps.shape[-1]:
            raise ClipgenError(f"neuron={self.neuron!r}: this layer has units 0 to {maps.shape[-1] - 1}")
        return unit, maps
