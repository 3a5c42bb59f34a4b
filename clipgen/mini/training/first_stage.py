"""The dVAE on a GPU: whole pictures, a codebook of moving averages, features of mini CLIP, edges, and a patch critic.

It is trained as a VQ-VAE (van den Oord et al. 2017) and then folded into the dVAE's form, exactly: that a latent z is
near a code c is a logit, ``-|z - c|² / (2 s²)`` with the latent's own variance s² around its code, which is linear in z
but for a term that all codes share.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.utils import make_grid

from clipgen.generators import dvae
from clipgen.generators.codebook import straight_through
from clipgen.generators.dvae import DVAE, map_pixels, unmap_pixels
from clipgen.images.reading import to_image
from clipgen.losses.regularisers import lightness
from clipgen.mini import held_out
from clipgen.mini.clip import ImageTower, MiniCLIP
from clipgen.mini.training.bundle import sources
from clipgen.mini.training.composer import Pool
from clipgen.mini.training.training import Job, Training, load_embedded, save_weights
from clipgen.mini.training.vqgan import psnr

CONFIG: dict[str, Any] = {"n_hid": 64, "n_blk_per_group": 2, "n_init": 64, "vocab_size": 2048}
DIM = 16  # of a code, while it is learnt


class Snapped(nn.Module):
    """A dVAE whose tokens are the nearest codes of a codebook (K, DIM)."""

    codes: Tensor
    total: Tensor
    count: Tensor
    spread: Tensor

    def __init__(self, config: dict[str, Any] = CONFIG):
        super().__init__()
        self.net = DVAE(**config)
        self.narrow = nn.Conv2d(8 * config["n_hid"], DIM, 1)
        self.widen = nn.Conv2d(DIM, config["n_init"], 1)
        self.register_buffer("codes", 0.1 * torch.randn(config["vocab_size"], DIM))
        self.register_buffer("total", torch.zeros(config["vocab_size"], DIM))
        self.register_buffer("count", torch.zeros(config["vocab_size"]))
        self.register_buffer("spread", torch.ones(()))

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, DIM, h, w) in float32."""
        encoder: Any = self.net.encoder
        features = map_pixels(images)
        for block in list(encoder.blocks)[:-1]:
            features = block(features)
        return self.narrow(features.relu()).float()

    def tokens(self, latent: Tensor) -> Tensor:
        points = latent.permute(0, 2, 3, 1).flatten(0, 2)
        with torch.autocast(latent.device.type, enabled=False):
            distance = self.codes.square().sum(1) - 2 * points @ self.codes.T
        return distance.argmin(1).view(latent.shape[0], *latent.shape[2:])

    def lookup(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.codes).permute(0, 3, 1, 2)

    def statistics(self, latent: Tensor) -> Tensor:
        features = self.widen(latent)
        for block in list(self.net.decoder.blocks)[1:]:
            features = block(features)
        return features

    def paint(self, tokens: Tensor) -> Tensor:
        """(B, h, w) tokens to images (B, 3, H, W) in [0, 1]."""
        return unmap_pixels(self.statistics(self.lookup(tokens))[:, :3].float().sigmoid()).clamp(0, 1)

    @torch.no_grad()
    def update(self, points: Tensor, tokens: Tensor, decay: float = 0.99) -> None:
        """Move the codes to the mean of what falls to each; those that nothing falls to restart where it fits worst."""
        hits = torch.bincount(tokens, minlength=len(self.count)).float()
        sums = torch.zeros_like(self.total).index_add_(0, tokens, points)
        self.count.lerp_(hits, 1 - decay)
        self.total.lerp_(sums, 1 - decay)
        dead = self.count < 0.04
        misfit = (points - self.codes[tokens]).square().sum(1)
        fresh = points[torch.multinomial(misfit + 1e-6, len(dead), replacement=True)]
        self.total.copy_(torch.where(dead[:, None], fresh, self.total))
        self.count.copy_(torch.where(dead, torch.ones_like(self.count), self.count))
        self.codes.copy_(self.total / self.count[:, None])
        self.spread.lerp_(misfit.mean() / DIM, 0.01)

    @torch.no_grad()
    def folded(self) -> dict[str, Tensor]:
        """The weights of ``DVAE``: the codebook in the encoder's last layer and the decoder's first."""
        sharp = 1 / (2 * self.spread.clamp(min=1e-4))
        out, wide = self.narrow, self.widen.weight[:, :, 0, 0]
        w = 2 * self.codes @ out.weight[:, :, 0, 0]
        assert out.bias is not None
        b = 2 * self.codes @ out.bias - self.codes.square().sum(1)
        b = b - b.mean()
        tensors = dict(self.net.state_dict())
        tensors["encoder.blocks.output.conv.weight"], tensors["encoder.blocks.output.conv.bias"] = (
            sharp * w[:, :, None, None],
            sharp * b,
        )
        tensors["decoder.blocks.input.weight"], tensors["decoder.blocks.input.bias"] = (
            (wide @ self.codes.T)[:, :, None, None],
            self.widen.bias,
        )
        return {key: value.detach().clone() for key, value in tensors.items()}


def steps_between(images: Tensor) -> tuple[Tensor, Tensor]:
    """Differences between neighbours, along rows and along columns."""
    return images[..., 1:] - images[..., :-1], images[..., 1:, :] - images[..., :-1, :]


def edge_energy(images: Tensor) -> float:
    """Mean square step of the luminance between neighbours."""
    return sum(float(step.square().mean()) for step in steps_between(lightness(images))) / 2


class Losses:
    """What a reconstruction is judged by. ``eyes``: mini CLIP's image tower."""

    def __init__(self, eyes: ImageTower):
        self.eyes = eyes

    def __call__(self, made: Tensor, real: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        pixels = (made - real).abs().mean() + 4 * (made - real).square().mean()
        steps = [m - r for m, r in zip(steps_between(made), steps_between(real))]
        edges = torch.stack([step.abs().mean() + 2 * step.square().mean() for step in steps]).sum()
        with torch.no_grad():
            targets = self.eyes.features(real, 3)
        looks = real.new_zeros(())
        for shown, target in zip(self.eyes.features(made.to(targets[0].dtype), 3), targets):
            # Each channel counts by how much it varies, or the few loud ones would be all that is matched.
            looks = looks + ((shown - target).abs().mean((0, 2, 3)) / (target.float().std((0, 2, 3)) + 0.05)).mean()
        coarse = F.avg_pool2d(made - real, 8)
        hue = (coarse - coarse.mean(1, keepdim=True)).abs().mean()
        return pixels + 1.5 * edges + 2 * hue + 0.012 * looks, {"pixels": pixels, "edges": edges, "looks": looks}


def likelihood(statistics: Tensor, real: Tensor) -> Tensor:
    """Laplace in logit space, for the scale alone; the density's constant terms are left out."""
    mean, scale = statistics.float().chunk(2, 1)
    scale = scale.clamp(-6, 4)
    return ((map_pixels(real).logit() - mean.detach()).abs() * (-scale).exp() + scale).mean()


class PatchCritic(nn.Sequential):
    """Patches of pictures, real or made (Isola et al. 2017)."""

    def __init__(self, width: int = 64):
        layers: list[nn.Module] = [
            nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, width, 4, 2, 1)),
            nn.LeakyReLU(0.2),
        ]
        for inner, outer in ((width, 2 * width), (2 * width, 4 * width)):
            stride = 2 if inner == width else 1
            layers += [
                nn.utils.parametrizations.spectral_norm(nn.Conv2d(inner, outer, 4, stride, 1)),
                nn.LeakyReLU(0.2),
            ]
        super().__init__(*layers, nn.Conv2d(4 * width, 1, 4, 1, 1))


class _Residual(nn.Module):
    forward = dvae.ResBlock.forward  # type: ignore[assignment]


def plain(net: nn.Module) -> None:
    """Let a compiler see through a net: its blocks without checkpointing."""
    for layer in net.modules():
        if type(layer) is dvae.ResBlock:
            layer.__class__ = _Residual  # type: ignore[assignment]


def livelier(model: Snapped, factor: float = 16.0) -> list[dict[str, Any]]:
    """Parameter groups in which the blocks' last convolutions start and move ``factor`` times as far (see ``dvae``)."""
    last, others = list[nn.Parameter](), list[nn.Parameter]()
    for name, weight in model.named_parameters():
        if not name.startswith("net.encoder.blocks.output") and not name.startswith("net.decoder.blocks.input"):
            (last if "conv_4" in name else others).append(weight)
    for weight in last:
        weight.data *= factor
    return [{"params": others}, {"params": last, "scale": factor}]


CRITIC, RAMP, FOOLING = 0.55, 0.15, 0.35  # from this progress on, grown within so much more, to this part of a gradient


def train(job: Job, batch: int = 64) -> None:
    """Writes ``first.pt``, ``weights/dvae.safetensors``, and a sheet of held-out drawings and what it makes of them."""
    pool = Pool(job, sources(job.cache).drawings, seed=11)
    model, critic = Snapped(), PatchCritic()
    groups = livelier(model)
    plain(model)
    nets = {"model": job.place(model), "critic": job.place(critic)}
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=1e-4)
    critics = torch.optim.AdamW(critic.parameters(), lr=3e-4, betas=(0.5, 0.95))
    training = Training(job, "first", nets, optimiser, peak=1.5e-3, clip=1.0, every=200)
    clip = job.place(load_embedded("clip", MiniCLIP)).eval().requires_grad_(False)
    encode, decode, losses = (job.compiled(f) for f in (model.encode, model.statistics, Losses(clip.image)))
    test, net, one = (
        held_out()[0][: 4 * batch].to(job.device),
        training.average.model,
        torch.ones((), device=job.device),
    )
    for progress in training:
        real = pool.draw(batch)
        with job.autocast():
            latent = encode(real).float()
        tokens = model.tokens(latent.detach())
        snapped = model.lookup(tokens)
        # Early on some positions pass unsnapped, so that colours can part before there are codes for them.
        loose = (
            torch.rand(len(latent), 1, *latent.shape[2:], generator=pool.rng, device=job.device) < 0.6 - 1.8 * progress
        )
        with job.autocast():
            statistics = decode(torch.where(loose, latent, straight_through(snapped, latent))).float()
        made = unmap_pixels(statistics[:, :3].sigmoid())
        leaf = made.detach().requires_grad_()
        with job.autocast():
            loss, parts = losses(leaf, real)
            (gradient,) = torch.autograd.grad(loss, leaf)
            if progress > CRITIC:
                (fooling,) = torch.autograd.grad(-critic(leaf).float().mean(), leaf)
                share = FOOLING * min(1.0, (progress - CRITIC) / RAMP)
                gradient = gradient + share * fooling * (gradient.norm() / fooling.norm().clamp(min=1e-12))
        commitment = (latent - snapped).square().mean()
        rest = 0.02 * likelihood(statistics, real) + (0.05 + 0.2 * progress) * commitment
        torch.autograd.backward([made, rest], [gradient, one])
        training.move()
        model.update(latent.detach().permute(0, 2, 3, 1).flatten(0, 2), tokens.flatten())
        if progress > CRITIC - 0.03:
            with job.autocast():
                fake = critic(made.detach().clamp(0, 1)).float()
                hinge = (1 - critic(real).float()).relu().mean() + (1 + fake).relu().mean()
            critics.zero_grad()
            hinge.backward()
            critics.step()
        if training.due:
            training.log(**parts, commitment=commitment, **figures(job, net, test)[1])
    again, values = figures(job, net, test)
    training.log(**values)
    folder = job.out / "weights"
    folder.mkdir(exist_ok=True)
    save_weights(folder / "dvae.safetensors", {key: value.cpu() for key, value in net.folded().items()}, CONFIG)
    pairs = torch.stack([test[:48], again[:48]], 1).flatten(0, 1)
    to_image(make_grid(pairs, nrow=12)).save(job.out / "first.webp", quality=90)


@torch.no_grad()
def figures(job: Job, net: Snapped, test: Tensor) -> tuple[Tensor, dict[str, float]]:
    """What is made of pictures, and how good it is: PSNR, the energy of edges beside real ones', and codes used."""
    with job.autocast():
        tokens = torch.cat([net.tokens(net.encode(job.place(some))) for some in test.split(50)])
        again = torch.cat([net.paint(some) for some in tokens.split(50)])
    energy = edge_energy(again) / edge_energy(test)
    return again, {"psnr": psnr(again, test), "energy": energy, "used": tokens.unique().numel()}
