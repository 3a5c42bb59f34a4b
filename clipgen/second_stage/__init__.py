"""Second stages: what writes a picture's tokens, one after another, for a text."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from clipgen import perceptors, weights
from clipgen.device import dtype
from clipgen.errors import ClipgenError
from clipgen.second_stage.dalle_mini import MODELS, DalleMini
from clipgen.second_stage.prior import Prior


class Stream(Protocol):
    """A number of pictures in the making, with all that was computed for the tokens so far."""

    def __call__(self, previous: Tensor | None) -> Tensor:
        """The tokens (count,) just drawn, None at the beginning, to the logits (count, codes) of the next."""


class SecondStage(Protocol):
    """A model of image tokens given a text."""

    name: str
    side: int  # tokens of a side
    codes: int
    generator: str  # whose tokens they are
    perceptor: str  # the CLIP that ranks what it draws, if no other is asked for
    temperature: float  # this, the guidance and the number of likeliest tokens to draw from that suit it
    guidance: float
    top_k: int

    def start(self, text: str, count: int, guidance: float) -> Stream:
        """Begin ``count`` pictures. ``guidance``: how far each token's logits are moved away from those without the
        text, 1 for not at all (classifier-free guidance, Ho and Salimans 2022)."""


class Mini:
    """The embedded transformer: 256 tokens of the mini dVAE, emoji art in Noto's style and plain scenes."""

    name, generator, perceptor = "mini", "mini-dvae", "mini"
    temperature, guidance, top_k = 0.7, 1.5, 128

    def __init__(self, device: torch.device | str = "cpu"):
        tensors, config = weights.read(weights.EMBEDDED / "prior.safetensors")
        self.tower = perceptors.Mini(device).net.text
        words = self.tower.tokens.weight.detach()
        with torch.device("meta"):
            net = Prior(words, **config)
        net.words = words
        weights.fit(net, tensors, self.name)
        self.net = net.to(device, dtype(torch.device(device))).eval().requires_grad_(False)
        self.side, self.codes = net.side, net.codes

    @torch.no_grad()
    def read(self, text: str) -> tuple[Tensor, Tensor]:
        """A text's tokens (1, context), and what the net is told of its meaning (1, width)."""
        tokens = self.net.read([text]).to(self.net.words.device)
        return tokens, self.net.understand(self.tower.features(tokens).to(self.net.words.dtype))

    def start(self, text: str, count: int, guidance: float) -> Stream:
        return _MiniStream(self, text, count, guidance)

    @torch.no_grad()
    def attention(self, text: str, image: Tensor) -> Tensor:
        """What every position of a picture (side, side) looks at: (layers, heads, positions, positions)."""
        looks: list[Tensor] = []
        self.net(self.net.embed(*self.read(text), image.reshape(1, -1).to(self.net.words.device)), looks=looks)
        return torch.stack(looks).float()


class _MiniStream:
    def __init__(self, stage: Mini, text: str, count: int, guidance: float):
        self.net, self.guidance = stage.net, guidance
        texts = [text] if guidance == 1 else [text, ""]
        tokens, told = (torch.cat(parts).repeat_interleave(count, 0) for parts in zip(*map(stage.read, texts)))
        start = self.net.embed(tokens, told, tokens[:, :0])
        self.memories = self.net.memories(len(tokens), start)
        self.features = self.net(start, self.memories)
        self.told, self.place = told[:, None], 0

    @torch.no_grad()
    def __call__(self, previous: Tensor | None) -> Tensor:
        if previous is not None:
            both = previous if self.guidance == 1 else previous.repeat(2)
            self.features = self.net(self.net.embed_codes(self.told, both[:, None], self.place), self.memories)
            self.place += 1
        logits = self.net.next_code(self.features[:, -1]).float()
        if self.guidance == 1:
            return logits
        told, untold = logits.chunk(2)
        return untold + self.guidance * (told - untold)


SECOND_STAGES: dict[str, Callable[[torch.device | str], SecondStage]] = {"mini": Mini} | {
    name: partial(DalleMini, name) for name in MODELS
}


def load_second_stage(name: str = "mini", device: torch.device | str = "cpu") -> SecondStage:
    """A second stage by name, ready on ``device``. Raises ClipgenError for an unknown name."""
    if name not in SECOND_STAGES:
        raise ClipgenError(f"model={name!r} is unknown; choose one of: {', '.join(SECOND_STAGES)}")
    return SECOND_STAGES[name](device)
