"""Keep the norm of a one-step generator's noise near a Gaussian's (Samuel et al. 2023; Eyring et al. 2024)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from clipgen.losses.loss import Loss, StepContext
from clipgen.setting import setting


@dataclass(frozen=True)
class NoiseNorm(Loss):
    """|z|²/2 - (d - 1) log |z|, the negative log-density of |z|, up to a constant, for z ~ N(0, I_d)."""

    name = "noise_norm"
    noise_norm: float = setting(0.01, "weight of the norm of the noise, of one-step generators such as sd-turbo", 0)

    def terms(self, context: StepContext) -> Iterator[Tensor]:
        if self.noise_norm and context.spec.generator.is_noise:
            norm = torch.linalg.vector_norm(context.latent)
            yield self.noise_norm * (norm.square() / 2 - (context.latent[0].numel() - 1) * norm.log())
