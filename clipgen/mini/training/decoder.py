"""The dVAE's decoder once more: sharper edges, while its encoder and its tokens stay, and so the transformer does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from clipgen.generators.dvae import DVAE, unmap_pixels
from clipgen.mini import held_out
from clipgen.mini.clip import MiniCLIP
from clipgen.mini.training import composer
from clipgen.mini.training.bundle import sources
from clipgen.mini.training.dvae import CONFIG
from clipgen.mini.training.first_stage import Losses, PatchCritic, edge_energy, likelihood
from clipgen.mini.training.training import Job, Training, load_embedded, save_weights
from clipgen.mini.training.vqgan import psnr

WINDOW, STRIDE = 10, 8  # tokens of a side that are decoded at a time, and pixels of a token
FOOLING = 1.6  # norm of the critic's gradient, relative to that of the other losses


class Encoded:
    """Scenes (N, 3, S, S) as bytes and their tokens (N, h, w): drawn, encoded once, and used again and again."""

    def __init__(self, job: Job, scenes: composer.Pool, net: DVAE, most: int):
        self.job, self.scenes, self.net, self.most = job, scenes, net, most
        self.images = torch.empty(0, 3, composer.SIDE, composer.SIDE, dtype=torch.uint8, device=job.device)
        self.tokens = torch.empty(0, *[composer.SIDE // STRIDE] * 2, dtype=torch.long, device=job.device)

    @torch.no_grad()
    def fill(self, count: int) -> None:
        """``count`` new scenes; the oldest leave."""
        images = self.scenes.draw(count, at_once=1)
        with self.job.autocast():
            tokens = torch.cat([self.net.logits(self.job.place(some)).argmax(1) for some in images.split(16)])
        self.images = torch.cat([self.images, (images * 255).round().byte()])[-self.most :]
        self.tokens = torch.cat([self.tokens, tokens])[-self.most :]

    def draw(self, count: int) -> tuple[Tensor, Tensor, tuple[slice, slice]]:
        """Tokens (count, WINDOW, WINDOW) of one place in many scenes, their pixels, and which of these to compare:

        those at a cut lack what is behind it.
        """
        some = torch.randint(len(self.images), (count,), generator=self.scenes.rng, device=self.images.device)
        last = composer.SIDE // STRIDE - WINDOW
        top, left = torch.randint(last + 1, (2,), generator=self.scenes.rng, device=self.images.device).tolist()
        tokens = self.tokens[some, top : top + WINDOW, left : left + WINDOW]
        ends = [(STRIDE * (at > 0), STRIDE * (WINDOW - (at < last))) for at in (top, left)]
        rows, columns = (slice(STRIDE * at + low, STRIDE * at + high) for at, (low, high) in zip((top, left), ends))
        return tokens, self.images[some][..., rows, columns].float() / 255, (slice(*ends[0]), slice(*ends[1]))


def train(job: Job, batch: int = 16) -> None:
    """Write ``decoder.pt`` and ``dvae.safetensors``, starting from the shipped dVAE."""
    net = job.place(load_embedded("dvae", DVAE)).requires_grad_(False)
    clip = job.place(load_embedded("clip", MiniCLIP)).eval().requires_grad_(False)
    losses, critic = Losses(clip.image), job.place(PatchCritic(32))
    model = net.decoder.requires_grad_(True)
    model.blocks.input.requires_grad_(False)  # the codebook
    moved = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [weight for name, weight in moved if "conv_4" not in name]},
        {"params": [weight for name, weight in moved if "conv_4" in name], "scale": 16.0},  # see ``dvae.livelier``
    ]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=1e-4)
    critics = torch.optim.AdamW(critic.parameters(), lr=3e-4, betas=(0.5, 0.95))
    training = Training(job, "decoder", {"model": model, "critic": critic}, optimiser, peak=3e-4, clip=1.0, every=50)
    scenes = composer.Pool(job, sources(job.cache).drawings, seed=12 + training.steps, variants=8)
    pool = Encoded(job, scenes, net, most=6000)
    pool.fill(16 * batch)
    test = held_out()[0][: 4 * batch].to(job.device)
    sharp = edge_energy(test)
    with torch.no_grad(), job.autocast():
        known = net.encode(test)
    for _ in training:
        if training.steps % 20 == 0:
            pool.fill(4 * batch)
        tokens, real, (rows, columns) = pool.draw(batch)
        real = job.place(real)
        with job.autocast():
            one_hot = F.one_hot(tokens, pool.net.codebook.shape[0]).permute(0, 3, 1, 2).float()
            statistics = model(job.place(one_hot))[..., rows, columns].float()
        made = unmap_pixels(statistics[:, :3].sigmoid())
        leaf = made.detach().requires_grad_()
        with job.autocast():
            loss, parts = losses(leaf, real)
            (gradient,) = torch.autograd.grad(loss, leaf)
            (fooling,) = torch.autograd.grad(-critic(leaf).float().mean(), leaf)
        share = FOOLING * max(0.0, min(1.0, training.steps / 150 - 0.5))
        gradient = gradient + share * fooling * (gradient.norm() / fooling.norm().clamp(min=1e-12))
        training.step((made * gradient).sum() + 0.02 * likelihood(statistics, real))
        with job.autocast():
            fake = critic(made.detach().clamp(0, 1)).float()
            hinge = (1 - critic(real).float()).relu().mean() + (1 + fake).relu().mean()
        critics.zero_grad()
        hinge.backward()
        critics.step()
        if training.due:
            with torch.no_grad(), job.autocast():
                average = training.average.model
                latent = known + average.blocks.input.bias[:, None, None]
                again = unmap_pixels(average.blocks[1:](latent)[:, :3].float().sigmoid()).clamp(0, 1)
            training.log(**parts, hinge=hinge, psnr=psnr(again, test), energy=edge_energy(again) / sharp)
    net.decoder.load_state_dict(training.average.model.state_dict())
    save_weights(job.out / "dvae.safetensors", {key: value.cpu() for key, value in net.state_dict().items()}, CONFIG)
