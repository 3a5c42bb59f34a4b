"""Stage 3, the image tower again, so that its gradient draws: it learns from its own mistakes.

Beside the captions of other pictures it is shown pictures that only pretend: what it paints itself when it is left
alone (``attempts``), and real ones whose parts are in disorder. A caption has to like its real picture better. The text
tower stays as it is, because the prior and the drafts know what it says.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from clipgen.generators import START_GREY
from clipgen.mini import WEIGHTS
from clipgen.mini.clip import MiniCLIP
from clipgen.mini.scenes import COLOURS
from clipgen.mini.training import data
from clipgen.mini.training.attempts import Attempts, cheats
from clipgen.mini.training.clip import augment, fade, noise, retrieval, uniform
from clipgen.mini.training.sampler import Batch, SceneSampler
from clipgen.mini.training.training import Job, Training
from clipgen.storage import weights

CONFIG: dict[str, Any] = {"image": {"layout": 384}}
SIZE, RADIUS, GRAIN = 64, 2.5, 0.2


def train(job: Job, batch: int = 64) -> None:
    """Writes ``critic.pt``; continues from ``clip.pt``, or from the shipped weights if there is none."""
    drawings = data.drawings(job.cache)
    scenes = SceneSampler(drawings, ~drawings.held_out(), SIZE, seed=6)
    model = MiniCLIP(**CONFIG)
    before = (
        job.shipped("clip") if (job.out / "clip.pt").exists() else weights.load_weights(WEIGHTS / "clip.safetensors")[0]
    )
    model.load_state_dict(model.state_dict() | before)
    job.place(model.eval())  # the norms stay: negatives must not move them
    model.text.requires_grad_(False)
    optimiser = torch.optim.AdamW([*model.image.parameters(), model.logit_scale], weight_decay=0.02)
    training = Training(job, "critic", {"model": model}, optimiser, peak=4e-4, clip=1.0)
    rng = torch.Generator().manual_seed(7 + training.steps)
    scenes.rng.manual_seed(6 + training.steps)
    attempts = Attempts(job, SIZE, count=64, kept=1024, steps=64, seed=8 + training.steps)
    with torch.no_grad():
        names = model.embed_text([f"a {thing.name}" for thing in drawings.things])

    for _ in training:
        scene = scenes.batch(batch).to(job.device)
        attempts.advance(model, scene.images, scene.captions, share=16)
        drawn, partners, captions = attempts.draw(batch // 2)
        fresh = batch - len(captions)
        real = torch.cat([scene.images[:fresh], partners])
        told = Batch(real, scene.captions[:fresh] + captions, scene.things)
        with torch.no_grad(), job.autocast():
            texts = model.embed_text(told.captions)
            wrong = model.embed_text(recoloured(scene, fresh, drawings, rng)) if fresh else texts[:0]
        same = told.same()
        seen = views(unfinished(real, rng), rng)
        seen[1::2] = fooled(job, model, seen[1::2], texts, same[1::2], rng)
        false = views(torch.cat([drawn, cheats(real[: batch // 2], rng)]), rng)
        with job.autocast():
            embedded = model.encode_image(job.place(torch.cat([seen, false])))
        scale = model.logit_scale.exp()
        target = same / same.sum(1, keepdim=True)
        of_texts = scale * embedded[:batch] @ torch.cat([texts, wrong]).T
        of_images = scale * texts @ embedded.T
        told_apart = F.cross_entropy(of_texts, F.pad(target, (0, len(wrong))))
        chosen = F.cross_entropy(of_images, F.pad(target, (0, len(false))))
        naming = sum(
            F.cross_entropy(scale * embedded[:fresh] @ names.T, scene.things[:fresh, i], label_smoothing=0.1)
            for i in (0, 1)
        )
        training.step(0.5 * (told_apart + chosen) + 0.15 * naming)
        model.logit_scale.data.clamp_(0, 4.0)
        if training.due:
            top1, top5 = retrieval(job, training.average.model, drawings)
            own = (embedded[:batch] * texts).sum(1).mean()
            pretended = (embedded[batch : batch + len(drawn)] * texts[fresh:]).sum(1).mean()
            disordered = (embedded[batch + len(drawn) :] * texts[: batch // 2]).sum(1).mean()
            training.log(
                told=told_apart, chosen=chosen, named=naming / 2, own=own, drawn=pretended, cheats=disordered,
                scale=scale, top1=top1, top5=top5,
            )  # fmt: skip


def views(images: Tensor, rng: torch.Generator) -> Tensor:
    """Views of pictures as guidance will show them, half of them whole, half of them grainy."""
    turned = (torch.rand(len(images), 1, 1, 1, generator=rng) < 0.5).to(images.device)
    grain = uniform(-GRAIN, GRAIN, images, rng).clamp(min=0)[:, None, None, None]
    seen = torch.where(turned, augment(images, images.shape[-1], rng), fade(images, rng))
    return seen + grain * noise(images, rng)


def unfinished(images: Tensor, rng: torch.Generator) -> Tensor:
    """Pictures (B, 3, S, S), a quarter of them soft and pale, as a good drawing is at first: coarse before fine."""
    made = images.clone()
    for row in (torch.rand(len(images), generator=rng) < 0.25).nonzero().flatten().tolist():
        side = int(torch.randint(4, 25, (), generator=rng))
        soft = F.interpolate(F.adaptive_avg_pool2d(images[row : row + 1], side), images.shape[-2:], mode="bicubic")
        paleness = 0.8 * float(torch.rand((), generator=rng))
        made[row] = soft[0].clamp(0, 1).lerp(torch.full_like(soft[0], START_GREY), paleness)
    return made


def fooled(job: Job, model: MiniCLIP, seen: Tensor, texts: Tensor, same: Tensor, rng: torch.Generator) -> Tensor:
    """Views pushed the wrong way by two L2 steps, together up to ``RADIUS`` (Santurkar et al. 2019)."""
    radius = uniform(0, RADIUS / 2, seen, rng)[:, None]
    target = same / same.sum(1, keepdim=True)
    seen = seen + 0.02 * noise(seen, rng)
    for _ in range(2):
        start = job.place(seen).requires_grad_()
        with job.autocast():
            embedded = model.encode_image(start)
        mistaken = F.cross_entropy(model.logit_scale.detach().exp() * embedded @ texts.T, target)
        uphill = torch.autograd.grad(mistaken, start)[0].flatten(1)
        push = radius * uphill / uphill.norm(dim=1, keepdim=True).clamp(min=1e-12)
        seen = start.detach() + push.view_as(seen)
    return seen


def recoloured(scene: Batch, count: int, drawings: data.Drawings, rng: torch.Generator) -> list[str]:
    """Captions of the first ``count`` scenes with another colour, where they name one; none that are held out."""
    made = []
    for caption, things in zip(scene.captions[:count], scene.things.tolist()):
        words = caption.split()
        places = [i for i, word in enumerate(words) if word in COLOURS]
        if places:
            place = places[int(torch.randint(len(places), (), generator=rng))]
            others = [c for c in COLOURS if c != words[place]]
            other = others[int(torch.randint(len(others), (), generator=rng))]
            if not any(data.is_held_out(other, drawings.things[thing].name) for thing in things):
                made.append(" ".join([*words[:place], other, *words[place + 1 :]]))
    return made or ["nothing"]
