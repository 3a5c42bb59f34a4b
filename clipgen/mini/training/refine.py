"""Fine-tuning of the prior on Noto's drawings of all things: those that it draws worst are shown more often."""

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
from clipgen.mini.training.prior import CONFIG, TEXT_SHARE, encode, losses, tokenised
from clipgen.mini.training.sampler import PLAIN, paint
from clipgen.mini.training.training import Job, Training, load_embedded, save_weights
from clipgen.storage import weights

MIN_LOSS, MAX_LOSS = 0.05, 1.5  # nats per token: a drawing is shown in proportion to min(its loss, MAX_LOSS) + MIN_LOSS
KEYWORD_SHARE = 0.1  # of the captions of single drawings
# A token weighs more the less likely it was, up to 1 + FOCAL_WEIGHT, as in focal loss (Lin et al. 2017): a few tokens
# decide which drawing it becomes, and hardly count in a plain mean.
FOCAL_WEIGHT = 10.0


def train(job: Job, batch: int = 32, captions: int = 6_000) -> None:
    """Fine-tune the shipped transformer; writes ``refined.pt`` and ``weights/prior.safetensors``.

    A fifth of a batch is scenes as in ``prior``. The rest is single drawings on white, of people, smileys and signs
    too; those with a larger loss are shown more often.
    """
    dvae = job.place(load_embedded("dvae", DVAE)).eval().requires_grad_(False)
    tower = job.place(load_embedded("clip", MiniCLIP)).eval().requires_grad_(False).text
    model = job.place(Transformer(tower.tokens.weight.detach(), **CONFIG))
    model.load_state_dict(weights.load_weights(WEIGHTS / "prior.safetensors")[0])
    # Not Muon: torch's multiplies in bfloat16, which takes far longer than a step on a CPU that has no such products.
    optimiser = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.96), weight_decay=0.01, fused=True)
    training = Training(job, "refined", {"model": model}, optimiser, peak=7e-4, clip=1.0, every=25)
    training.average.decay = 0.98  # of some hundred steps
    scenes, scene_texts = tokenised(job, captions, dvae, "refined-scenes")
    drawings = data.drawings(job.cache)
    rows = np.flatnonzero((drawings.style == data.STYLES.index("noto")) & ~drawings.held_out())
    things = [drawings.things[i] for i in drawings.thing[rows]]
    single = encode_drawings(job, drawings, rows, dvae)
    names = [[with_article(everyday_name(t.name)), with_article(t.name)] for t in things]
    shared = Counter(keyword for thing in drawings.things for keyword in thing.keywords)
    keywords = [[with_article(word) for word in thing.keywords if shared[word] <= 2] for thing in things]
    frequency = torch.tensor([0.85 ** thing.name.count(" ") for thing in things])
    drawing_losses = torch.ones(len(things))
    rng = torch.Generator().manual_seed(14 + training.steps)
    compute_losses, scene_count = job.compiled(losses), batch // 5
    for _ in training:
        scene_rows = torch.randint(len(scenes), (scene_count,), generator=rng).tolist()
        chances = frequency * (drawing_losses.clamp(max=MAX_LOSS) + MIN_LOSS)
        shown = chances.multinomial(batch - scene_count, replacement=True, generator=rng)
        texts = [scene_texts[i] for i in scene_rows]
        for i in shown.tolist():
            named = keywords[i] if keywords[i] and torch.rand((), generator=rng) < KEYWORD_SHARE else names[i]
            texts.append(named[int(torch.randint(len(named), (), generator=rng))])
        images = torch.cat([scenes[scene_rows].long(), single[shown]]).to(job.device)
        text = model.tokenize(texts).to(job.device)
        with torch.no_grad():
            meaning = tower.features(text)
        silent = (torch.rand(batch, 1, generator=rng) < 0.1).to(job.device)
        with job.autocast():
            words, codes = compute_losses(model, text.masked_fill(silent, -1), meaning.masked_fill(silent, 0), images)
        weight = 1 + FOCAL_WEIGHT * (1 - (-codes.detach()).exp())
        weight[:scene_count] = 1
        training.step(TEXT_SHARE * words + (1 - TEXT_SHARE) * (weight * codes).mean())
        has_text, codes = ~silent[scene_count:, 0].cpu(), codes.detach().float().mean(1).cpu()
        drawing_losses[shown[has_text]] = codes[scene_count:][has_text]
        if training.due:
            of_scenes, of_single = codes.split([scene_count, batch - scene_count])
            training.log(words=words, scenes=of_scenes.mean(), single=of_single.mean(), all=drawing_losses.mean())
    folder = job.out / "weights"
    folder.mkdir(exist_ok=True)
    save_weights(folder / "prior.safetensors", job.shipped("refined"), CONFIG)


@torch.no_grad()
def encode_drawings(job: Job, drawings: data.Drawings, rows: np.ndarray, dvae: DVAE) -> Tensor:
    """(n, 256) tokens of single drawings on white, of the size that they have in scenes."""
    tokens = []
    for some in np.array_split(rows, -(-len(rows) // 240)):
        rgba = torch.from_numpy(drawings.rgba[some]).permute(0, 3, 1, 2).float() / 255
        size, middle = torch.full((len(some),), PLAIN.size[0]), torch.zeros(len(some))
        images = paint(torch.ones(len(some), 3, data.SIZE, data.SIZE), rgba, size, middle, middle, middle > 0)
        tokens.append(encode(job, dvae.logits, images))
    return torch.cat(tokens).long()
