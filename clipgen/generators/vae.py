"""Continuous autoencoders of diffusion models: TAESD's family, and any other by diffusers.

Latents are scaled as diffusion models see them, to a standard deviation of about 1. Parameter names of TAESD, TAESDXL
and TAEF1 (Ollin Boer Bohan 2023, 2024; MIT) are those of diffusers' ``AutoencoderTiny``, as they are published in
``madebyollin/taesd``, ``/taesdxl`` and ``/taef1``.
"""

from __future__ import annotations

import importlib.util
import json
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clipgen import fast
from clipgen.errors import ClipgenError
from clipgen.generators.base import Entry, Generator, Randomness, check_size, clamp
from clipgen.generators.pixels import GROUND
from clipgen.precision import MixedPrecision
from clipgen.storage import weights
from clipgen.storage.download import check_hub
from clipgen.storage.remote import fetch

_conv = partial(nn.Conv2d, kernel_size=3, padding=1)


class Block(nn.Module):
    """Three convolutions with a skip connection."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Sequential(_conv(width, width), nn.ReLU(), _conv(width, width), nn.ReLU(), _conv(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x) + x)


class TAESD(nn.Module):
    """The tiny autoencoder, whose latents have 4 channels for Stable Diffusion and SDXL, 16 for FLUX.1."""

    stride = 8

    def __init__(self, channels: int = 4, width: int = 64):
        super().__init__()
        self.channels = channels
        down: list[nn.Module] = [_conv(3, width), Block(width)]
        up: list[nn.Module] = [_conv(channels, width), nn.ReLU()]
        for _ in range(3):
            down += [_conv(width, width, stride=2, bias=False), Block(width), Block(width), Block(width)]
            up += [Block(width), Block(width), Block(width), nn.Upsample(scale_factor=2)]
            up += [_conv(width, width, bias=False)]
        self.encoder = nn.ModuleDict({"layers": nn.Sequential(*down, _conv(width, channels))})
        self.decoder = nn.ModuleDict({"layers": nn.Sequential(*up, Block(width), _conv(width, 3))})

    def encode(self, images: Tensor) -> Tensor:
        """Return the latent (B, channels, H/8, W/8) of (B, 3, H, W)."""
        return self.encoder["layers"](images)

    def decode(self, latent: Tensor) -> Tensor:
        """Return the images (B, 3, H, W) of a latent, about in [0, 1]. Latents saturate at 3, as in training."""
        return self.decoder["layers"](3 * torch.tanh(latent / 3))


class Diffusers(nn.Module):
    """An ``AutoencoderKL`` or ``AutoencoderTiny`` of diffusers, with the methods of ``TAESD``."""

    def __init__(self, net: Any, stride: int):
        super().__init__()
        self.net, self.stride, self.channels = net, stride, net.config.latent_channels
        self.scale, self.shift = net.config.scaling_factor or 1.0, getattr(net.config, "shift_factor", None) or 0.0

    @property
    def decoder(self) -> nn.Module:
        return self.net.decoder

    def encode(self, images: Tensor) -> Tensor:
        """Return the mode of the posterior of images (B, 3, H, W)."""
        output = self.net.encode(images * 2 - 1)
        latent = output.latent_dist.mode() if hasattr(output, "latent_dist") else output.latents
        return (latent - self.shift) * self.scale

    def decode(self, latent: Tensor) -> Tensor:
        """Return the images (B, 3, H, W) of a latent, about in [0, 1]."""
        return (self.net.decode(latent / self.scale + self.shift).sample + 1) / 2


class VAE(MixedPrecision, Generator):
    """A frozen autoencoder with a continuous latent (B, channels, H/stride, W/stride)."""

    lr = 1.0
    limit = 5.0  # standard deviations

    def __init__(self, name: str, net: TAESD | Diffusers, native_size: int, device: torch.device):
        self.name, self.native_size, self.stride, self.device = name, native_size, net.stride, device
        self.net = fast.optimize_for(net.to(device).eval().requires_grad_(False), device)

    def set_precision(self, precision: str) -> None:
        super().set_precision(precision)
        self.cast_weights(self.net)

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        return 1, self.net.channels, size[0] // self.stride, size[1] // self.stride

    def start(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        """Return a plain light image with a little noise."""
        noise = 0.1 * torch.randn(self.shape(size), generator=rng)
        return noise.to(self.device) + self.encode(torch.full((1, 3, *size), GROUND, device=self.device))

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """Return the latent of (B, 3, H, W); H and W are multiples of ``stride``."""
        check_size(self.name, self.stride, (image.shape[-1], image.shape[-2]))
        return self.compute(self.net.encode, image)

    def image(self, latent: Tensor, progress: float = 1.0, rng: Randomness | None = None) -> Tensor:
        return clamp(self.compute(self.net.decode, latent))

    def distance(self, latent: Tensor, other: Tensor) -> Tensor:
        """Return the mean squared difference, divided by that of two unrelated latents."""
        return (latent - other).square().mean() / 2


def load(name: str, entry: Entry, device: torch.device) -> VAE:
    """Load TAESD, TAESDXL or TAEF1; ``entry.config`` has the arguments of ``TAESD``."""
    net = weights.build_net(
        TAESD, entry.config, weights.load_weights(weights.as_safetensors(fetch(entry.files[0])))[0], name
    )
    return VAE(name, net, entry.native_size, device)


# --- any other, by diffusers --------------------------------------------------------------------------

HUB = "hf-hub:"
_CLASSES = ("AutoencoderKL", "AutoencoderTiny")


@lru_cache
def hub_config(name: str) -> dict[str, Any]:
    """Return ``class`` and ``stride`` of ``hf-hub:org/name`` or ``hf-hub:org/name/folder``, from its config alone."""
    if not importlib.util.find_spec("diffusers"):
        raise ClipgenError(f'generator={name!r} is read by diffusers, which is missing; pip install ".[vae]"')
    from huggingface_hub import hf_hub_download

    repo, folder = _split_name(name)
    try:
        check_hub(repo, f"{folder}/config.json" if folder else "config.json")
        config = json.loads(Path(hf_hub_download(repo, "config.json", subfolder=folder)).read_text())
    except Exception as error:  # the hub's errors differ between its versions
        raise _unreadable(name, error) from error
    if config.get("_class_name") not in _CLASSES:
        raise ClipgenError(
            f"generator={name!r} is {config.get('_class_name', 'of an unknown class')}; clipgen takes "
            f"{' and '.join(_CLASSES)} (the autoencoder of a pipeline is mostly in its folder vae: {HUB}org/name/vae)"
        )
    levels = config.get("block_out_channels") or config["encoder_block_out_channels"]
    return {"class": config["_class_name"], "stride": 2 ** (len(levels) - 1)}


def load_hub(name: str, entry: Entry, device: torch.device) -> VAE:
    """Load an autoencoder from the hub; ``entry.config`` is what ``hub_config`` returned."""
    import diffusers

    repo, folder = _split_name(name)
    kind = getattr(diffusers, entry.config["class"])
    try:  # only safetensors are read, by diffusers' own classes: no code from the hub is run
        net = kind.from_pretrained(repo, subfolder=folder, use_safetensors=True, low_cpu_mem_usage=False).float()
    except Exception as error:  # diffusers and the hub fail in their own ways
        raise _unreadable(name, error) from error
    return VAE(name, Diffusers(net, entry.config["stride"]), entry.native_size, device)


def _split_name(name: str) -> tuple[str, str | None]:
    """Return the repository and the folder in it."""
    parts = name.removeprefix(HUB).split("/", 2)
    if len(parts) < 2 or not all(parts):
        raise ClipgenError(f"generator={name!r}: write {HUB}org/name, or {HUB}org/name/folder")
    return "/".join(parts[:2]), parts[2] if len(parts) > 2 else None


def _unreadable(name: str, error: Exception) -> ClipgenError:
    reason = " ".join(str(error).split())[:300]
    return ClipgenError(f"generator={name!r} cannot be loaded ({reason}); check the name, and that it has safetensors")
