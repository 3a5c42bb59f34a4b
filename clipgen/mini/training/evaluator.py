"""Stage 3, the evaluator: a judge that guides nothing and that nothing is trained on."""

from __future__ import annotations

import torch
from torch import nn

from clipgen.mini.clip import EvaluatorNet
from clipgen.mini.training import data
from clipgen.mini.training.clip import contrast, fade, naming, retrieval
from clipgen.mini.training.sampler import SceneSampler
from clipgen.mini.training.training import Job, Training


def train(job: Job, batch: int = 256) -> None:
    """Writes ``evaluator.pt``; starts from the words of ``text.pt``."""
    drawings = data.drawings(job.cache)
    # The held-out combinations too: a judge has to know what it judges.
    scenes = SceneSampler(drawings, ~drawings.held_out(), 64, seed=4, unseen=None)
    model, classify = EvaluatorNet(), nn.Linear(256, len(drawings.things))
    model.words.weight.data.copy_(job.read("text")["tower"]["tokens.weight"])
    nets = {"model": job.place(model), "classify": job.place(classify)}
    optimiser = torch.optim.AdamW([*model.parameters(), *classify.parameters()], weight_decay=0.02)
    training = Training(job, "evaluator", nets, optimiser, peak=2e-3)
    rng = torch.Generator().manual_seed(5 + training.steps)
    scenes.rng.manual_seed(4 + training.steps)
    for _ in training:
        scene = scenes.batch(batch).to(job.device)
        views = job.place(fade(scene.images, rng))
        with job.autocast():
            images, texts = model.encode_image(views), model.embed_text(scene.captions)
        loss = contrast(images, texts, model.logit_scale, scene.same()) + naming(classify(images * 8), scene.things)
        training.step(loss)
        model.logit_scale.data.clamp_(0, 4.0)
        if training.due:
            top1, top5 = retrieval(job, training.average.model, drawings)
            training.log(loss=loss, top1=top1, top5=top5)
