"""What writes a picture's tokens, one after another, for a text: DALL-E's second stage."""

from typing import Protocol

import torch
from torch import Tensor


class Stream(Protocol):
    """A number of pictures in the making, with all that was computed for the tokens so far."""

    ahead: int  # how many tokens it best reads at a time, 1 and more, where those to come are guessed

    def __call__(self, tokens: Tensor, first: int, n: int) -> Tensor:
        """Return the logits (count, n, codebook_size) of the tokens (count, side * side) from ``first`` on.

        Each depends on all before it. Those before ``first - 1`` are the same as in earlier calls.
        """


class Prior(Protocol):
    """A model of image tokens given a text. Its class is called with (name, device)."""

    name: str
    device: torch.device
    side: int  # tokens of a side
    codebook_size: int
    generator: str  # whose tokens they are
    perceptor: str  # the CLIP that ranks what it draws, if no other is asked for
    temperature: float  # this, the guidance and the number of likeliest tokens to draw from that suit it
    guidance: float
    top_k: int

    def start(self, text: str, count: int, guidance: float) -> Stream:
        """Begin ``count`` pictures. ``guidance``: how far each token's logits are moved away from those without the
        text, 1 for not at all (classifier-free guidance, Ho and Salimans 2022)."""


class KVCache:
    """Keys and values of one layer for every position so far, so that each is computed once."""

    def __init__(self, shape: tuple[int, ...], like: Tensor):
        self.keys, self.values = like.new_empty(shape), like.new_empty(shape)
        self.length = 0  # may be set back: what comes then is written over what was guessed

    def add(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """(..., n, d) of new positions to those of all."""
        new, self.length = slice(self.length, self.length + keys.shape[-2]), self.length + keys.shape[-2]
        self.keys[..., new, :], self.values[..., new, :] = keys, values
        return self.keys[..., : self.length, :], self.values[..., : self.length, :]


def guided(logits: Tensor, guidance: float) -> Tensor:
    """Logits (rows, ...) with the text, above those without it where there are both, to those that are drawn from."""
    if guidance == 1:
        return logits
    cond, uncond = logits.chunk(2)
    return uncond + guidance * (cond - uncond)
