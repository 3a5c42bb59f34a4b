"""Stage 5, the dVAE: Gumbel-softmax from temperature 1 to 1/16, led by the VQGAN's tokens at first."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from clipgen.generators.dvae import DVAE, map_pixels, unmap_pixels
from clipgen.generators.vqgan import VQModel
from clipgen.mini.training import data, vqgan
from clipgen.mini.training.sampler import SceneSampler
from clipgen.mini.training.training import Job, Training
from clipgen.mini.training.vqgan import unseen_psnr

CONFIG: dict[str, Any] = {"n_hid": 32, "n_blk_per_group": 2, "n_init": 64, "vocab_size": 1024}


def train(job: Job, batch: int = 64, size: int = 64) -> None:
    """Writes ``dvae.pt``; needs ``vqgan.pt``."""
    drawings = data.drawings(job.cache)
    scenes = SceneSampler(drawings, ~drawings.held_out(), data.SIZE, seed=7)
    guide = job.trained("vqgan", VQModel(**vqgan.CONFIG))
    model = job.place(DVAE(**CONFIG))
    optimiser = torch.optim.AdamW(livelier(model), betas=(0.9, 0.98), weight_decay=1e-4)
    training = Training(job, "dvae", {"model": model}, optimiser, peak=2e-3, clip=1.0)
    scenes.rng.manual_seed(7 + training.steps)
    net = training.average.model
    for progress in training:
        temperature = max(1 / 16, 1 - progress * 1.2)  # to 1/16, as in the paper
        images = job.place(scenes.crops(batch, size))
        with job.autocast():
            # The VQGAN's tokens to begin with: left alone, the relaxation settles on 40 of the 1,024.
            lead = guide.tokens(guide.encode(images))
            logits = model.logits(images).float()
            led = (torch.rand(lead.shape, generator=scenes.rng) < 0.9 - 2 * progress).to(job.device)
            given = F.one_hot(lead, logits.shape[1]).permute(0, 3, 1, 2).float()
            choice = torch.where(led[:, None], given, F.gumbel_softmax(logits, temperature, dim=1))
            mean, scale = model.decoder(job.place(choice)).float().chunk(2, 1)
        # Laplace in logit space; the density's constant terms are left out.
        likelihood = ((map_pixels(images).logit() - mean).abs() * (-scale).exp() + scale).mean()
        made = unmap_pixels(mean.sigmoid())
        pixels = (made - images).abs().mean() + 2 * (made - images).square().mean()
        following = F.cross_entropy(logits, lead)
        divergence = from_uniform(logits)
        loss = 0.3 * likelihood + 6 * pixels + max(0.02, 0.3 - 0.5 * progress) * following + 0.05 * divergence
        training.step(loss)
        if training.due:
            figures = {"likelihood": likelihood, "pixels": pixels, "following": following, "divergence": divergence}
            quality = unseen_psnr(job, lambda x: net.decode(net.encode(x)), drawings)
            training.log(**figures, psnr=quality, used=logits.argmax(1).unique().numel())


def from_uniform(logits: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the tokens' distributions from the uniform one, in nats a channel of a pixel."""
    return (logits.softmax(1) * (logits.log_softmax(1) + math.log(logits.shape[1]))).sum(1).mean() / (3 * 64)


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
