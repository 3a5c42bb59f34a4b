"""DALL-E, both stages: a transformer writes a picture's tokens, the decoder paints them, CLIP ranks the results."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from clipgen import masks
from clipgen.device import pick
from clipgen.errors import ClipgenError
from clipgen.export import contact_sheet, png_bytes
from clipgen.generators import Generator, load_generator
from clipgen.images import to_image, to_picture, to_tensor
from clipgen.perceptors import Perceptor, embed, load_perceptor
from clipgen.second_stage import SecondStage, load_second_stage

UNDRAWN = 0.93  # the grey of what has no tokens yet


@dataclass(frozen=True)
class Drawings:
    """Pictures of one prompt. Finished ones come best first; a notebook shows them as a contact sheet."""

    prompt: str
    images: list[Image.Image]
    scores: list[float]  # CLIP's cosine to the prompt; empty while they are being drawn
    tokens: Tensor  # (n, side, side) int64
    generator: str  # whose tokens they are
    done: float = 1.0  # share of the tokens that are drawn

    def __len__(self) -> int:
        return len(self.images)

    def sheet(self, columns: int | None = None) -> Image.Image:
        """All of them in one picture, with their scores."""
        labels = [f"{score:.3f}" for score in self.scores] or [""] * len(self)
        return contact_sheet(self.images, columns or math.ceil(math.sqrt(len(self))), labels)

    def _repr_png_(self) -> bytes:
        return png_bytes(self.sheet())


def dalle(
    prompt: str,
    n: int = 16,
    *,
    model: str = "mini",
    image: Any = None,
    keep: str = "top",
    temperature: float | None = None,
    top_k: int | None = None,
    guidance: float | None = None,
    seed: int = 0,
    perceptor: str | Perceptor = "auto",
    device: str = "auto",
    stream: bool = False,
) -> Any:
    """``n`` pictures of a prompt: Drawings, best first. With ``stream`` an iterator of them, a row of tokens at a time.

    model: ``mini`` (embedded), or DALL-E mini's published weights: ``dalle-mini``, ``dalle-mega``.
    image, keep: complete a picture, of which ``keep`` (top, bottom, left, right or a box, see ``mask``) stays. Tokens
    are drawn row by row and know only what is above and left of them, so that ``top`` works best.
    temperature: lower for safer, higher for wilder tokens. top_k: how many of the likeliest tokens may be drawn.
    guidance: how much the text has to say, 1 or more (classifier-free guidance). All default to what suits the model.
    seed: same seed, same machine, same pictures. perceptor: the CLIP that ranks, by default ``mini`` for the embedded
    model and OpenAI's ViT-B/32 for the published. device: auto, cpu, cuda or mps.
    Raises ClipgenError for what cannot work. After Ramesh et al. 2021, "Zero-Shot Text-to-Image Generation".
    """
    if not prompt.strip():
        raise ClipgenError("prompt='': say what to draw, such as 'a red car in the snow'")
    where = pick(device)
    stage, generator = _models(model, where)
    temperature = stage.temperature if temperature is None else temperature
    top_k = stage.top_k if top_k is None else top_k
    guidance = stage.guidance if guidance is None else guidance
    limits = {"n": (n, 1, 1024), "temperature": (temperature, 0.01, 100), "top_k": (top_k, 1, 10**6),
              "guidance": (guidance, 1, 100), "seed": (seed, 0, 2**63 - 1)}  # fmt: skip
    for name, (value, low, high) in limits.items():
        if not low <= value <= high:
            raise ClipgenError(f"{name}={value}: has to be a number from {low} to {high:,}")
    judge = stage.perceptor if perceptor == "auto" else perceptor
    frames = _draw(
        stream, stage, generator, prompt, n, image, keep, lambda logits, rng: sample(logits, temperature, top_k, rng),
        guidance, seed, load_perceptor(judge, where) if isinstance(judge, str) else judge,
    )  # fmt: skip
    return frames if stream else next(frames)


@lru_cache(maxsize=2)
def _models(model: str, device: torch.device) -> tuple[SecondStage, Generator]:
    stage = load_second_stage(model, device)
    return stage, load_generator(stage.generator, device)


@torch.no_grad()
def _draw(
    stream: bool, stage: SecondStage, generator: Generator, prompt: str, n: int, image: Any, keep: str,
    choose: Callable[[Tensor, torch.Generator], Tensor], guidance: float, seed: int, judge: Perceptor,
) -> Iterator[Drawings]:  # fmt: skip
    side, device = stage.side, generator.low.device
    tokens, kept = torch.zeros(n, side, side, dtype=torch.int64), torch.zeros(side, side, dtype=torch.bool)
    if image is not None:
        pixels = to_tensor(to_picture(image), (side * generator.factor,) * 2).to(device)
        tokens[:] = generator.tokens(generator.encode(pixels)).cpu()
        kept = masks.load(keep, (side, side), {})[0, 0] > 0.5
    rng = torch.Generator().manual_seed(seed)
    step, flat, previous = stage.start(prompt, n, guidance), tokens.view(n, -1), None
    for place, known in enumerate(kept.flatten().tolist()):
        logits = step(previous)
        if not known:
            flat[:, place] = choose(logits.cpu(), rng)
        previous = flat[:, place].to(device)
        rows, rest = divmod(place + 1, side)
        if stream and rest == 0 and rows < side:
            images = _paint(generator, tokens, kept, rows)
            yield Drawings(prompt, images, [], tokens.clone(), generator.name, rows / side)
    yield rerank(Drawings(prompt, _paint(generator, tokens, kept, side), [], tokens, generator.name), judge)


def sample(logits: Tensor, temperature: float, top_k: int, rng: torch.Generator) -> Tensor:
    """One token (B,) of each row of logits (B, codes), among the ``top_k`` likeliest."""
    best, which = logits.topk(min(top_k, logits.shape[1]))
    drawn = torch.multinomial((best / temperature).softmax(1), 1, generator=rng)
    return which.gather(1, drawn)[:, 0]


def _paint(generator: Generator, tokens: Tensor, kept: Tensor, rows: int) -> list[Image.Image]:
    """The pictures after so many rows; what is not drawn yet is grey."""
    drawn = kept.clone()
    drawn[:rows] = True
    seen = drawn.repeat_interleave(generator.factor, 0).repeat_interleave(generator.factor, 1)
    pictures = generator.decode(tokens.to(generator.low.device)).cpu()
    return [to_image(picture) for picture in torch.where(seen, pictures, UNDRAWN)]


@torch.no_grad()
def rerank(drawings: Drawings, perceptor: Perceptor) -> Drawings:
    """The same, those that CLIP finds nearest to the prompt first, with its scores."""
    scores = (perceptor.embed_image(drawings.images) @ embed(perceptor, [drawings.prompt])[0]).tolist()
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    return replace(
        drawings, images=[drawings.images[i] for i in order], scores=[scores[i] for i in order],
        tokens=drawings.tokens[order],
    )  # fmt: skip
