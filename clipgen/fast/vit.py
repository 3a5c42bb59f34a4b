"""Layers of open_clip's ViTs as torch computes them fastest, with the same weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MAX_WRITTEN_OUT = 256  # positions; with more of them the attention weights would take much more memory than x


class SelfAttention(nn.MultiheadAttention):
    """Self-attention by one projection and torch's fused kernel.

    On a CPU in bf16 ``nn.MultiheadAttention`` spends more than half of its time in copies, and the backward pass of the
    fused kernel takes 3 to 5 times as long as that of the two products written out.
    """

    def forward(self, x: Tensor, *_: Tensor, attn_mask: Tensor | None = None, **__) -> tuple[Tensor, None]:  # type: ignore[override]
        """Return (B, N, width), and no attention weights; keys and values are x, as open_clip calls it."""
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.transpose(1, 3).unbind(2)
        written_out = x.device.type == "cpu" and q.dtype == torch.bfloat16 and attn_mask is None
        if written_out and x.shape[1] <= MAX_WRITTEN_OUT:
            mixed = (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), None


class PatchEmbedding(nn.Conv2d):
    """A convolution whose stride is its width, as a product with each patch.

    On a CPU in bf16 the convolution's backward pass takes 15 times as long.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, width, H/side, W/side) of (B, 3, H, W)."""
        side = self.weight.shape[-1]
        rows, columns = (n // side for n in images.shape[-2:])
        cropped = images[..., : rows * side, : columns * side]
        patches = cropped.unflatten(2, (rows, side)).unflatten(4, (columns, side))
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        return F.linear(patches, self.weight.flatten(1), self.bias).mT.unflatten(2, (rows, columns))


def improve_patches(visual: Any, device: torch.device) -> None:
    if visual.conv1.stride == visual.conv1.kernel_size:
        visual.conv1.__class__ = PatchEmbedding


def improve_attention(block: Any, device: torch.device) -> None:
    attention = block.attn
    self_attends = type(attention) is nn.MultiheadAttention and not hasattr(block, "ln_1_kv")
    if self_attends and attention.batch_first and attention.in_proj_bias is not None:
        attention.__class__ = SelfAttention
