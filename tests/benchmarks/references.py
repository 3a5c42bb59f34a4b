"""What people run today, in our own words on the packages that they use, op for op: a function that makes one step."""

from __future__ import annotations

import math
from collections.abc import Callable

import clip.model
import dall_e
import torch
from taming.modules.diffusionmodules.model import Decoder
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
F16 = {"ch": 128, "ch_mult": (1, 1, 2, 2, 4), "num_res_blocks": 2, "attn_resolutions": [16], "z_channels": 256}


def vit_b_32(device: torch.device) -> nn.Module:
    """OpenAI's ViT-B/32 with random weights."""
    net = clip.model.CLIP(512, 224, 12, 768, 32, 77, 49408, 512, 8, 12)
    return net.float().to(device).eval().requires_grad_(False)


class _Straight(torch.autograd.Function):
    """One value forwards, the gradient of another."""

    @staticmethod
    def forward(ctx, value, other):
        ctx.shape = other.shape
        return value

    @staticmethod
    def backward(ctx, gradient):
        return None, gradient.sum_to_size(ctx.shape)


class _Clamped(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(0, 1)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (gradient * (x - x.clamp(0, 1)) >= 0)


def _warped(views: Tensor, change: Tensor) -> Tensor:
    """Views (n, 3, h, w) under maps (n, 3, 3), each for 70% of them; a resampling of its own, as Kornia makes one."""
    change = torch.where(torch.rand(len(views), 1, 1) < 0.7, change, torch.eye(3)).to(views.device)
    at = torch.linspace(-1, 1, views.shape[-1], device=views.device)
    places = torch.stack([*torch.meshgrid(at, at, indexing="xy"), torch.ones(len(at), len(at), device=at.device)], -1)
    moved = places.flatten(0, 1) @ change.mT
    grid = (moved[..., :2] / moved[..., 2:]).unflatten(1, (len(at), len(at)))
    return F.grid_sample(views, grid, align_corners=True)


def _affine(n: int) -> Tensor:
    """Turned by up to 15 degrees, moved by up to a tenth, leaned by up to 5 degrees."""
    turn, lean = ((2 * torch.rand(n) - 1) * math.radians(degrees) for degrees in (15, 5))
    maps = torch.eye(3).repeat(n, 1, 1)
    maps[:, 0, 0], maps[:, 0, 1], maps[:, 1, 0], maps[:, 1, 1] = (
        turn.cos(),
        lean.tan() - turn.sin(),
        turn.sin(),
        turn.cos(),
    )
    maps[:, :2, 2] = 0.4 * torch.rand(n, 2) - 0.2
    return maps


def _perspective(n: int) -> Tensor:
    maps = torch.eye(3).repeat(n, 1, 1)
    maps[:, 2, :2] = 0.7 * torch.rand(n, 2) - 0.35
    return maps


def _coloured(views: Tensor) -> Tensor:
    """Light, contrast and saturation by up to a tenth, for 70% of the views."""
    chosen = torch.rand(len(views), 1, 1, 1, device=views.device) < 0.7
    light, contrast, colour = (0.9 + 0.2 * torch.rand(3, len(views), 1, 1, 1, device=views.device)).unbind()
    made = (views * light).clamp(0, 1)
    mean = made.mean((1, 2, 3), keepdim=True)
    made = (mean + contrast * (made - mean)).clamp(0, 1)
    grey = made.mean(1, keepdim=True)
    return torch.where(chosen, (grey + colour * (made - grey)).clamp(0, 1), views)


def nerdyrodent(side: int, views: int, device: torch.device) -> Callable[[], None]:
    """A step of github.com/nerdyrodent/VQGAN-CLIP's generate.py: VQGAN f16-16384, one prompt, Adam."""
    decoder = Decoder(out_ch=3, dropout=0.0, in_channels=3, resolution=256, **F16).to(device)
    narrow, codes = nn.Conv2d(256, 256, 1).to(device), nn.Embedding(16384, 256).to(device)
    for net in (decoder, narrow, codes):
        net.eval().requires_grad_(False)
    judge = vit_b_32(device)
    target = F.normalize(torch.randn(1, 512, device=device), dim=-1)
    low, high = (getattr(codes.weight, f)(0).values[:, None, None] for f in ("min", "max"))
    z = codes(torch.randint(16384, (1, side // 16, side // 16), device=device)).movedim(3, 1).clone().requires_grad_()
    optimiser = torch.optim.Adam([z], lr=0.1)
    erase = v2.RandomErasing(0.7, (0.1, 0.4), (0.3, 1 / 0.3))

    def cut(image: Tensor) -> Tensor:
        pooled = torch.cat([(F.adaptive_avg_pool2d(image, 224) + F.adaptive_max_pool2d(image, 224)) / 2] * views)
        pooled = _coloured(_warped(_warped(pooled, _affine(views)), _perspective(views)))
        pooled = erase(pooled)
        return pooled + torch.rand(views, 1, 1, 1, device=device) * 0.1 * torch.randn_like(pooled)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        flat = z.movedim(1, 3)
        distance = flat.square().sum(-1, keepdim=True) + codes.weight.square().sum(1) - 2 * flat @ codes.weight.T
        snapped = _Straight.apply(F.one_hot(distance.argmin(-1), 16384).float() @ codes.weight, flat).movedim(3, 1)
        image = _Clamped.apply((decoder(narrow(snapped)) + 1) / 2)
        seen = judge.encode_image(v2.functional.normalize(cut(image), MEAN, STD)).float()
        away = (F.normalize(seen[:, None], dim=2) - target).norm(dim=2).div(2).arcsin().square().mul(2)
        away.mean().backward()
        optimiser.step()
        with torch.no_grad():
            z.copy_(z.maximum(low).minimum(high))

    return step


def murdock(side: int, views: int, device: torch.device) -> Callable[[], None]:
    """A step of github.com/simonsanvil/DALL-E-Explained: DALL-E's dVAE by a Gumbel softmax, two texts, AdamW."""
    decoder = dall_e.Decoder().to(device).eval().requires_grad_(False)
    judge = vit_b_32(device)
    wanted, unwanted = (F.normalize(torch.randn(1, 512, device=device), dim=-1) for _ in range(2))
    places = side // 8
    logits = F.one_hot(torch.randint(8192, (1, places, places), device=device), 8192).permute(0, 3, 1, 2).float()
    logits = logits.contiguous().requires_grad_()
    optimiser = torch.optim.AdamW([logits], lr=0.015, weight_decay=0.0)
    whole = nn.Sequential(v2.RandomHorizontalFlip(), v2.RandomAffine(24, (0.1, 0.1)))

    def cut(image: Tensor) -> Tensor:
        padded = whole(F.pad(image, [side // 2] * 4))
        seen = []
        for number in range(views):
            width = int(float(torch.normal(1.2, 0.3, ()).clip(0.43, 1.9)) * side)
            width = int(1.4 * side) if number > views - 4 else width
            x, y = (int(torch.randint(0, 2 * side - width, ())) for _ in range(2))
            part = padded[:, :, x : x + width, y : y + width]
            seen.append(F.interpolate(part, (224, 224), mode="bilinear", align_corners=True))
        views_of_it = torch.cat(seen)
        return views_of_it + 0.11 * torch.rand(views, 1, 1, 1, device=device) * torch.randn_like(views_of_it)

    def step() -> None:
        soft = F.gumbel_softmax(logits.reshape(1, 4096, -1), dim=1, tau=1.873).view_as(logits)
        image = dall_e.unmap_pixels(decoder(soft)[:, :3].float().sigmoid())
        seen = judge.encode_image(v2.functional.normalize(cut((image.clip(-1, 1) + 1) / 2), MEAN, STD))
        loss = -10 * torch.cosine_similarity(wanted, seen, -1) + 5 * torch.cosine_similarity(unwanted, seen, -1)
        optimiser.zero_grad()
        loss.mean().backward()
        optimiser.step()
        float(soft.detach().abs().max())  # the notebook asks for it, to switch its weight decay

    return step
