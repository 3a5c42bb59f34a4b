"""A perceptor that guides nothing: it says of whole frames how well they show the prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from clipgen.clip.protocol import Perceptor
from clipgen.losses.prompt_loss import Spot, clip_score
from clipgen.prompts import Prompt, weights_at


@dataclass(frozen=True)
class Judging:
    """The judge of a run, and what it is asked.

    It sees each frame once, as it was trained to see pictures, without cutouts, augmentations or random numbers: what
    the guide cannot look behind. It leaves no gradient.
    """

    judge: Perceptor
    prompts: Sequence[Prompt]
    targets: Tensor  # (P, d), the prompts as the judge understands them
    spots: Sequence[Spot]

    def score(self, frame: Image.Image, step: int) -> float:
        """The cosine between a frame and the prompts that are wanted at a step, averaged by their weights.

        As of ``clip_score``: negative prompts do not count, a prompt about a part is compared with that part. 0 where
        no prompt is wanted.
        """
        wanted = torch.tensor(weights_at(self.prompts, step)).clamp(min=0).to(self.targets)
        score = 0.0
        for spot in self.spots:
            weights = wanted[spot.which]
            if share := float(weights.sum()):
                seen = self.judge.embed_image([spot.cropped(frame)])
                score += share / float(wanted.sum()) * float(clip_score(seen, self.targets[spot.which], weights))
        return score
