"""Layers of a ViT as torch computes them fastest, with the weights of the modules that open_clip has."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipgen.precision import Product

SHORT = 256  # places; of more the weights would take much more memory than what they are made of


class SelfAttention(Product):
    """What ``nn.MultiheadAttention`` makes of (B, N, width), by one projection and torch's fused kernel.

    On a CPU in bf16 the module itself spends more than half of its time in copies, and the fused kernel's backward pass
    takes 3 to 5 times as long as that of the two products written out.
    """

    def __init__(self, attention: nn.MultiheadAttention):
        super().__init__()
        self.heads = attention.num_heads
        self.in_proj_weight, self.in_proj_bias = attention.in_proj_weight, attention.in_proj_bias
        self.out_proj = attention.out_proj

    def forward(self, x: Tensor, *_: Tensor, attn_mask: Tensor | None = None, **__) -> tuple[Tensor, None]:
        """As open_clip calls it, with itself for keys and values; the weights are not given."""
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.transpose(1, 3).unbind(2)
        if x.device.type == "cpu" and q.dtype == torch.bfloat16 and attn_mask is None and x.shape[1] <= SHORT:
            mixed = (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), None


class PatchEmbedding(Product):
    """What a convolution whose stride is its width makes of (B, 3, H, W): a product, of every patch alone.

    On a CPU in bf16 the convolution's backward pass takes 15 times as long.
    """

    def __init__(self, convolution: nn.Conv2d):
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, width, H/side, W/side)."""
        side = self.weight.shape[-1]
        high, wide = (n // side for n in images.shape[-2:])
        cut = images[..., : high * side, : wide * side].unflatten(2, (high, side)).unflatten(4, (wide, side))
        rows = cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        return F.linear(rows, self.weight.flatten(1), self.bias).mT.unflatten(2, (high, wide))


def fuse(visual: nn.Module) -> None:
    """Replace a tower's cutting into patches, and the attention in all blocks that attend to themselves."""
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

    if isinstance(visual, VisionTransformer) and visual.conv1.stride == visual.conv1.kernel_size:
        visual.conv1 = PatchEmbedding(visual.conv1)
    for block in visual.modules():
        if not isinstance(block, ResidualAttentionBlock) or hasattr(block, "ln_1_kv"):
            continue
        had = block.attn
        if type(had) is nn.MultiheadAttention and had.batch_first and had.in_proj_bias is not None:
            block.attn = SelfAttention(had)
