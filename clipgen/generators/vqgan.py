"""VQGAN (Esser, Rombach, Ommer 2021): a convolutional autoencoder around a codebook.

The parameter names are those of CompVis' taming-transformers, so that its checkpoints fit as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from clipgen.fast.frozen import Conv2d, norm_silu
from clipgen.generators.codes import Codes, clamp
from clipgen.precision import Block


def norm(channels: int, kind: str) -> nn.Module:
    """``group`` as published; ``batch`` trains and runs about twice as fast on CPU."""
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(32, channels, eps=1e-6)


class ResnetBlock(Block):
    def __init__(self, inner: int, outer: int, kind: str):
        super().__init__()
        self.norm1, self.conv1 = norm(inner, kind), Conv2d(inner, outer, 3, 1, 1)
        self.norm2, self.conv2 = norm(outer, kind), Conv2d(outer, outer, 3, 1, 1)
        self.nin_shortcut = Conv2d(inner, outer, 1) if inner != outer else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(norm_silu(self.norm1, x))
        return self.nin_shortcut(x) + self.conv2(norm_silu(self.norm2, y))


class AttnBlock(nn.Module):
    """Every position attends to every other, in one head."""

    def __init__(self, channels: int, kind: str):
        super().__init__()
        self.norm = norm(channels, kind)
        self.q, self.k, self.v, self.proj_out = (Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        q, k, v = (f(y).flatten(2) for f in (self.q, self.k, self.v))
        weights = (q.mT @ k * q.shape[1] ** -0.5).softmax(-1)
        return x + self.proj_out((v @ weights.mT).view_as(x))


class Resample(nn.Module):
    """Twice or half the size: nearest neighbour, or a stride with the padding to the right and below."""

    def __init__(self, channels: int, up: bool):
        super().__init__()
        self.up = up
        self.conv = Conv2d(channels, channels, 3, 1 if up else 2, 1 if up else 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0) if self.up else F.pad(x, (0, 1, 0, 1)))


class _Mid(nn.Module):
    def __init__(self, channels: int, kind: str):
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, kind)
        self.attn_1 = AttnBlock(channels, kind)
        self.block_2 = ResnetBlock(channels, channels, kind)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class _Level(nn.Module):
    """Residual blocks at one resolution, with attention where asked for, then a resampling."""

    def __init__(self, inner: int, outer: int, blocks: int, attention: bool, resample: str | None, kind: str):
        super().__init__()
        self.block = nn.ModuleList(ResnetBlock(inner if i == 0 else outer, outer, kind) for i in range(blocks))
        self.attn = nn.ModuleList(AttnBlock(outer, kind) for _ in range(blocks if attention else 0))
        if resample:
            setattr(self, resample, Resample(outer, resample == "upsample"))
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        return getattr(self, self.resample)(x) if self.resample else x


class Encoder(nn.Module):
    def __init__(
        self,
        ch: int,
        ch_mult: Sequence[int],
        num_res_blocks: int,
        attn_resolutions: Sequence[int],
        resolution: int,
        in_channels: int,
        z_channels: int,
        norm_kind: str,
    ):
        super().__init__()
        widths = [ch, *(ch * m for m in ch_mult)]
        self.conv_in = Conv2d(in_channels, ch, 3, 1, 1)
        last = len(ch_mult) - 1
        self.down = nn.ModuleList(
            _Level(
                widths[i],
                widths[i + 1],
                num_res_blocks,
                resolution >> i in attn_resolutions,
                "downsample" if i < last else None,
                norm_kind,
            )
            for i in range(len(ch_mult))
        )
        self.mid = _Mid(widths[-1], norm_kind)
        self.norm_out = norm(widths[-1], norm_kind)
        self.conv_out = Conv2d(widths[-1], z_channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(norm_silu(self.norm_out, self.mid(x)))


class Decoder(nn.Module):
    def __init__(
        self,
        ch: int,
        ch_mult: Sequence[int],
        num_res_blocks: int,
        attn_resolutions: Sequence[int],
        resolution: int,
        out_ch: int,
        z_channels: int,
        norm_kind: str,
    ):
        super().__init__()
        widths = [*(ch * m for m in ch_mult), ch * ch_mult[-1]]
        self.conv_in = Conv2d(z_channels, widths[-1], 3, 1, 1)
        self.mid = _Mid(widths[-1], norm_kind)
        self.up = nn.ModuleList(
            _Level(
                widths[i + 1],
                widths[i],
                num_res_blocks + 1,
                resolution >> i in attn_resolutions,
                "upsample" if i else None,
                norm_kind,
            )
            for i in range(len(ch_mult))
        )
        self.norm_out = norm(widths[0], norm_kind)
        self.conv_out = Conv2d(widths[0], out_ch, 3, 1, 1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(norm_silu(self.norm_out, x))


class _Nearest(nn.Module):
    """A latent vector stands for the code nearest to it."""

    def __init__(self, size: int, dim: int):
        super().__init__()
        self.embedding = nn.Embedding(size, dim)
        nn.init.uniform_(self.embedding.weight, -1 / size, 1 / size)


class _Gumbel(nn.Module):
    """A projection gives every code a logit."""

    def __init__(self, size: int, dim: int, channels: int):
        super().__init__()
        self.proj = Conv2d(channels, size, 1)
        self.embed = nn.Embedding(size, dim)


class VQModel(Codes):
    """Encoder, codebook and decoder. The nets see pixels in [``low``, 1], everybody else in [0, 1].

    The arguments are those of taming's yaml (``ddconfig`` flattened), ``norm_kind`` and ``low``; ``gumbel`` for its
    GumbelVQ, whose encoder gives logits over the codes.
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
        self.low = low
        self.stride = 2 ** (len(ch_mult) - 1)
        shared = ch, ch_mult, num_res_blocks, attn_resolutions, resolution
        self.encoder = Encoder(*shared, in_channels, z_channels, norm_kind)
        self.decoder = Decoder(*shared, out_ch, z_channels, norm_kind)
        self.quantize = _Gumbel(n_embed, embed_dim, z_channels) if gumbel else _Nearest(n_embed, embed_dim)
        self.quant_conv = Conv2d(z_channels, embed_dim, 1)
        self.post_quant_conv = Conv2d(embed_dim, z_channels, 1)

    @property
    def codebook(self) -> Tensor:
        """(n_embed, embed_dim)"""
        q = self.quantize
        return q.embed.weight if isinstance(q, _Gumbel) else q.embedding.weight

    @property
    def has_logits(self) -> bool:
        return isinstance(self.quantize, _Gumbel)

    @property
    def decoding(self) -> nn.Module:
        return self.decoder

    def logits(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to (B, n_embed, H/f, W/f); for GumbelVQ only."""
        assert isinstance(self.quantize, _Gumbel)
        return self.quantize.proj(self.quant_conv(self.encoder(self._scaled(images))))

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to a latent (B, embed_dim, H/f, W/f) whose nearest codes are the tokens."""
        if self.has_logits:
            return self.lookup(self.logits(images).argmax(1))
        return self.quant_conv(self.encoder(self._scaled(images)))

    def decode(self, latent: Tensor) -> Tensor:
        """(B, embed_dim, h, w) to images (B, 3, h·f, w·f) in [0, 1]."""
        return clamp((self.decoder(self.post_quant_conv(latent)) - self.low) / (1 - self.low))

    def _scaled(self, images: Tensor) -> Tensor:
        return images * (1 - self.low) + self.low
