"""How image tokens are found with the logits of a prior: sampling, and beam search."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor


class TokenPredictor(Protocol):
    """Predicts the tokens of several pictures of one text, and keeps what it computed for the tokens so far."""

    ahead: int  # how many tokens a call should predict, all but the first from guesses; at least 1

    def __call__(self, tokens: Tensor, first: int, n: int) -> Tensor:
        """Return the logits (count, n, codebook_size) of the tokens (count, side * side) from ``first`` on.

        Each depends on all before it. Those before ``first - 1`` are the same as in earlier calls.
        """

    def reorder(self, pictures: Tensor) -> None:
        """Continue with the pictures of these numbers (count,) int64; a number may repeat."""


class KVCache:
    """Keys and values of one layer for every position so far, so that each is computed once."""

    def __init__(self, shape: tuple[int, ...], like: Tensor):
        self.keys, self.values = like.new_empty(shape), like.new_empty(shape)
        self.length = 0  # may be set back: new positions then replace those of wrong guesses

    def add(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add (..., n, d) of new positions; return those of all."""
        end = self.length + keys.shape[-2]
        self.keys[..., self.length : end, :], self.values[..., self.length : end, :] = keys, values
        self.length = end
        return self.keys[..., : self.length, :], self.values[..., : self.length, :]

    def reorder(self, numbers: Tensor) -> None:
        """Split the first dimension into len(numbers) equal parts; part i becomes part numbers[i]."""
        for states in (self.keys, self.values):
            parts = states.unflatten(0, (len(numbers), -1))[..., : self.length, :]
            parts.copy_(parts[numbers.to(parts.device)])


def apply_guidance(logits: Tensor, guidance: float) -> Tensor:
    """Return the logits (n, ...) under classifier-free guidance (Ho and Salimans 2022), 1 for none.

    ``logits``: (2n, ...), those with the text and then those without it; with ``guidance`` 1 only (n, ...) with it.
    """
    if guidance == 1:
        return logits
    cond, uncond = logits.chunk(2)
    return uncond + guidance * (cond - uncond)


class Sampler:
    """Samples tokens from logits, among the likeliest ``top_k``, by adding Gumbel noise (Gumbel 1954)."""

    def __init__(self, temperature: float, top_k: int, rng: torch.Generator):
        self.temperature, self.top_k, self.rng = temperature, top_k, rng
        self._noise: dict[int, Tensor] = {}  # of positions that may be sampled again, to the same token

    def __call__(self, logits: Tensor, first: int) -> Tensor:
        """Return tokens (B, n) for logits (B, n, codes) of the positions from ``first`` on; earlier ones are final."""
        noise = {first + i: self._noise.get(first + i) for i in range(logits.shape[1])}
        self._noise = {i: self._draw_noise(logits[:, 0]) if old is None else old for i, old in noise.items()}
        values, indices = logits.topk(min(self.top_k, logits.shape[-1]))
        noisy = values / self.temperature + torch.stack([*self._noise.values()], 1).gather(-1, indices)
        return indices.gather(-1, noisy.argmax(-1, keepdim=True))[..., 0]

    def _draw_noise(self, like: Tensor) -> Tensor:
        return -torch.empty(like.shape).exponential_(generator=self.rng).log()


@torch.no_grad()
def sample(
    predictor: TokenPredictor,
    sampler: Sampler,
    tokens: Tensor,
    mask: Tensor,
    device: torch.device,
    stop_after_rows: bool,
) -> Iterator[tuple[int, Tensor]]:
    """Sample the tokens outside of ``mask`` in order, in place; yield each row's number and the likelihoods (n,)."""
    # The next tokens are guessed, and their successors predicted in the same call. What was guessed right need not be
    # predicted again, and the result is that of sampling one by one (Song et al. 2021, "Accelerating Feedforward
    # Computation via Parallel Nonlinear Equation Solving").
    side, flat, flat_mask = len(mask), tokens.flatten(1), mask.flatten()
    likelihoods, done, guessed = torch.zeros(len(tokens)), 0, 0
    while done < len(flat_mask):
        # Where a row's likelihoods are shown they are those of its own tokens, without any of the next row.
        remaining = side - done % side if stop_after_rows else len(flat_mask) - done
        n, row = min(predictor.ahead if done else 1, remaining), done // side
        now = slice(done, done + n)
        for position in range(guessed, now.stop):
            if not flat_mask[position]:
                flat[:, position] = flat[:, max(0, position - side)]  # the guess: as above
        guessed = now.stop
        logits = predictor(flat.to(device), done, n).cpu()
        sampled = torch.where(flat_mask[now], flat[:, now], sampler(logits, done))
        # One more than were guessed right: it was sampled from correct tokens.
        correct = min(n, 1 + int((sampled == flat[:, now]).all(0).cumprod(0).sum()))
        flat[:, now] = sampled
        logprobs = logits.log_softmax(-1).gather(-1, sampled[..., None])[..., 0]
        likelihoods += (logprobs * ~flat_mask[now])[:, :correct].sum(1)
        done += correct
        if done // side > row:
            yield done // side, likelihoods


@torch.no_grad()
def beam_search(
    predictor: TokenPredictor, tokens: Tensor, mask: Tensor, device: torch.device
) -> Iterator[tuple[int, Tensor]]:
    """Find the tokens outside of ``mask`` with len(tokens) beams, in place; yield as ``sample`` does."""
    n, side, flat, likelihoods, is_first = len(tokens), len(mask), tokens.flatten(1), torch.zeros(len(tokens)), True
    for position, is_given in enumerate(mask.flatten().tolist()):
        logits = predictor(flat.to(device), position, 1)[:, 0].cpu()
        if not is_given:
            values, codes = logits.log_softmax(-1).topk(min(n, logits.shape[-1]))
            scores = likelihoods[:, None] + values
            if is_first:
                scores[1:], is_first = -math.inf, False  # before it all beams are equal
            likelihoods, best = scores.flatten().topk(n)
            beams = best // values.shape[1]
            flat[:] = flat[beams]
            flat[:, position] = codes.flatten()[best]
            predictor.reorder(beams)
        if (position + 1) % side == 0:
            yield (position + 1) // side, likelihoods
