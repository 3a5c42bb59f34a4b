"""The transformer on a GPU: what ``captions`` writes and ``composer`` paints, as the tokens of the first stage."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.utils import make_grid

from clipgen.images.reading import to_image
from clipgen.mini import prior
from clipgen.mini.clip import MiniCLIP
from clipgen.mini.training.bundle import sources
from clipgen.mini.training.captions import Spec, Writer
from clipgen.mini.training.composer import Pool, boxes
from clipgen.mini.training.data import Drawings
from clipgen.mini.training.evaluate import PROMPTS
from clipgen.mini.training.first_stage import CONFIG as FIRST
from clipgen.mini.training.first_stage import Snapped
from clipgen.mini.training.prior import losses, optimisers
from clipgen.mini.training.training import Job, Training, load_embedded, save_weights
from clipgen.priors.sampling import apply_guidance

CONFIG: dict[str, Any] = {
    "width": 320,
    "layers": 7,
    "heads": 5,
    "side": 16,
    "codes": FIRST["vocab_size"],
    "context": 20,
}
CHUNK = 10_000  # scenes that are written at a time
TEST = 2048  # scenes that are not trained on, or a twentieth
WORDS = 0.06  # of the loss


class Block(prior.Block):
    """The same by the fused kernel, which is faster on a GPU."""

    def forward(self, x: Tensor, cache=None) -> tuple[Tensor, Tensor]:
        if cache is not None:
            return super().forward(x, cache)
        batch, count, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = F.rms_norm(q, q.shape[-1:]).to(v.dtype), F.rms_norm(k, k.shape[-1:]).to(v.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        x = x + self.out(mixed.reshape(batch, count, width))
        return x + self.narrow(F.relu(self.widen(self.norm2(x))).square()), x


def build(words: Tensor, config: dict[str, Any] = CONFIG) -> prior.Transformer:
    """The transformer with blocks for a GPU."""
    net = prior.Transformer(words, **config)
    for block in net.blocks:
        block.__class__ = Block
    return net


def train(job: Job, batch: int = 512, captions: int = 600_000) -> None:
    """Writes ``second.pt``, ``weights/prior.safetensors`` and a sheet of the hundred prompts; needs ``first.pt``."""
    drawings, encode = sources(job.cache)
    first = job.trained("first", Snapped())
    clip = job.place(load_embedded("clip", MiniCLIP)).eval().requires_grad_(False)
    scenes = Tokenised(job, clip, encode, captions)
    scenes.fill(drawings, first)
    words = clip.text.tokens.weight.detach()
    model = job.place(build(words))
    training = Training(job, "second", {"model": model}, *optimisers(model), peak=2.5e-3, clip=1.0, every=200)
    compute_losses, net = job.compiled(losses), training.average.model
    rng = torch.Generator(device=job.device).manual_seed(13 + training.steps)
    train = captions - min(TEST, captions // 20)
    unseen = slice(train, captions)
    for _ in training:
        rows = torch.randint(train, (batch,), generator=rng, device=job.device)
        # Now and then without the words: what classifier-free guidance compares with (Ho and Salimans 2022).
        silent = torch.rand(batch, 1, generator=rng, device=job.device) < 0.1
        text, meaning, tokens = scenes.some(rows)
        with job.autocast():
            spoken, codes = compute_losses(model, text.masked_fill(silent, -1), meaning.masked_fill(silent, 0), tokens)
        codes = codes.mean()
        training.step(WORDS * spoken + (1 - WORDS) * codes)
        if training.due:
            with torch.no_grad(), job.autocast():
                text, meaning, tokens = scenes.some(unseen)
                right = losses(net, text, meaning, tokens)[1].mean()
                misled = losses(net, text.roll(1, 0), meaning.roll(1, 0), tokens)[1].mean()
            training.log(words=spoken, codes=codes, unseen=right, misled=misled)
    folder = job.out / "weights"
    folder.mkdir(exist_ok=True)
    save_weights(folder / "prior.safetensors", job.shipped("second"), CONFIG)
    text = scenes.read(PROMPTS[:batch]).to(job.device)
    drawn, likelihoods = draw(net, text, clip.text.features(text), rng)
    best = drawn.unflatten(0, (len(text), -1))[torch.arange(len(text)), likelihoods.view(len(text), -1).argmax(1)]
    with torch.no_grad(), job.autocast():
        pictures = torch.cat([first.paint(some.view(-1, net.side, net.side)) for some in best.split(50)])
    to_image(make_grid(pictures, nrow=10)).save(job.out / "second.webp", quality=90)


class Tokenised:
    """Scenes as numbers, on the device: text tokens, the text's features and the picture's tokens."""

    def __init__(self, job: Job, clip: MiniCLIP, encode: Callable[[str], list[int]], count: int):
        self.job, self.clip, self.encode = job, clip, encode
        self.text = torch.full((count, CONFIG["context"]), -1, dtype=torch.int32, device=job.device)
        self.meaning = torch.empty(count, 192, dtype=torch.float16, device=job.device)
        self.tokens = torch.empty(count, CONFIG["side"] ** 2, dtype=torch.int16, device=job.device)

    def read(self, captions: list[str]) -> Tensor:
        """Texts to (n, context), -1 where there is nothing; longer texts are cut."""
        rows = np.full((len(captions), CONFIG["context"]), -1)
        for row, caption in zip(rows, captions):
            tokens = self.encode(caption)[: len(row)]
            row[: len(tokens)] = tokens
        return torch.from_numpy(rows)

    def some(self, rows: Tensor | slice) -> tuple[Tensor, Tensor, Tensor]:
        """Text, meaning and tokens of some scenes."""
        return self.text[rows].long(), self.meaning[rows].float(), self.tokens[rows].long()

    @torch.no_grad()
    def fill(self, drawings: Drawings, first: Snapped) -> None:
        """Write, paint and encode all scenes; other processes write while the device paints."""
        allowed, around = ~drawings.held_out(), boxes(drawings).numpy()
        specs = written(Writer(drawings, allowed, around, seed=0), len(self.text))
        pool, encode = Pool(self.job, drawings, seed=8), self.job.compiled(first.encode)
        begun = 0
        for spec in specs:
            text = self.read(spec.captions).to(self.job.device)
            rows = slice(begun, begun + len(text))
            self.text[rows] = text.int()
            self.meaning[rows] = torch.cat([self.clip.text.features(some) for some in text.split(2000)]).half()
            for start in range(0, len(text), 500):
                part = slice(start, start + 500)
                with self.job.autocast():
                    latent = encode(self.job.place(pool.scenes(spec, part))).float()
                self.tokens[rows][part] = first.tokens(latent).flatten(1).short()
            begun += len(text)
            print(f"scenes {begun} of {len(self.text)}", end="\r", flush=True)


_WRITER: list[Writer] = []  # of a process


def _write(job: tuple[int, int]) -> Spec:
    _WRITER[0].rng.seed(job[0])
    return _WRITER[0].write(job[1])


def written(writer: Writer, count: int) -> Iterator[Spec]:
    """``count`` scenes in chunks, by as many processes as there are cores."""
    jobs = [(first, min(CHUNK, count - first)) for first in range(0, count, CHUNK)]
    with ProcessPoolExecutor(os.cpu_count(), initializer=_WRITER.append, initargs=(writer,)) as processes:
        yield from processes.map(_write, jobs)


@torch.no_grad()
def draw(
    net: prior.Transformer, text: Tensor, meaning: Tensor, rng: torch.Generator, count=4, temperature=0.25, guidance=1.0
) -> tuple[Tensor, Tensor]:
    """``count`` pictures' tokens for each text, (n * count, side²), and their log-likelihoods (n * count,)."""
    text, meaning = (values.repeat_interleave(count, 0) for values in (text, meaning))
    tokens = torch.zeros(len(text), net.side**2, dtype=torch.long, device=text.device)
    likelihoods = torch.zeros(len(text), device=text.device)
    if guidance != 1:
        text = torch.cat([text, torch.full_like(text, -1)])
        meaning = torch.cat([meaning, torch.zeros_like(meaning)])
    told = net.understand(meaning)
    x = net.embed(text, told, text[:, :0])
    caches = net.caches(len(text), x)
    for i in range(net.side**2):
        logits = net.next_code(net(x, caches)[:, -1]).float()
        chances = (apply_guidance(logits, guidance) / temperature).softmax(1)
        tokens[:, i] = torch.multinomial(chances, 1, generator=rng)[:, 0]
        new = tokens[:, i : i + 1]
        likelihoods += logits[: len(tokens)].log_softmax(1).gather(1, new)[:, 0]
        x = net.embed_codes(told[:, None], new.repeat(len(text) // len(tokens), 1), i)
    return tokens, likelihoods
