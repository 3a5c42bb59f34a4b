"""A second CLIP that guides nothing and scores whole frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from clipgen.clip.base import Perceptor
from clipgen.losses.prompt_loss import Region, clip_score
from clipgen.prompts import Prompt, weights_at


@dataclass(frozen=True)
class FrameJudge:
    """The judge of a run, and the prompts that it compares frames with.

    It sees each frame as it was trained to see pictures, without cutouts, augmentations or random numbers.
    """

    judge: Perceptor
    prompts: Sequence[Prompt]
    embeddings: Tensor  # (P, d), of the prompts by the judge
    regions: Sequence[Region]

    def score(self, frame: Image.Image, step: int) -> float:
        """Return the cosine of a frame to the positive prompts of a step, averaged by weight; 0 if there are none.

        A prompt about a region is compared with that region.
        """
        positive = torch.tensor(weights_at(self.prompts, step)).clamp(min=0).to(self.embeddings)
        score = 0.0
        for region in self.regions:
            weights = positive[region.prompts]
            if total := float(weights.sum()):
                embedding = self.judge.embed_image([region.crop_picture(frame)])
                own_score = float(clip_score(embedding, self.embeddings[region.prompts], weights))
                score += total / float(positive.sum()) * own_score
        return score
