"""VQGAN (Esser, Rombach, Ommer 2021), a convolutional autoencoder around a codebook, and its published formats.

Parameter names are those of CompVis' taming-transformers, so that its checkpoints fit as they are.
"""

import inspect
import re
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipgen.errors import ClipgenError
from clipgen.generators import Entry, clamp
from clipgen.generators.codebook import VQBase
from clipgen.precision import CheckpointedBlock, Upsample
from clipgen.storage import remote, weights


class NormSiLU(nn.GroupNorm):
    def forward(self, x: Tensor) -> Tensor:
        return F.silu(super().forward(x))


class BatchNormSiLU(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.silu(super().forward(x))


def norm_silu(channels: int, kind: str) -> nn.Module:
    """Return a group norm as published, or a ``batch`` norm, which is about twice as fast on a CPU."""
    return BatchNormSiLU(channels) if kind == "batch" else NormSiLU(32, channels, eps=1e-6)


class ResnetBlock(CheckpointedBlock):
    """A residual block; in ``maskgit`` (Chang et al. 2022) a shortcut to a new width begins after the convolutions."""

    def __init__(self, in_channels: int, out_channels: int, kind: str):
        super().__init__()
        bias = kind != "maskgit"
        self.norm1, self.norm2 = norm_silu(in_channels, kind), norm_silu(out_channels, kind)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=bias)
        self.nin_shortcut: nn.Module = nn.Identity()
        self.late_shortcut = in_channels != out_channels and kind == "maskgit"
        if in_channels != out_channels:
            in_channels = out_channels if self.late_shortcut else in_channels
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.norm2(self.conv1(self.norm1(x))))
        return self.nin_shortcut(y if self.late_shortcut else x) + y


class AttnBlock(nn.Module):
    """Self-attention over all positions, with one head."""

    def __init__(self, channels: int, kind: str):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(32, channels, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        q, k, v = (layer(y).flatten(2) for layer in (self.q, self.k, self.v))
        scale = q.shape[1] ** -0.5
        scores = q.mul(scale).mT @ k if q.dtype == torch.float16 else q.mT @ k * scale  # fp16 ends at 65,504
        weights = scores.softmax(-1)
        return x + self.proj_out((v @ weights.mT).view_as(x))


class Resample(nn.Module):
    """Upsample by 2 (nearest), or downsample by 2 with a strided convolution, padded right and bottom."""

    def __init__(self, channels: int, up: bool):
        super().__init__()
        self.upsample = Upsample() if up else None
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if up else nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.upsample(x) if self.upsample else F.pad(x, (0, 1, 0, 1)))


def mid_blocks(channels: int, kind: str) -> nn.Sequential:
    """Return the blocks at the lowest resolution."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(block_1=ResnetBlock(channels, channels, kind))
    layers["attn_1"] = AttnBlock(channels, kind) if kind != "maskgit" else nn.Identity()
    layers["block_2"] = ResnetBlock(channels, channels, kind)
    return nn.Sequential(layers)


class Level(nn.Module):
    """Residual blocks at one resolution, each with attention if there is any, then a resampling."""

    def __init__(
        self, in_channels: int, out_channels: int, blocks: int, attention: bool, kind: str, up=False, down=False
    ):
        super().__init__()
        widths = [in_channels, *blocks * [out_channels]]
        self.block = nn.ModuleList(ResnetBlock(*pair, kind) for pair in pairwise(widths))
        self.attn = nn.ModuleList(AttnBlock(out_channels, kind) for _ in range(blocks if attention else 0))
        self.upsample = Resample(out_channels, True) if up else nn.Identity()
        self.downsample = Resample(out_channels, False) if down else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        return self.upsample(self.downsample(x))


class Encoder(nn.Module):
    """Pixels to features. ``widths``: channels of each level, finest first; ``attention``: which levels have it."""

    def __init__(
        self, in_channels: int, widths: Sequence[int], out_channels: int, blocks: int, attention: list[bool], kind: str
    ):
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        last = len(attention) - 1
        self.down = nn.Sequential()
        for i, attends in enumerate(attention):
            self.down.append(Level(widths[i], widths[i + 1], blocks, attends, kind, down=i < last))
        self.mid = mid_blocks(widths[-1], kind)
        self.norm_out = norm_silu(widths[-1], kind)
        self.conv_out = nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.norm_out(self.mid(self.down(self.conv_in(x)))))


class Decoder(nn.Module):
    """Features to pixels; takes the same arguments as ``Encoder``."""

    def __init__(
        self, in_channels: int, widths: Sequence[int], out_channels: int, blocks: int, attention: list[bool], kind: str
    ):
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, widths[-1], 3, padding=1)
        self.mid = mid_blocks(widths[-1], kind)
        self.up = nn.ModuleList(
            Level(widths[i + 1], widths[i], blocks, attends, kind, up=i > 0) for i, attends in enumerate(attention)
        )
        self.norm_out = norm_silu(widths[0], kind)
        self.conv_out = nn.Conv2d(widths[0], out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(self.norm_out(x))


class VQModel(VQBase):
    """Encoder, codebook and decoder.

    Args are those of taming's yaml (``ddconfig`` flattened), and:
        norm_kind: group or batch.
        gumbel: Whether it is a GumbelVQ, whose encoder gives logits over the codes.
        low: Lower end of the networks' range of pixels, [low, 1]; black is ``low``.
    """

    def __init__(
        self,
        n_embed: int,
        embed_dim: int,
        z_channels: int,
        ch: int,
        ch_mult: Sequence[int],
        num_res_blocks: int,
        attn_resolutions: Sequence[int] = (),
        resolution: int = 256,
        in_channels: int = 3,
        out_ch: int = 3,
        norm_kind: str = "group",
        gumbel: bool = False,
        low: float = -1.0,
    ):
        super().__init__()
        self.low, self.has_logits = low, gumbel
        self.stride = 2 ** (len(ch_mult) - 1)
        widths = [ch * multiple for multiple in ch_mult]
        attention = [resolution >> i in attn_resolutions for i in range(len(ch_mult))]
        self.encoder = Encoder(in_channels, [ch, *widths], z_channels, num_res_blocks, attention, norm_kind)
        self.decoder = Decoder(z_channels, [*widths, widths[-1]], out_ch, num_res_blocks + 1, attention, norm_kind)
        if gumbel:  # every code has a logit
            self.quantize = nn.ModuleDict({"proj": nn.Conv2d(z_channels, n_embed, 1)})
            self.quantize["embed"] = nn.Embedding(n_embed, embed_dim)
        else:  # a vector is replaced by the nearest code
            self.quantize = nn.ModuleDict({"embedding": nn.Embedding(n_embed, embed_dim)})
            nn.init.uniform_(self.codebook, -1 / n_embed, 1 / n_embed)
        self.quant_conv = nn.Conv2d(z_channels, embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, z_channels, 1)

    @property
    def codebook(self) -> Tensor:
        """The codes (n_embed, embed_dim)."""
        return self.quantize["embed" if self.has_logits else "embedding"].get_parameter("weight")

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits (B, n_embed, H/stride, W/stride) of (B, 3, H, W); for GumbelVQ only."""
        return self.quantize["proj"](self.quant_conv(self.encoder(self._scaled(images))))

    def encode(self, images: Tensor) -> Tensor:
        """Return the latent (B, embed_dim, H/stride, W/stride) of (B, 3, H, W), not quantised."""
        if self.has_logits:
            return self.lookup(self.logits(images).argmax(1))
        return self.quant_conv(self.encoder(self._scaled(images)))

    def decode(self, latent: Tensor) -> Tensor:
        """Return the images (B, 3, H, W) of a latent."""
        return clamp((self.decoder(self.post_quant_conv(latent)) - self.low) / (1 - self.low))

    def _scaled(self, images: Tensor) -> Tensor:
        return images * (1 - self.low) + self.low


# --- published formats: taming's checkpoints and yaml, and LlamaGen's tokenizer ------------------------

_FIRST_STAGE = "first_stage_model."  # prefix of the VQGAN in a transformer's checkpoint


def load(name: str, entry: Entry, device: torch.device) -> VQModel:
    """Load a VQGAN in taming's format: a published one, or the checkpoint whose path ``name`` is."""
    net = weights.build_empty(VQModel, entry.config)
    names = list(net.state_dict())  # checkpoints hold more, such as a transformer or a discriminator
    tensor_names = names + [_FIRST_STAGE + key for key in names]
    if entry.files:
        tensors = remote.fetch_weights(entry.files[0], tensor_names)
    else:
        tensors, _ = weights.load_weights(weights.as_safetensors(name, tensor_names))
    prefix = _FIRST_STAGE if any(key.startswith(_FIRST_STAGE) for key in tensors) else ""
    weights.assign_weights(net, {key: tensors[prefix + key] for key in names if prefix + key in tensors}, name)
    return net


def load_llamagen(name: str, entry: Entry, device: torch.device) -> VQModel:
    return weights.build_net(VQModel, entry.config, from_llamagen(remote.fetch_weights(entry.files[0])), name)


def config_beside(file: Path) -> dict[str, Any]:
    """Return the arguments of VQModel from the yaml next to a checkpoint."""
    for yaml in (file.with_suffix(".yaml"), file.with_name("model.yaml"), file.with_name("config.yaml")):
        if yaml.is_file():
            return from_yaml(yaml)
    raise ClipgenError(f"{file}: its yaml is needed to know the architecture; put it at {file.with_suffix('.yaml')}")


def from_yaml(file: str | Path) -> dict[str, Any]:
    """Return the arguments of VQModel from taming's yaml of a VQModel, GumbelVQ or Net2NetTransformer."""
    from omegaconf import OmegaConf

    try:
        model: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=True)["model"]  # type: ignore[index,call-overload]
        model = model["params"].get("first_stage_config", model)
        kind, params = model["target"].rsplit(".", 1)[-1], model["params"]
        if kind not in ("VQModel", "GumbelVQ") or params["ddconfig"].get("double_z"):
            raise ClipgenError(f"{file}: a {kind} is not a model that clipgen knows; it takes VQModel and GumbelVQ")
        arguments = inspect.signature(VQModel).parameters
        config = {key: value for key, value in params["ddconfig"].items() if key in arguments}
        config |= {k: params[k] for k in ("n_embed", "embed_dim")} | {"gumbel": kind == "GumbelVQ"}
        weights.build_empty(VQModel, config)  # raises for numbers that fit no network
        return config
    except ClipgenError:
        raise
    except Exception as error:  # yaml, omegaconf and a wrong structure fail in many ways
        raise ClipgenError(f"{file}: this yaml does not describe a VQGAN ({error}); get the publisher's") from error


_LLAMAGEN_RENAMES = [
    (r"\.res\.", ".block."),
    (r"\.mid\.0\.", ".mid.block_1."),
    (r"\.mid\.1\.", ".mid.attn_1."),
    (r"\.mid\.2\.", ".mid.block_2."),
    (r"^encoder\.conv_blocks", "encoder.down"),
]


def from_llamagen(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of LlamaGen's tokenizer (Sun et al. 2024), a VQGAN with codes of length one."""
    last = max(int(key.split(".")[2]) for key in tensors if key.startswith("decoder.conv_blocks."))
    renamed = {}
    for key, value in tensors.items():
        if key.startswith("decoder.conv_blocks."):  # counted from the other end
            _, _, level, rest = key.split(".", 3)
            key = f"decoder.up.{last - int(level)}.{rest}"
        for pattern, name in _LLAMAGEN_RENAMES:
            key = re.sub(pattern, name, key)
        renamed[key] = value
    renamed.pop("quantize.codebook_used", None)  # a training statistic
    # The nearest code by angle is the nearest by distance once all codes have the same length.
    renamed["quantize.embedding.weight"] = F.normalize(renamed["quantize.embedding.weight"].float(), dim=-1)
    return renamed
