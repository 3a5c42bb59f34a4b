"""The prior once more: the shipped transformer repeats the drawings that it knows least, and learns some people."""

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
from clipgen.mini.training.prior import CONFIG, GROUPS, TEXT_SHARE, losses, tokenised
from clipgen.mini.training.sampler import PLAIN, paint
from clipgen.mini.training.training import Job, Training, load_embedded, save_weights
from clipgen.storage import weights

PEOPLE = (  # the smileys, people, and parts of them that people ask for
    *("robot", "ghost", "skull", "alien", "alien monster", "red heart", "broken heart", "clown face", "pile of poo"),
    *("grinning face", "smiling face with sunglasses", "smiling face with smiling eyes", "winking face", "crying face"),
    *("angry face", "thinking face", "collision", "skull and crossbones", "princess", "prince", "mermaid", "fairy"),
    *("ninja", "astronaut", "vampire", "zombie", "genie", "elf", "mage", "superhero", "cook", "farmer", "firefighter"),
    *("ballet dancer", "snowboarder", "boy", "girl", "baby", "baby angel", "brain", "anatomical heart", "eye", "eyes"),
    *("tooth", "bone", "ear", "nose", "mouth", "foot", "thumbs up"),
)
EASY, HARD = 0.05, 1.5  # nats per token: how often a drawing is shown follows its loss, between these
KEYWORD = 0.1  # of the captions of single drawings
# A token weighs more the less likely it was, up to 1 + BRANCHES, as in focal loss (Lin et al. 2017): a few early tokens
# decide which drawing it becomes, and are lost among the others in a plain mean.
BRANCHES = 10.0


def train(job: Job, batch: int = 32, captions: int = 3_000) -> None:
    """Writes ``refined.pt`` and ``weights/prior.safetensors``.

    A fifth of a batch is scenes as in ``prior``; the rest is single drawings on white, more often where the loss is
    larger.
    """
    first = job.place(load_embedded("dvae", DVAE)).eval().requires_grad_(False)
    tower = job.place(load_embedded("clip", MiniCLIP)).eval().requires_grad_(False).text
    model = job.place(Transformer(tower.tokens.weight.detach(), **CONFIG))
    model.load_state_dict(weights.load_weights(WEIGHTS / "prior.safetensors")[0])
    # Not Muon: torch's multiplies in bfloat16, which takes far longer than a step on a CPU that has no such products.
    optimiser = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.96), weight_decay=0.01, fused=True)
    training = Training(job, "refined", {"model": model}, optimiser, peak=7e-4, clip=1.0, every=25)
    training.average.decay = 0.98  # of some hundred steps
    scenes, scene_texts = tokenised(job, captions, first)
    drawings = data.drawings(job.cache)
    shown_groups = np.array([thing.group in GROUPS or thing.name in PEOPLE for thing in drawings.things])
    is_noto = drawings.style == data.STYLES.index("noto")
    rows = np.flatnonzero(is_noto & shown_groups[drawings.thing] & ~drawings.held_out())
    things = [drawings.things[i] for i in drawings.thing[rows]]
    single = encode_drawings(job, drawings, rows, first)
    names = [[with_article(everyday_name(t.name)), with_article(t.name)] for t in things]
    shared = Counter(keyword for thing in drawings.things for keyword in thing.keywords)
    others = [[with_article(word) for word in thing.keywords if shared[word] <= 2] for thing in things]
    frequency = torch.tensor([0.85 ** thing.name.count(" ") for thing in things])
    nats = torch.ones(len(things))
    rng = torch.Generator().manual_seed(14 + training.steps)
    compute_losses, composed_count = job.compiled(losses), batch // 5
    for _ in training:
        composed = torch.randint(len(scenes), (composed_count,), generator=rng).tolist()
        shown = torch.multinomial(frequency * (nats.clamp(max=HARD) + EASY), batch - composed_count, generator=rng)
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
        weight = 1 + BRANCHES * (1 - (-codes.detach()).exp())
        weight[:composed_count] = 1
        training.step(TEXT_SHARE * words + (1 - TEXT_SHARE) * (weight * codes).mean())
        told, codes = ~silent[composed_count:, 0].cpu(), codes.detach().float().mean(1).cpu()
        nats[shown[told]] = codes[composed_count:][told]
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
