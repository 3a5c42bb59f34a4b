"""The prior once more: the shipped transformer learns faces, people and signs, and repeats what it draws worst."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from torch import Tensor

from clipgen.generators.dvae import DVAE
from clipgen.mini import WEIGHTS, everyday_name
from clipgen.mini.clip import MiniCLIP
from clipgen.mini.prior import Transformer
from clipgen.mini.scenes import with_article
from clipgen.mini.training import data
from clipgen.mini.training.prior import CONFIG, TEXT_SHARE, losses, tokenised
from clipgen.mini.training.sampler import PLAIN, paint
from clipgen.mini.training.training import Job, Training, load_embedded, save_weights
from clipgen.storage import weights

RARE = {"people-body": 0.15, "symbols": 0.5}  # how often things of a group are shown, beside 1
EASY = 0.05  # nats per token that are added to a drawing's loss, so that none is forgotten
KEYWORD = 0.1  # of the captions of single drawings


def train(job: Job, batch: int = 32, captions: int = 8_000) -> None:
    """Writes ``refined.pt`` and ``weights/prior.safetensors``.

    A quarter of a batch is scenes as in ``prior``; the rest is single drawings on white, more often where the loss is
    larger.
    """
    first = job.place(load_embedded("dvae", DVAE)).eval().requires_grad_(False)
    tower = job.place(load_embedded("clip", MiniCLIP)).eval().requires_grad_(False).text
    model = job.place(Transformer(tower.tokens.weight.detach(), **CONFIG))
    model.load_state_dict(weights.load_weights(WEIGHTS / "prior.safetensors")[0], strict=False)
    # Not Muon: torch's multiplies in bfloat16, which takes far longer than a step on a CPU that has no such products.
    optimiser = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.96), weight_decay=0.01, fused=True)
    training = Training(job, "refined", {"model": model}, optimiser, peak=1e-3, clip=1.0, every=50)
    training.average.decay = 0.99  # of some hundred steps
    scenes, scene_texts = tokenised(job, captions, first)
    drawings = data.drawings(job.cache)
    rows = np.flatnonzero((drawings.style == data.STYLES.index("noto")) & ~drawings.held_out())
    things = [drawings.things[i] for i in drawings.thing[rows]]
    single = encode_drawings(job, drawings, rows, first)
    names = [[with_article(everyday_name(t.name)), with_article(t.name)] for t in things]
    shared = Counter(keyword for thing in drawings.things for keyword in thing.keywords)
    others = [[with_article(word) for word in thing.keywords if shared[word] <= 2] for thing in things]
    frequency = torch.tensor([RARE.get(thing.group, 1.0) * 0.7 ** thing.name.count(" ") for thing in things])
    nats = torch.ones(len(things))
    rng = torch.Generator().manual_seed(14 + training.steps)
    compute_losses, composed_count = job.compiled(losses), batch // 4
    for _ in training:
        composed = torch.randint(len(scenes), (composed_count,), generator=rng).tolist()
        shown = torch.multinomial(frequency * (nats + EASY), batch - composed_count, generator=rng)
        texts = [scene_texts[i] for i in composed]
        for i in shown.tolist():
            called = others[i] if others[i] and torch.rand((), generator=rng) < KEYWORD else names[i]
            texts.append(called[int(torch.randint(len(called), (), generator=rng))])
        images = torch.cat([scenes[composed].long(), single[shown]]).to(job.device)
        text = model.tokenize(texts).to(job.device)
        with torch.no_grad():
            meaning = tower.features(text)
        silent = (torch.rand(batch, 1, generator=rng) < 0.1).to(job.device)
        with job.autocast():
            words, codes = compute_losses(model, text.masked_fill(silent, -1), meaning.masked_fill(silent, 0), images)
        training.step(TEXT_SHARE * words + (1 - TEXT_SHARE) * codes.mean())
        told = ~silent[composed_count:, 0].cpu()
        nats[shown[told]] = codes[composed_count:].detach().float().cpu()[told]
        if training.due:
            of_scenes, of_single = codes.split([composed_count, batch - composed_count])
            training.log(words=words, scenes=of_scenes.mean(), single=of_single.mean(), all=nats.mean())
    folder = job.out / "weights"
    folder.mkdir(exist_ok=True)
    save_weights(folder / "prior.safetensors", job.shipped("refined"), CONFIG)


@torch.no_grad()
def encode_drawings(job: Job, drawings: data.Drawings, rows: np.ndarray, first: DVAE) -> Tensor:
    """(n, 256) tokens of single drawings on white, of the size that they have in scenes."""
    tokens = []
    for some in np.array_split(rows, -(-len(rows) // 8)):
        rgba = torch.from_numpy(drawings.rgba[some]).permute(0, 3, 1, 2).float() / 255
        size, middle = torch.full((len(some),), PLAIN.size[0]), torch.zeros(len(some))
        images = paint(torch.ones(len(some), 3, data.SIZE, data.SIZE), rgba, size, middle, middle, middle > 0)
        tokens.append(first.logits(job.place(images)).argmax(1).flatten(1).cpu())
    return torch.cat(tokens)
