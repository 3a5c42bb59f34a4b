"""Continuous autoencoders, whose latents diffusion models paint in: TAESD's family, and any other by diffusers.

Latents are counted as those models see them, with a deviation of about one. TAESD, TAESDXL and TAEF1 (Ollin Boer
Bohan 2023, 2024; MIT) are small enough to have their net here; the names of its parameters are those of diffusers'
``AutoencoderTiny``, in which ``madebyollin/taesd``, ``/taesdxl`` and ``/taef1`` are published.
"""

from __future__ import annotations

import importlib.util
import json
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from clipgen.errors import ClipgenError
from clipgen.fast.frozen import Conv2d, ReLU
from clipgen.generators.codes import clamp
from clipgen.generators.continuous import Continuous
from clipgen.generators.pixels import GROUND
from clipgen.generators.protocol import Randomness, check_size
from clipgen.precision import Computing
from clipgen.storage import weights
from clipgen.storage.download import check_hub
from clipgen.storage.remote import fetch
from clipgen.storage.sources import Source

if TYPE_CHECKING:
    from clipgen.generators.catalogue import Entry

_conv = partial(Conv2d, kernel_size=3, padding=1)


class Block(nn.Module):
    """Three convolutions around a skip."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Sequential(_conv(width, width), ReLU(), _conv(width, width), ReLU(), _conv(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x) + x)


class TAESD(nn.Module):
    """The tiny autoencoder. ``channels`` of the latent: 4 as Stable Diffusion and SDXL, 16 as FLUX.1."""

    stride = 8

    def __init__(self, channels: int = 4, width: int = 64):
        super().__init__()
        self.channels = channels
        down: list[nn.Module] = [_conv(3, width), Block(width)]
        up: list[nn.Module] = [_conv(channels, width), ReLU()]
        for _ in range(3):
            down += [_conv(width, width, stride=2, bias=False), Block(width), Block(width), Block(width)]
            up += [Block(width), Block(width), Block(width), nn.Upsample(scale_factor=2)]
            up += [_conv(width, width, bias=False)]
        self.encoder = nn.ModuleDict({"layers": nn.Sequential(*down, _conv(width, channels))})
        self.decoder = nn.ModuleDict({"layers": nn.Sequential(*up, Block(width), _conv(width, 3))})

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to a latent (B, channels, H/8, W/8)."""
        return self.encoder["layers"](images)

    def decode(self, latent: Tensor) -> Tensor:
        """A latent to (B, 3, H, W), about in [0, 1]; numbers beyond 3 are bent back."""
        return self.decoder["layers"](3 * torch.tanh(latent / 3))


class Diffusers(nn.Module):
    """An ``AutoencoderKL`` or ``AutoencoderTiny`` of diffusers, with ``TAESD``'s two methods."""

    def __init__(self, net: Any, stride: int):
        super().__init__()
        self.net, self.stride, self.channels = net, stride, net.config.latent_channels
        self.scale, self.shift = net.config.scaling_factor or 1.0, getattr(net.config, "shift_factor", None) or 0.0

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to the likeliest latent."""
        coded = self.net.encode(images * 2 - 1)
        latent = coded.latent_dist.mode() if hasattr(coded, "latent_dist") else coded.latents
        return (latent - self.shift) * self.scale

    def decode(self, latent: Tensor) -> Tensor:
        """A latent to (B, 3, H, W), about in [0, 1]."""
        return (self.net.decode(latent / self.scale + self.shift).sample + 1) / 2


class VAE(Computing, Continuous):
    """A frozen autoencoder with a latent (B, channels, H/stride, W/stride) that is not snapped to anything."""

    lr = 1.0
    limit = 5.0  # deviations

    def __init__(self, name: str, net: TAESD | Diffusers, side: int, device: torch.device):
        self.name, self.side, self.stride, self.device = name, side, net.stride, device
        self.net = net.to(device).eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        return 1, self.net.channels, size[0] // self.stride, size[1] // self.stride

    def start(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        """A plain light ground with a little noise."""
        noise = 0.1 * torch.randn(self.shape(size), generator=rng)
        return noise.to(self.device) + self.encode(torch.full((1, 3, *size), GROUND, device=self.device))

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1], H and W multiples of ``stride``, to a latent."""
        check_size(self.name, self.stride, (image.shape[-1], image.shape[-2]))
        return self.compute(self.net.encode, image)

    def image(self, latent: Tensor, progress: float = 1.0, rng: Randomness | None = None) -> Tensor:
        """A latent to (B, 3, H, W) in [0, 1]."""
        return clamp(self.compute(self.net.decode, latent))

    def distance(self, latent: Tensor, other: Tensor) -> Tensor:
        """Mean squared difference, in that of two unrelated latents."""
        return (latent - other).square().mean() / 2


def load(name: str, entry: Entry, device: torch.device) -> VAE:
    """TAESD and its sisters; ``entry.config`` may give ``channels``."""
    net = weights.build_net(
        TAESD, entry.config, weights.load_weights(weights.as_safetensors(fetch(entry.files[0])))[0], name
    )
    return VAE(name, net, entry.side, device)


# --- any other, by diffusers --------------------------------------------------------------------------

HUB = "hf-hub:"
_CLASSES = ("AutoencoderKL", "AutoencoderTiny")


@lru_cache
def hub_config(name: str) -> dict[str, Any]:
    """``class`` and ``stride`` of ``hf-hub:org/name`` or ``hf-hub:org/name/folder``.

    Gets no more than its config.json. Raises ClipgenError where diffusers is missing, where there is no such
    autoencoder, and for one of another class.
    """
    if not importlib.util.find_spec("diffusers"):
        raise ClipgenError(f'generator={name!r} is read by diffusers, which is missing; pip install ".[vae]"')
    from huggingface_hub import hf_hub_download

    repo, folder = _parts(name)
    try:
        check_hub(Source(f"hf:{repo}/{f'{folder}/' if folder else ''}config.json"))
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
    """An autoencoder from the hub; its ``entry.config`` is that of ``hub_config``.

    Only safetensors are read, by classes that diffusers itself brings: nothing from the hub is run.
    """
    import diffusers

    repo, folder = _parts(name)
    kind = getattr(diffusers, entry.config["class"])
    try:
        net = kind.from_pretrained(repo, subfolder=folder, use_safetensors=True, low_cpu_mem_usage=False).float()
    except Exception as error:  # diffusers and the hub fail in their own ways
        raise _unreadable(name, error) from error
    return VAE(name, Diffusers(net, entry.config["stride"]), entry.side, device)


def _parts(name: str) -> tuple[str, str | None]:
    """The repository and the folder in it."""
    parts = name.removeprefix(HUB).split("/", 2)
    if len(parts) < 2 or not all(parts):
        raise ClipgenError(f"generator={name!r}: write {HUB}org/name, or {HUB}org/name/folder")
    return "/".join(parts[:2]), parts[2] if len(parts) > 2 else None


def _unreadable(name: str, error: Exception) -> ClipgenError:
    reason = " ".join(str(error).split())[:300]
    return ClipgenError(f"generator={name!r} cannot be loaded ({reason}); check the name, and that it has safetensors")
