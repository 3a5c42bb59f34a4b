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
from clipgen.priors.sampling import Sampler, TokenPredictor, beam_search, sample
from clipgen.registry import PRIORS
from clipgen.setting import check_count, check_number


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
        temperature: Lower for safer, higher for wilder tokens; by default the model's. 0: a beam search with n beams,
            in which ``seed`` and ``top_k`` have no effect.
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
    if 0 < temperature < 0.01:
        raise ClipgenError(f"temperature={temperature}: choose 0, or 0.01 to 100")
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
        rows = sample(predictor, sampler, tokens, mask, generator.device, stop_after_rows=stream is True)
    else:
        rows = beam_search(predictor, tokens, mask, generator.device)
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


def _paint(generator: Codebook, tokens: Tensor, drawn: Tensor) -> Tensor:
    """Return the pictures (n, 3, H, W) of tokens (n, side, side), decoded as far as ``drawn`` (side, side) is true."""
    last = 1 + int(drawn.any(1).nonzero().max())
    pictures = generator.image(generator.from_tokens(tokens[:, :last].to(generator.device))).cpu()
    return F.pad(pictures, (0, 0, 0, len(drawn) * generator.stride - pictures.shape[2]))
