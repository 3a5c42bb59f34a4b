"""Continuous autoencoders of diffusion models: TAESD's family, and any other by diffusers.

Latents are scaled as diffusion models see them, to a standard deviation of about 1. Parameter names of TAESD, TAESDXL,
TAESD3 and TAEF1 (Ollin Boer Bohan 2023, 2024; MIT) are those of diffusers' ``AutoencoderTiny``, as they are published
in ``madebyollin/taesd``, ``/taesdxl``, ``/taesd3`` and ``/taef1``; TAEF2 has the same ones, and TAESANA's are renamed.
"""

import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clipgen import fast
from clipgen.errors import ClipgenError
from clipgen.generators import PIPELINE, Entry, Generator, Randomness, check_size, clamp
from clipgen.precision import MixedPrecision, Upsample
from clipgen.storage import weights
from clipgen.storage.download import check_hub
from clipgen.storage.remote import fetch_weights

WIDTH = 64  # channels of TAESD
_conv = partial(nn.Conv2d, kernel_size=3, padding=1)


class Block(nn.Module):
    """Three convolutions with a skip connection; with ``norm`` after a group norm, which sees the whole picture."""

    def __init__(self, width: int = WIDTH, norm: bool = False):
        super().__init__()
        self.conv = nn.Sequential(_conv(width, width), nn.ReLU(), _conv(width, width), nn.ReLU(), _conv(width, width))
        if norm:
            inner, pointwise = 4 * width, partial(nn.Conv2d, kernel_size=1, bias=False)
            self.pool = nn.Sequential(
                pointwise(width, inner), nn.GroupNorm(4, inner), nn.ReLU(), pointwise(inner, width)
            )
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pool(x) if self.norm else x
        return torch.relu(self.conv(x) + x)


class TAESD(nn.Module):
    """The tiny autoencoder.

    Args:
        channels: Of latents: 4 for Stable Diffusion and SDXL, 16 for SD3 and FLUX.1, 32 for FLUX.2 and Sana.
        widths: Channels of the decoder's levels, coarsest first; six have a stride of 32 instead of 8.
        norms: Whether the blocks beside the latent have norms.
    """

    def __init__(self, channels: int = 4, widths: Sequence[int] = 4 * (WIDTH,), norms: bool = False):
        super().__init__()
        self.channels, self.stride = channels, 2 ** (len(widths) - 1)
        down: list[nn.Module] = [_conv(3, WIDTH)]
        if self.stride == 32:
            down = [_conv(3, 32, stride=2), nn.ReLU(), _conv(32, WIDTH, stride=2), nn.ReLU()]
        up: list[nn.Module] = [_conv(channels, widths[0]), nn.ReLU()]
        down.append(Block())
        for level in range(3):
            down += [_conv(WIDTH, WIDTH, stride=2, bias=False)]
            down += [Block(norm=norms and level == 2) for _ in range(3)]
        for level, (width, next_width) in enumerate(pairwise(widths)):
            up += [Block(width, norms and level == 0) for _ in range(3)]
            up += [Upsample(), _conv(width, next_width, bias=False)]
        self.encoder = nn.ModuleDict({"layers": nn.Sequential(*down, _conv(WIDTH, channels))})
        self.decoder = nn.ModuleDict({"layers": nn.Sequential(*up, Block(), _conv(WIDTH, 3))})

    def encode(self, images: Tensor) -> Tensor:
        """Return the latent (B, channels, H/stride, W/stride) of (B, 3, H, W)."""
        return self.encoder["layers"](images)

    def decode(self, latent: Tensor) -> Tensor:
        """Return the images (B, 3, H, W) of a latent, about in [0, 1]. Latents saturate at 3, as in training."""
        return self.decoder["layers"](3 * torch.tanh(latent / 3))


class Diffusers(nn.Module):
    """An autoencoder of diffusers, with the methods of ``TAESD``."""

    def __init__(self, net: Any):
        super().__init__()
        self.net, config = net, net.config
        self.stride, self.channels = _stride(config), config.get("vq_embed_dim") or config.latent_channels
        self.scale, self.shift = config.scaling_factor or 1.0, config.get("shift_factor") or 0.0

    @property
    def decoder(self) -> nn.Module:
        return self.net.decoder

    def encode(self, images: Tensor) -> Tensor:
        """Return the latent of images (B, 3, H, W); of a posterior its mode."""
        (output,) = self.net.encode(images * 2 - 1, return_dict=False)
        latent = output if isinstance(output, Tensor) else output.mode()
        return (latent - self.shift) * self.scale

    def decode(self, latent: Tensor) -> Tensor:
        """Return the images (B, 3, H, W) of a latent, about in [0, 1]."""
        return (self.net.decode(latent / self.scale + self.shift).sample + 1) / 2


class VAE(MixedPrecision, Generator):
    """A frozen autoencoder with a continuous latent (B, channels, H/stride, W/stride)."""

    lr = 1.0
    spread = 0.1
    limit = 5.0  # standard deviations

    def __init__(self, name: str, net: TAESD | Diffusers, native_size: int, device: torch.device):
        self.name, self.native_size, self.stride, self.device = name, native_size, net.stride, device
        self.net = fast.optimize_for(net.to(device).eval().requires_grad_(False), device)

    def set_precision(self, precision: str) -> None:
        super().set_precision(precision)
        self.cast_weights(self.net)

    def enable_checkpointing(self) -> bool:
        modules: list[Any] = [*self.net.modules()]
        parts = [part for part in modules if getattr(part, "_supports_gradient_checkpointing", False)]
        changed = not all(part.is_gradient_checkpointing for part in parts)
        for part in parts:
            part.enable_gradient_checkpointing()
        return changed

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        return 1, self.net.channels, size[0] // self.stride, size[1] // self.stride

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """Return the latent of (B, 3, H, W); H and W are multiples of ``stride``."""
        check_size(self.name, self, (image.shape[-1], image.shape[-2]))
        return self.compute(self.net.encode, image)

    def image(self, latent: Tensor, progress: float = 1.0, rng: Randomness | None = None) -> Tensor:
        return clamp(self.compute(self.net.decode, latent))

    def distance(self, latent: Tensor, other: Tensor) -> Tensor:
        """Return half the mean squared difference, about 1 for latents with a standard deviation of 1."""
        return (latent - other).square().mean() / 2


def load(name: str, entry: Entry, device: torch.device) -> VAE:
    """Load one of TAESD's family; ``entry.config`` has the arguments of ``TAESD``."""
    tensors = dict[str, Tensor]()
    for half, file in zip(("encoder", "decoder"), entry.files):
        for key, value in fetch_weights(file).items():
            if key[0].isdigit():  # a half in a file of its own, where a clamp is the decoder's first layer
                layer, _, rest = key.partition(".")
                key = f"{half}.layers.{int(layer) - (half == 'decoder')}.{rest}"
            tensors[key] = value
    return VAE(name, weights.build_net(TAESD, entry.config, tensors, name), entry.native_size, device)


# --- any other, by diffusers --------------------------------------------------------------------------

_CLASSES = ("AutoencoderKL", "AutoencoderTiny", "AutoencoderDC", "VQModel", PIPELINE)


@lru_cache  # errors are not cached: the hub may be reached the next time
def hub_config(name: str) -> dict[str, Any]:
    """Return ``class``, ``repo``, ``folder`` and ``stride`` of ``hf-hub:org/name[/folder]``, from its config alone."""
    if not importlib.util.find_spec("diffusers"):
        raise ClipgenError(f'generator={name!r} is read by diffusers, which is missing; pip install ".[vae]"')
    from huggingface_hub import hf_hub_download

    if not (match := re.fullmatch("hf-hub:([^/]+/[^/]+)(?:/(.+))?", name)):
        raise ClipgenError(f"generator={name!r}: write hf-hub:org/name, or hf-hub:org/name/folder")
    repo, folder = match.groups()
    for file in [f"{folder}/config.json"] if folder else ["model_index.json", "config.json"]:
        try:
            check_hub(repo, file)
            config = json.loads(Path(hf_hub_download(repo, file)).read_text("utf-8"))
            break
        except Exception as error:  # the hub's errors differ between its versions
            reason = error
    else:
        raise _unreadable(name, reason) from reason
    kind = config.get("_class_name", "of an unknown class")
    if kind not in _CLASSES:
        raise ClipgenError(
            f"generator={name!r} is {kind}; clipgen takes {', '.join(_CLASSES)} made for one step "
            f"(the autoencoder of any other pipeline is mostly in its folder vae: hf-hub:org/name/vae)"
        )
    if kind != PIPELINE and not any(config.get(f"{half}block_out_channels") for half in ("", "encoder_")):
        raise ClipgenError(f"generator={name!r}: its config.json has no block_out_channels; choose another model")
    return {"class": kind, "repo": repo, "folder": folder, "stride": 8 if kind == PIPELINE else _stride(config)}


def _stride(config: Mapping[str, Any]) -> int:
    return 2 ** (len(config.get("block_out_channels") or config["encoder_block_out_channels"]) - 1)


def load_diffusers(name: str, config: Mapping[str, Any], **options: Any) -> Any:
    """Return a model or a pipeline of diffusers; ``config`` is what ``hub_config`` returned."""
    try:  # only safetensors are read, by diffusers' own classes: no code from the hub is run
        kind = getattr(importlib.import_module("diffusers"), config["class"])
        return kind.from_pretrained(config["repo"], use_safetensors=True, low_cpu_mem_usage=False, **options)
    except ImportError as error:
        raise ClipgenError(f'generator={name!r} needs diffusers, transformers; pip install ".[diffusion]"') from error
    except Exception as error:  # diffusers and the hub fail in their own ways
        raise _unreadable(name, error) from error


def load_hub(name: str, entry: Entry, device: torch.device) -> VAE:
    """Load an autoencoder from the hub."""
    net = load_diffusers(name, entry.config, subfolder=entry.config["folder"])
    return VAE(name, Diffusers(net.float()), entry.native_size, device)


def _unreadable(name: str, error: Exception) -> ClipgenError:
    reason = " ".join(str(error).split())[:300]
    return ClipgenError(f"generator={name!r} cannot be loaded ({reason}); check the name, and that it has safetensors")
