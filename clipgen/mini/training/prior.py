"""Stage 6, the prior: DALL-E's second stage, on plain scenes as the dVAE's tokens."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipgen.generators.dvae import DVAE
from clipgen.mini.clip import MiniCLIP
from clipgen.mini.prior import Transformer
from clipgen.mini.training import data, dvae
from clipgen.mini.training.sampler import PLAIN, SceneSampler
from clipgen.mini.training.training import Job, Training

CONFIG: dict[str, Any] = {"width": 256, "layers": 6, "heads": 4, "side": 16, "codes": 1024, "context": 20}
TEXT_SHARE = 1 / 8  # of the loss; the image has the rest, as in the paper
GROUPS = ("animals-nature", "food-drink", "travel-places", "activities", "objects")


def train(job: Job, batch: int = 64, captions: int = 72_000) -> None:
    """Writes ``prior.pt``, and ``scenes.pt`` with what was learnt from; needs ``dvae.pt`` and ``clip.pt``."""
    images, texts = tokenised(job, captions, job.trained("dvae", DVAE(**dvae.CONFIG)))
    tower = job.trained("clip", MiniCLIP()).text
    model = job.place(Transformer(tower.tokens.weight.detach(), **CONFIG))
    training = Training(job, "prior", {"model": model}, *optimisers(model), peak=3e-3, clip=1.0, every=200)
    images, text = images.to(job.device), model.tokenize(texts).to(job.device)
    with torch.no_grad():
        meaning = torch.cat([tower.features(some) for some in text.split(512)])
    compute_losses, net = job.compiled(losses), training.average.model
    rng = torch.Generator().manual_seed(9 + training.steps)
    train = len(images) - min(256, len(images) // 20)
    test = slice(train, None)
    for _ in training:
        rows = torch.randint(train, (batch,), generator=rng)
        # Now and then without the words: what classifier-free guidance compares with (Ho and Salimans 2022).
        silent = (torch.rand(batch, 1, generator=rng) < 0.1).to(job.device)
        read, understood = text[rows].masked_fill(silent, -1), meaning[rows].masked_fill(silent, 0)
        with job.autocast():
            words, codes = compute_losses(model, read, understood, images[rows].long())
        codes = codes.mean()
        training.step(TEXT_SHARE * words + (1 - TEXT_SHARE) * codes)
        if training.due:
            right = text[test], meaning[test]
            wrong = right[0].roll(1, 0), right[1].roll(1, 0)
            with torch.no_grad(), job.autocast():
                unseen, misled = (losses(net, *told, images[test].long())[1].mean() for told in (right, wrong))
            training.log(words=words, codes=codes, unseen=unseen, misled=misled)


def optimisers(net: nn.Module) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the matrices between features, AdamW for the others."""
    inner = {n for n, p in net.named_parameters() if p.dim() == 2 and n.startswith(("blocks", "understand"))}
    hidden = [p for n, p in net.named_parameters() if n in inner]
    others = [p for n, p in net.named_parameters() if n not in inner]
    return (
        torch.optim.Muon(hidden, weight_decay=0.03, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.96), weight_decay=0.0, fused=True),
    )


def losses(model: Transformer, text: Tensor, meaning: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the text, and of each image token (B, n), in nats; each token is given all before it."""
    x = model.embed(text, model.understand(meaning), image[:, :-1])
    features = model(x.bfloat16() if torch.is_autocast_enabled(x.device.type) else x)
    codes = model.next_code(features[:, model.context_length - 1 :]).float()
    # A few rows are enough for the words: their softmax is over the whole vocabulary of CLIP.
    some = max(1, len(text) // 8)
    words = (model.next_word(features[:some, : model.context_length - 1]) @ model.words.T.to(features.dtype)).float()
    return (
        F.cross_entropy(words.flatten(0, 1), text[:some, 1:].flatten(), ignore_index=-1),
        F.cross_entropy(codes.mT, image, reduction="none"),
    )


@torch.no_grad()
def tokenised(job: Job, count: int, net: DVAE, name: str = "scenes") -> tuple[Tensor, list[str]]:
    """(count, 256) tokens of scenes by a dVAE, and their captions, made once and kept in ``out/name.pt``."""
    file = job.out / f"{name}.pt"
    if not file.exists():
        drawings = data.drawings(job.cache)
        # One style of the seven and no faces or signs: what a net of this size learns in an hour.
        kinds = np.array([thing.group in GROUPS for thing in drawings.things])
        keep = (drawings.style == data.STYLES.index("noto")) & kinds[drawings.thing] & ~drawings.held_out()
        scenes = SceneSampler(drawings, keep, data.SIZE, seed=8, mix=PLAIN)
        # What has a longer name is asked for less often: a dog, not a ten-thirty.
        lengths = [len(re.split("[ -]", thing.name.removesuffix(" face"))) for thing in drawings.things]
        scenes.weights = scenes.weights * 0.4 ** (torch.tensor(lengths) - 1)
        logits_of = job.compiled(net.logits)
        tokens: list[Tensor] = []
        captions: list[str] = []
        while len(captions) < count:
            batch = scenes.batch(min(240, count - len(captions)))
            tokens.append(encode(job, logits_of, batch.images))
            captions += batch.captions
            print(f"scenes {len(captions)} of {count}", end="\r", flush=True)
        torch.save({"tokens": torch.cat(tokens), "captions": captions}, file)
    made = job.read(name)
    return made["tokens"], made["captions"]


@torch.no_grad()
def encode(job: Job, logits_of: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return the tokens (B, n) int16 of images, given the logits of a dVAE's encoder."""
    with job.autocast():  # a few at a time stay in the processor's cache, which is twice as fast
        logits = [logits_of(job.place(some)) for some in images.split(8)]
    return torch.cat([some.argmax(1).flatten(1).short().cpu() for some in logits])
