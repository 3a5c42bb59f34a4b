"""Stage 2, mini CLIP: both towers, contrastively and adversarially; the text tower keeps learning."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipgen.mini.clip import MiniCLIP
from clipgen.mini.training import data
from clipgen.mini.training.evaluate import ranks
from clipgen.mini.training.sampler import Batch, SceneSampler
from clipgen.mini.training.text import TEACHER_WIDTH, TEXT_WIDTH, distillation, recall
from clipgen.mini.training.training import Job, Training


def train(job: Job, batch: int = 256) -> None:
    """Writes ``clip.pt``; needs ``text.pt`` and ``teacher.pt``."""
    drawings = data.drawings(job.cache)
    scenes = SceneSampler(drawings, ~drawings.held_out(), 64, seed=2)
    model, head = MiniCLIP(), nn.Linear(TEXT_WIDTH, TEACHER_WIDTH)
    classify = nn.Linear(256, len(drawings.things))
    text, taught = job.read("text"), job.read("teacher")
    model.text.load_state_dict(text["tower"])
    head.load_state_dict(text["head"])
    nets = {"model": job.place(model), "head": job.place(head), "classify": job.place(classify)}
    tokens, targets = model.text.tokenize(taught["phrases"]), taught["targets"]
    fresh = [*model.image.parameters(), *classify.parameters(), model.logit_scale, model.text.project.weight]
    taught_before = [p for n, p in model.text.named_parameters() if n != "project.weight"] + [*head.parameters()]
    groups: list[dict[str, Any]] = [{"params": fresh}, {"params": taught_before, "scale": 0.3}]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.02)
    training = Training(job, "clip", nets, optimiser, peak=2e-3, clip=1.0)

    def mistaken(pictures: Tensor, texts: Tensor, scene: Batch) -> Tensor:
        """How badly pictures are told by their captions, and their things are named."""
        with job.autocast():
            pooled = model.image.features(job.place(pictures))[-1].mean((2, 3))
            images, classes = F.normalize(model.image.project(pooled).float(), dim=-1), classify(pooled).float()
        return contrast(images, texts, model.logit_scale, scene.same()) + naming(classes, scene.things)

    rng = torch.Generator().manual_seed(3 + training.steps)
    scenes.rng.manual_seed(2 + training.steps)
    for progress in training:
        scene = scenes.batch(batch).to(job.device)
        views = augment(scene.images, 64, rng)
        rows = torch.randint(len(tokens), (batch // 4,), generator=rng)
        with job.autocast():
            embedded = model.embed_text(scene.captions)
            recalled = recall(job, model.text, head, tokens[rows])
        kept = distillation(recalled, targets[rows].float().to(job.device))
        texts = embedded.detach().requires_grad_()
        # One L2 step uphill, and both pictures are learnt from: the gradients of a net that withstands it
        # follow shapes that people see (Santurkar et al. 2019). The radius grows while the net learns.
        start = (views + 0.02 * noise(views, rng)).requires_grad_()
        plain = mistaken(start, texts, scene)
        (0.4 * plain).backward()
        assert start.grad is not None and texts.grad is not None
        uphill = start.grad.flatten(1)
        radius = uniform(0, 2.5 * min(1.0, 2 * progress), views, rng)[:, None]
        push = (radius * uphill / uphill.norm(dim=1, keepdim=True).clamp(min=1e-12)).view_as(views)
        fooled = mistaken((start.detach() + push).clamp(0, 1), texts, scene)
        (0.6 * fooled).backward()
        training.step(kept + (embedded * texts.grad).sum())
        model.logit_scale.data.clamp_(0, 4.0)
        if training.due:
            top1, top5 = retrieval(job, training.average.model, drawings)
            scale = model.logit_scale.exp()
            training.log(plain=plain, fooled=fooled, kept=kept, scale=scale, top1=top1, top5=top5)


def augment(images: Tensor, size: int, rng: torch.Generator) -> Tensor:
    """Views of (size, size) as guidance will show them: shifted, scaled, turned, a little dim and noisy."""
    scale, angle = uniform(0.7, 1.08, images, rng), uniform(-0.2, 0.2, images, rng)
    theta = images.new_zeros(len(images), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale * angle.cos()
    theta[:, 0, 1], theta[:, 1, 0] = -scale * angle.sin(), scale * angle.sin()
    theta[:, 0, 2], theta[:, 1, 2] = uniform(-0.2, 0.2, images, rng), uniform(-0.2, 0.2, images, rng)
    grid = F.affine_grid(theta, [len(images), 3, size, size], align_corners=False)
    return fade(F.grid_sample(images, grid, padding_mode="border", align_corners=False), rng)


def fade(views: Tensor, rng: torch.Generator) -> Tensor:
    """A little dim and noisy and, now and then, blurred: as pictures in the making are."""
    contrast, light = uniform(0.7, 1.1, views, rng), uniform(-0.1, 0.1, views, rng)
    views = (views - 0.5) * contrast[:, None, None, None] + 0.5 + light[:, None, None, None] + 0.03 * noise(views, rng)
    if torch.rand((), generator=rng) < 0.3:
        views = F.avg_pool2d(views, 3, 1, 1, count_include_pad=False)
    return views.clamp(0, 1)


def uniform(low: float, high: float, images: Tensor, rng: torch.Generator) -> Tensor:
    """A random number for each of the images, (B,)."""
    return (low + (high - low) * torch.rand(len(images), generator=rng)).to(images.device)


def noise(images: Tensor, rng: torch.Generator) -> Tensor:
    """Normal noise in the shape of the images."""
    return torch.randn(images.shape, generator=rng).to(images.device)


def contrast(images: Tensor, texts: Tensor, scale: Tensor, same: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy, where equal captions in the batch count as equally right."""
    logits = scale.exp() * images @ texts.T
    target = same / same.sum(1, keepdim=True)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target.T))


def naming(classes: Tensor, things: Tensor) -> Tensor:
    """Cross-entropy of ``classes`` (B, things) with the two things of a scene, (B, 2)."""
    first, second = (F.cross_entropy(classes, things[:, i], label_smoothing=0.1) for i in (0, 1))
    return 0.5 * (first + second)


@torch.no_grad()
def retrieval(job: Job, model, drawings: data.Drawings) -> tuple[float, float]:
    """Top-1 and top-5 of the right name among up to 200, for held-out drawings on white."""
    rows = drawings.test_set()
    images = F.avg_pool2d(drawings.pictures(rows)[0], 2).to(job.device)
    with job.autocast():
        seen, named = model.encode_image(images), model.embed_text([f"a {name}" for name in drawings.names(rows)])
    return ranks(seen @ named.T)
