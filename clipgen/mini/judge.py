"""The evaluator: a perceptor to judge with, that guides no picture unless somebody names it for that.

Built unlike mini CLIP on purpose: a plain stack of convolutions and maximum pooling without skips, a bag of
words instead of a transformer, trained without adversaries. What fools the one need not fool the other.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipgen.clip.tokenizer import VOCABULARY, encode
from clipgen.mini.embedded import Embedded


class Judge(nn.Module):
    """Texts and pictures to unit vectors: ``embed`` numbers a word, ``width`` channels in the first convolution."""

    def __init__(self, dim: int = 256, embed: int = 48, width: int = 32):
        super().__init__()
        self.words = nn.EmbeddingBag(VOCABULARY, embed, mode="mean")
        self.text = nn.Sequential(nn.Linear(embed, 512), nn.GELU(), nn.Linear(512, dim))
        layers: list[nn.Module] = []
        inner = 3
        for outer in (width, 2 * width, 4 * width, 8 * width):
            layers += [nn.Conv2d(inner, outer, 3, 1, 1, bias=False), nn.BatchNorm2d(outer), nn.ReLU(), nn.MaxPool2d(2)]
            inner = outer
        layers += [nn.Conv2d(inner, inner, 3, 1, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers)
        self.image = nn.Linear(4 * inner, dim)
        self.logit_scale = nn.Parameter(torch.tensor(2.7))

    def embed_text(self, texts: list[str]) -> Tensor:
        """(P, dim) unit-norm embeddings."""
        rows, device = [encode(text) or [VOCABULARY - 1] for text in texts], self.words.weight.device
        starts = torch.tensor([0, *map(len, rows[:-1])], device=device).cumsum(0)
        bags = self.words(torch.tensor([token for row in rows for token in row], device=device), starts)
        return F.normalize(self.text(bags).float(), dim=-1)

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, 64, 64) in [0, 1] to (B, dim) unit-norm embeddings."""
        maps = F.adaptive_avg_pool2d(self.convolutions(images * 2 - 1), 2)
        return F.normalize(self.image(maps.flatten(1)).float(), dim=-1)


class Evaluator(Embedded):
    """The judge as a perceptor, for texts of any length."""

    built_in_name, file, build = "evaluator", "judge.safetensors", Judge

    @property
    def feature_layers(self) -> list[nn.Module]:
        return [self.net.convolutions[-5], self.net.convolutions[-1]]  # behind the ReLUs of the last two stages

    def fits(self, text: str) -> bool:
        """A bag holds any number of words."""
        return True
