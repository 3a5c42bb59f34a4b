"""DALL-E, both stages: a transformer writes a picture's tokens, the decoder paints them, CLIP ranks the results."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, Protocol, cast, overload

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from clipgen.clip import Perceptor
from clipgen.clip.catalogue import embed, find_family, load_perceptor
from clipgen.device import resolve_device
from clipgen.errors import ClipgenError
from clipgen.generators.catalogue import load_generator
from clipgen.generators.codebook import Codebook
from clipgen.images import masks
from clipgen.images.reading import Pictorial, to_image, to_picture, to_tensor
from clipgen.images.sheets import contact_sheet, png_bytes
from clipgen.registry import PRIORS
from clipgen.setting import check_count, check_number


class TokenPredictor(Protocol):
    """Predicts the tokens of several pictures of one text, and keeps what it computed for the tokens so far."""

    ahead: int  # how many tokens a call should predict, all but the first from guesses; at least 1

    def __call__(self, tokens: Tensor, first: int, n: int) -> Tensor:
        """Return the logits (count, n, codebook_size) of the tokens (count, side * side) from ``first`` on.

        Each depends on all before it. Those before ``first - 1`` are the same as in earlier calls.
        """

    def select(self, rows: Tensor) -> None:
        """Go on with the pictures ``rows`` (count,) int64 of those so far, some of them more than once."""


class Prior(Protocol):
    """A model of image tokens given a text. Its class is called with (name, device)."""

    name: str
    device: torch.device
    side: int  # tokens of a side
    codebook_size: int
    generator: str  # whose tokens they are
    perceptor: str  # the CLIP that ranks what it draws, if no other is asked for
    temperature: float  # these three are its default sampling parameters
    guidance: float
    top_k: int

    def start(self, text: str, count: int, guidance: float) -> TokenPredictor:
        """Begin ``count`` pictures of a text; ``guidance``: the scale of classifier-free guidance, 1 for none."""


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

    def select(self, rows: Tensor) -> None:
        """Replace the first dimension's len(rows) equal parts by the parts ``rows``."""
        for states in (self.keys, self.values):
            parts = states.unflatten(0, (len(rows), -1))[..., : self.length, :]
            parts.copy_(parts[rows.to(parts.device)])


def apply_guidance(logits: Tensor, guidance: float) -> Tensor:
    """Return the logits (n, ...) under classifier-free guidance (Ho and Salimans 2022), 1 for none.

    ``logits``: (2n, ...), those with the text and then those without it; with ``guidance`` 1 only (n, ...) with it.
    """
    if guidance == 1:
        return logits
    cond, uncond = logits.chunk(2)
    return uncond + guidance * (cond - uncond)


UNDRAWN = 0.93  # the grey of rows that have no tokens yet
SIDE = 16  # tokens of a side of the pictures of all priors in the registry


@dataclass(frozen=True)
class Drawings:
    """Pictures of one prompt. Finished ones come best first; a notebook shows them as a contact sheet."""

    prompt: str
    images: list[Image.Image]
    scores: list[float]  # CLIP's cosine to the prompt; empty while they are being drawn, and with perceptor=None
    tokens: Tensor  # (n, side, side) int64
    generator: str  # whose tokens they are
    likelihoods: list[float]  # log-likelihood of each under the prior, in nats
    done: float = 1.0  # share of the tokens that are drawn

    def __len__(self) -> int:
        return len(self.images)

    def sheet(self, columns: int | None = None) -> Image.Image:
        """Return all of them in one picture, with their scores."""
        labels = [f"{score:.3f}" for score in self.scores] or [""] * len(self)
        return contact_sheet(self.images, columns or math.ceil(math.sqrt(len(self))), labels)

    def ordered(self, values: Sequence[float]) -> Drawings:
        """Return the same drawings by their values, the largest first."""
        order = sorted(range(len(self)), key=lambda i: -values[i])
        return replace(
            self,
            images=[self.images[i] for i in order],
            scores=[self.scores[i] for i in order] if self.scores else [],
            tokens=self.tokens[order],
            likelihoods=[self.likelihoods[i] for i in order],
        )

    def _repr_png_(self) -> bytes:
        return png_bytes(self.sheet())


@overload
def dalle(prompt: str, n: int = 16, *, stream: Literal[False] = False, **options: Any) -> Drawings: ...


@overload
def dalle(prompt: str, n: int = 16, *, stream: Literal[True, "likeliest"], **options: Any) -> Iterator[Drawings]: ...


def dalle(  # type: ignore[misc]  # the overloads do not list the options again
    prompt: str,
    n: int = 16,
    *,
    model: str = "mini",
    image: Pictorial | str | None = None,
    keep: str = "top",
    temperature: float | None = None,
    top_k: int | None = None,
    guidance: float | None = None,
    seed: int = 0,
    perceptor: str | Perceptor | None = "auto",
    device: str = "auto",
    stream: bool | Literal["likeliest"] = False,
) -> Drawings | Iterator[Drawings]:
    """Draw pictures of a prompt with both stages of DALL-E (Ramesh et al. 2021), ranked by CLIP.

    Args:
        prompt: What to draw.
        n: How many pictures.
        model: ``mini``, which is built in, or DALL-E mini's published weights: ``dalle-mini``, ``dalle-mega``.
        image: A picture to complete.
        keep: The part of ``image`` that stays: top, bottom, left, right or a box, see ``mask``. Tokens are sampled row
            by row and depend only on those above and left of them, so that ``top`` works best.
        temperature: Lower for safer, higher for wilder tokens; by default the model's. 0: a beam search for the n
            likeliest pictures.
        top_k: How many of the likeliest tokens may be sampled; by default the model's.
        guidance: The scale of classifier-free guidance, 1 (none) or more; by default the model's.
        seed: On a CPU the same seed gives the same pictures; on a GPU rounding can change a token.
        perceptor: The CLIP that ranks, by default the model's; None: by likelihood.
        device: auto, cpu, cuda or mps.
        stream: Whether to return an iterator of ``Drawings``, one for each row of tokens; "likeliest": before the last
            row only of the likeliest picture so far, which takes hardly longer than no stream.

    Returns:
        The drawings, best first.

    Raises:
        ClipgenError: An argument that cannot work.
    """
    if not (isinstance(prompt, str) and prompt.strip()):
        raise ClipgenError(f"prompt={prompt!r}: say what to draw, such as 'a red car in the snow'")
    n, seed = check_count("n", n, high=1024), check_count("seed", seed, low=0, high=2**63 - 1)
    kind = PRIORS[model]  # its class attributes are the defaults
    top_k = check_count("top_k", kind.top_k if top_k is None else top_k, high=10**6)
    temperature = check_number("temperature", kind.temperature if temperature is None else temperature, 0, 100)
    guidance = check_number("guidance", kind.guidance if guidance is None else guidance, 1, 100)
    perceptor = kind.perceptor if perceptor == "auto" else perceptor
    picture = None if image is None else to_picture(image)
    masks.load_mask(keep, (SIDE, SIDE), {}, "keep")
    if stream not in (False, True, "likeliest"):
        raise ClipgenError(f"stream={stream!r}: choose True, False or 'likeliest'")
    if isinstance(perceptor, str):
        find_family(perceptor)
    elif not (perceptor is None or hasattr(perceptor, "embed_text")):
        raise ClipgenError(f"perceptor={perceptor!r}: must be a name, a loaded perceptor or None")
    torch_device = resolve_device(device)
    prior, generator = _models(model, torch_device)
    judge = load_perceptor(perceptor, torch_device) if isinstance(perceptor, str) else perceptor
    predictor = prior.start(prompt, n, guidance)
    tokens, mask = _start_tokens(generator, n, prior.side, picture, keep)
    if temperature:
        sampler = Sampler(temperature, top_k, torch.Generator().manual_seed(seed))
        rows = _sample(predictor, sampler, tokens, mask, generator.device, stop_after_rows=stream is True)
    else:
        rows = _beam_search(predictor, tokens, mask, generator.device)
    stages = _draw(prompt, generator, rows, tokens, mask, stream)
    ranked = (_rank(drawings, judge) if drawings.done == 1 else drawings for drawings in stages)
    return ranked if stream else next(ranked)


def load_prior(name: str = "mini", device: torch.device | str = "cpu") -> Prior:
    """Load a prior by name: ``mini``, which is built in, or DALL-E mini's published weights."""
    return PRIORS[name](name, torch.device(device))


@lru_cache(maxsize=2)
def _models(model: str, device: torch.device) -> tuple[Prior, Codebook]:
    prior = load_prior(model, device)
    return prior, cast(Codebook, load_generator(prior.generator, device))


def release_models() -> None:
    """Free the models that ``dalle`` keeps for its next call."""
    _models.cache_clear()


@torch.no_grad()
def _start_tokens(
    generator: Codebook, n: int, side: int, image: Image.Image | None, keep: str
) -> tuple[Tensor, Tensor]:
    """Return the tokens (n, side, side) to start with, and the mask (side, side) of those that stay."""
    tokens, mask = torch.zeros(n, side, side, dtype=torch.int64), torch.zeros(side, side, dtype=torch.bool)
    if image is not None:
        pixels = to_tensor(image, (side * generator.stride,) * 2).to(generator.device)
        tokens[:] = generator.tokens(generator.encode(pixels)).cpu()
        mask = masks.load_mask(keep, (side, side), {}, "keep")[0, 0] > 0.5
    return tokens, mask


@torch.no_grad()
def _sample(
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
def _beam_search(
    predictor: TokenPredictor, tokens: Tensor, mask: Tensor, device: torch.device
) -> Iterator[tuple[int, Tensor]]:
    """Find likely tokens outside of ``mask`` in order, as ``_sample`` samples them."""
    n, side, flat, likelihoods, is_first = len(tokens), len(mask), tokens.flatten(1), torch.zeros(len(tokens)), True
    for position, is_given in enumerate(mask.flatten().tolist()):
        logits = predictor(flat.to(device), position, 1)[:, 0].cpu()
        if not is_given:
            values, codes = logits.log_softmax(-1).topk(min(n, logits.shape[-1]))
            scores = likelihoods[:, None] + values
            if is_first:
                scores[1:], is_first = -math.inf, False  # all are the same so far
            likelihoods, best = scores.flatten().topk(n)
            rows = best // values.shape[1]
            flat[:] = flat[rows]
            flat[:, position] = codes.flatten()[best]
            predictor.select(rows)
        if (position + 1) % side == 0:
            yield (position + 1) // side, likelihoods


@torch.no_grad()
def _draw(
    prompt: str,
    generator: Codebook,
    rows: Iterator[tuple[int, Tensor]],
    tokens: Tensor,
    mask: Tensor,
    stream: bool | str,
) -> Iterator[Drawings]:
    """Yield the drawings after the rows that ``stream`` asks for, and at the end."""
    side = len(mask)
    for count, likelihoods in rows:
        best = [int(likelihoods.argmax())]
        stages: list[tuple[int, list[int]]] = []  # how many rows are shown, and of which pictures
        if stream == "likeliest" and count % 2 == 0:  # painting after each row would take half as long as sampling it
            stages = [(count - 1, best), (count, best)]
        if count == side or stream is True:
            stages = [*stages[:1], (count, [*range(len(tokens))])]
        if not stages:
            continue
        drawn, members = mask | (torch.arange(side)[:, None] < count), stages[-1][1]
        painted = dict(zip(members, _paint(generator, (tokens * drawn)[members], drawn)))  # without guesses
        for row, members in stages:
            drawn = mask | (torch.arange(side)[:, None] < row)
            pixels = drawn.repeat_interleave(generator.stride, 0).repeat_interleave(generator.stride, 1)
            pictures = [to_image(torch.where(pixels, painted[i], UNDRAWN)) for i in members]
            likely = likelihoods[members].tolist()
            yield Drawings(prompt, pictures, [], (tokens * drawn)[members], generator.name, likely, row / side)


def _rank(drawings: Drawings, judge: Perceptor | None) -> Drawings:
    """Return finished drawings best first, with CLIP's scores if there is a judge."""
    if judge:
        cosines = judge.embed_image(drawings.images) @ embed(judge, [drawings.prompt])[0]
        drawings = replace(drawings, scores=cosines.tolist())
    return drawings.ordered(drawings.scores or drawings.likelihoods)


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


def _paint(generator: Codebook, tokens: Tensor, drawn: Tensor) -> Tensor:
    """Return the pictures (n, 3, H, W) of tokens (n, side, side), decoded as far as ``drawn`` (side, side) is true."""
    last = 1 + int(drawn.any(1).nonzero().max())
    pictures = generator.image(generator.from_tokens(tokens[:, :last].to(generator.device))).cpu()
    return F.pad(pictures, (0, 0, 0, len(drawn) * generator.stride - pictures.shape[2]))
