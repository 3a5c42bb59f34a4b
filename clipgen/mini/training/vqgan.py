"""Stage 4, the VQGAN: L1 and L2, features of mini CLIP's image tower, and a weak patch discriminator at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipgen.generators.codebook import straight_through
from clipgen.generators.vqgan import VQModel
from clipgen.mini.clip import MiniCLIP
from clipgen.mini.training import data
from clipgen.mini.training.sampler import SceneSampler
from clipgen.mini.training.training import Job, Training, learning_rate

CONFIG: dict[str, Any] = {
    "n_embed": 1024,
    "embed_dim": 32,
    "z_channels": 64,
    "ch": 32,
    "ch_mult": [1, 1, 2, 4],
    "num_res_blocks": 1,
    "resolution": 128,
    "norm_kind": "batch",
}


def train(job: Job, batch: int = 32, size: int = 64) -> None:
    """Writes ``vqgan.pt``; needs ``clip.pt``."""
    drawings = data.drawings(job.cache)
    scenes = SceneSampler(drawings, ~drawings.held_out(), data.SIZE, seed=6)
    model, critic = job.place(VQModel(**CONFIG)), job.place(Discriminator())
    eyes = job.trained("clip", MiniCLIP()).image
    model.codebook.requires_grad_(False)
    moved = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(moved, betas=(0.8, 0.98), weight_decay=1e-3)
    critics = torch.optim.AdamW(critic.parameters(), betas=(0.5, 0.98))
    training = Training(job, "vqgan", {"model": model, "critic": critic}, optimiser, peak=3e-3, clip=1.0, every=200)
    codes = CodebookAverage(model.codebook, fresh=training.steps == 0)
    scenes.rng.manual_seed(6 + training.steps)
    net = training.average.model
    for progress in training:
        real = job.place(scenes.crops(batch, size))
        with job.autocast():
            latent = model.encode(real).float()
            tokens = model.tokens(latent)
            points = latent.detach().permute(0, 2, 3, 1).flatten(0, 2)
            snapped = model.lookup(tokens)
            # Early on some positions pass unsnapped, so that colours can part before there are codes for them.
            loose = torch.rand(len(latent), 1, *latent.shape[2:], generator=scenes.rng) < 0.9 - progress
            mixed = torch.where(loose.to(job.device), latent, straight_through(snapped, latent))
            made = model.decode(mixed).float()
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
            with job.autocast():
                loss = loss - 0.004 * critic(made).float().mean()
        training.step(loss)
        codes.update(points, tokens.flatten())
        if progress > 0.6:
            with job.autocast():
                hinge = (1 - critic(real).float()).relu().mean() + (1 + critic(made.detach()).float()).relu().mean()
            learning_rate(critics, 5e-4, progress)
            critics.zero_grad()
            hinge.backward()
            critics.step()
        if training.due:
            quality = unseen_psnr(job, lambda x: net.decode(net.lookup(net.tokens(net.encode(x)))), drawings)
            used = tokens.unique().numel()
            training.log(pixels=pixels, looks=looks, commitment=commitment, psnr=quality, used=used)


def psnr(images: Tensor, originals: Tensor) -> float:
    """Return the mean over (N, 3, H, W) images of the peak signal-to-noise ratio in dB."""
    error = (images - originals).square().mean((1, 2, 3))
    return float((-10 * error.log10()).mean())


@torch.no_grad()
def unseen_psnr(job: Job, reconstruct: Callable[[Tensor], Tensor], drawings: data.Drawings, count: int = 64) -> float:
    """Mean PSNR in dB over held-out drawings on white, at full size."""
    images = drawings.pictures(drawings.held_out().nonzero()[0][:count])[0].to(job.device)
    with job.autocast():
        made = reconstruct(images).float()
    return psnr(made, images)


class Discriminator(nn.Sequential):
    """Patches of pictures, real or made (Isola et al. 2017)."""

    def __init__(self, width: int = 48):
        super().__init__(
            nn.Conv2d(3, width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 1, 4, 1, 1),
        )


class CodebookAverage:
    """The codebook as a running mean of what falls to each code; unused codes restart from the batch."""

    def __init__(self, codebook: Tensor, fresh: bool, decay: float = 0.99):
        self.codebook, self.decay = codebook, decay
        # At zero a code counts as unused: the first batch fills a fresh codebook.
        self.count = codebook.new_full((len(codebook),), 0.0 if fresh else 1.0)
        self.total = codebook.detach().clone()

    @torch.no_grad()
    def update(self, points: Tensor, tokens: Tensor) -> None:
        """Points (N, dim) of the latent and the codes (N,) that they fell to."""
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
