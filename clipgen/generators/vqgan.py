"""VQGAN (Esser, Rombach, Ommer 2021): a convolutional autoencoder around a codebook.

Parameter names are those of CompVis' taming-transformers, so that its checkpoints fit as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from clipgen.generators.base import clamp
from clipgen.generators.codebook import VQBase
from clipgen.precision import CheckpointedBlock


class NormSiLU(nn.GroupNorm):
    def forward(self, x: Tensor) -> Tensor:
        return F.silu(super().forward(x))


class BatchNormSiLU(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.silu(super().forward(x))


def norm_silu(channels: int, kind: str) -> nn.Module:
    """Return a ``group`` norm as published, or a ``batch`` norm, which is about twice as fast on a CPU."""
    return BatchNormSiLU(channels) if kind == "batch" else NormSiLU(32, channels, eps=1e-6)


class ResnetBlock(CheckpointedBlock):
    def __init__(self, inner: int, outer: int, kind: str):
        super().__init__()
        self.norm1, self.conv1 = norm_silu(inner, kind), nn.Conv2d(inner, outer, 3, padding=1)
        self.norm2, self.conv2 = norm_silu(outer, kind), nn.Conv2d(outer, outer, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(inner, outer, 1) if inner != outer else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.nin_shortcut(x) + self.conv2(self.norm2(self.conv1(self.norm1(x))))


class AttnBlock(nn.Module):
    """Self-attention over all positions, with one head."""

    def __init__(self, channels: int, kind: str):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(32, channels, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        q, k, v = (layer(y).flatten(2) for layer in (self.q, self.k, self.v))
        weights = (q.mT @ k * q.shape[1] ** -0.5).softmax(-1)
        return x + self.proj_out((v @ weights.mT).view_as(x))


class Resample(nn.Module):
    """Double the size by nearest neighbours, or halve it by a stride, padded to the right and below."""

    def __init__(self, channels: int, up: bool):
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if up else nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0) if self.up else F.pad(x, (0, 1, 0, 1)))


class Mid(nn.Module):
    def __init__(self, channels: int, kind: str):
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, kind)
        self.attn_1 = AttnBlock(channels, kind)
        self.block_2 = ResnetBlock(channels, channels, kind)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Level(nn.Module):
    """Residual blocks at one resolution, each with attention if there is any, then a resampling."""

    def __init__(
        self, inner: int, outer: int, blocks: int, attention: bool, kind: str, up: bool = False, down: bool = False
    ):
        super().__init__()
        self.block = nn.ModuleList(ResnetBlock(inner if i == 0 else outer, outer, kind) for i in range(blocks))
        self.attn = nn.ModuleList(AttnBlock(outer, kind) for _ in range(blocks if attention else 0))
        self.upsample = Resample(outer, True) if up else nn.Identity()
        self.downsample = Resample(outer, False) if down else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        return self.upsample(self.downsample(x))


class Encoder(nn.Module):
    """Pixels to features. ``widths``: channels of each level, finest first; ``attention``: which levels have it."""

    def __init__(
        self, pixels: int, widths: Sequence[int], features: int, blocks: int, attention: Sequence[bool], kind: str
    ):
        super().__init__()
        self.conv_in = nn.Conv2d(pixels, widths[0], 3, padding=1)
        last = len(attention) - 1
        self.down = nn.ModuleList(
            Level(widths[i], widths[i + 1], blocks, attends, kind, down=i < last) for i, attends in enumerate(attention)
        )
        self.mid = Mid(widths[-1], kind)
        self.norm_out = norm_silu(widths[-1], kind)
        self.conv_out = nn.Conv2d(widths[-1], features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(self.norm_out(self.mid(x)))


class Decoder(nn.Module):
    """Features to pixels; arguments as of ``Encoder``."""

    def __init__(
        self, features: int, widths: Sequence[int], pixels: int, blocks: int, attention: Sequence[bool], kind: str
    ):
        super().__init__()
        self.conv_in = nn.Conv2d(features, widths[-1], 3, padding=1)
        self.mid = Mid(widths[-1], kind)
        self.up = nn.ModuleList(
            Level(widths[i + 1], widths[i], blocks, attends, kind, up=i > 0) for i, attends in enumerate(attention)
        )
        self.norm_out = norm_silu(widths[0], kind)
        self.conv_out = nn.Conv2d(widths[0], pixels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(self.norm_out(x))


class NearestQuantizer(nn.Module):
    """A codebook in which a vector is replaced by the nearest code."""

    def __init__(self, size: int, dim: int):
        super().__init__()
        self.embedding = nn.Embedding(size, dim)
        nn.init.uniform_(self.embedding.weight, -1 / size, 1 / size)


class GumbelQuantizer(nn.Module):
    """A codebook with a projection that gives every code a logit."""

    def __init__(self, size: int, dim: int, channels: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, size, 1)
        self.embed = nn.Embedding(size, dim)


class VQModel(VQBase):
    """Encoder, codebook and decoder.

    Args are those of taming's yaml (``ddconfig`` flattened), and:
        norm_kind: group, or batch.
        gumbel: Whether it is a GumbelVQ, whose encoder gives logits over the codes.
        low: What black is to the nets, whose pixels are in [low, 1].
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
        self.quantize = (
            GumbelQuantizer(n_embed, embed_dim, z_channels) if gumbel else NearestQuantizer(n_embed, embed_dim)
        )
        self.quant_conv = nn.Conv2d(z_channels, embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, z_channels, 1)

    @property
    def codebook(self) -> Tensor:
        """The codes (n_embed, embed_dim)."""
        q = self.quantize
        return q.embed.weight if isinstance(q, GumbelQuantizer) else q.embedding.weight

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits (B, n_embed, H/stride, W/stride) of (B, 3, H, W); for GumbelVQ only."""
        assert isinstance(self.quantize, GumbelQuantizer)
        return self.quantize.proj(self.quant_conv(self.encoder(self._scaled(images))))

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
