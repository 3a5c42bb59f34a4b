"""Layers of frozen networks, faster than torch's or with less kept for the backward pass; same weights and numbers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input
from torch.nn.utils.fusion import fuse_conv_bn_eval

MAX_WRITTEN_OUT = 256  # positions; with more of them the attention weights would take much more memory than x
MIN_PIXELS_TO_FLIP = 2**14  # below it flipping the weights costs much beside the convolution


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(weight)
        ctx.shape, ctx.dtype, ctx.layout, ctx.geometry = x.shape, x.dtype, _layout(x), (stride, padding)
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        weight, (stride, padding) = ctx.saved_tensors[0].to(gradient.dtype), ctx.geometry
        margin = weight.shape[-1] - 1 - padding
        large = gradient.shape[2:].numel() >= MIN_PIXELS_TO_FLIP
        if gradient.device.type == "cpu" and stride == 1 and margin >= 0 and large:
            # The same sums as below, in a half to nine tenths of the time.
            gradient = gradient.contiguous(memory_format=ctx.layout)
            gradient = F.conv2d(gradient, weight.transpose(0, 1).flip(2, 3), padding=margin)
        else:
            gradient = conv2d_input(ctx.shape, weight, gradient, stride, padding)
        return gradient.to(ctx.dtype), None, None, None, None


class FrozenConv2d(nn.Conv2d):
    """A square convolution that does not keep its input, which only the gradient of the weights would need."""

    def forward(self, x: Tensor) -> Tensor:
        if self.padding_mode != "zeros" or self.weight.requires_grad or not x.requires_grad:
            return super().forward(x)
        return _Convolution.apply(x, self.weight, self.bias, self.stride[0], int(self.padding[0]))


_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class _ReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        y = x.relu()
        ctx.save_for_backward(y.bool())  # on a CPU in a quarter of the time of ``y > 0``
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (positive,) = ctx.saved_tensors
        if gradient.device.type == "cuda":
            return torch.where(positive, gradient, 0)
        # As integers, 0 times infinity is also 0; torch.where takes a CPU more than twice as long.
        bits = _BITS[gradient.element_size()]
        return positive.to(bits).mul_(gradient.view(bits)).view(gradient.dtype)


class MaskReLU(nn.ReLU):
    """A ReLU that saves a boolean mask for the backward pass instead of its output."""

    def forward(self, x: Tensor) -> Tensor:
        return _ReLU.apply(x) if x.requires_grad else x.relu()


# Of a norm that is differentiated here: torch's own backward pass then takes at least twice as long on a CPU in bf16.
MAX_CHANNELS_PER_GROUP = 8


class _NormSiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:  # type: ignore[override]
        batch, channels, pixels = *x.shape[:2], x.shape[2:].numel()
        normed, mean, scale = torch.native_group_norm(x, weight, bias, batch, channels, pixels, groups, eps)
        ctx.save_for_backward(x, weight, bias, mean, scale)
        return F.silu(normed)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, bias, mean, scale = ctx.saved_tensors
        (batch, channels), pixels, groups = x.shape[:2], x.shape[2:].numel(), mean.shape[1]
        size, dtype = channels // groups, torch.promote_types(x.dtype, torch.float32)

        def per_channel(numbers: Tensor) -> Tensor:
            """Repeat numbers of groups (B, G) for each of their channels (B, C)."""
            return numbers.to(dtype).repeat_interleave(size, 1)

        def per_pixel(numbers: Tensor) -> Tensor:
            """Return (B, C) as (B, C, 1, 1) in the type of ``x``."""
            return numbers.to(x.dtype)[:, :, None, None]

        factor = per_channel(scale) * weight
        normed = torch.addcmul(per_pixel(bias - per_channel(mean) * factor), x, per_pixel(factor))
        gradient = torch.ops.aten.silu_backward(gradient, normed).contiguous(memory_format=_layout(x))
        if size > MAX_CHANNELS_PER_GROUP or x.dtype != torch.bfloat16:
            shape = batch, channels, pixels, groups, [True, False, False]
            return torch.ops.aten.native_group_norm_backward(gradient, x, mean, scale, weight, *shape)[0], *[None] * 4

        def group_mean(sums: Tensor) -> Tensor:
            """Average over groups what is summed over pixels (B, C)."""
            return per_channel(sums.unflatten(1, (groups, size)).sum(2) / (size * pixels))

        # Subtract from the gradient its mean and its projection on the normalised input, then scale.
        total, product = (part.sum((2, 3)).to(dtype) for part in (gradient, gradient * normed))
        slope = -per_channel(scale).square() * group_mean(product - bias * total)
        offset = -slope * per_channel(mean) - per_channel(scale) * group_mean(weight * total)
        rest = torch.addcmul(per_pixel(offset), x, per_pixel(slope))
        return torch.addcmul(rest, gradient, per_pixel(factor)), *[None] * 4


class FrozenNormSiLU(nn.GroupNorm):
    """``silu(group_norm(x))`` that keeps x alone, and computes the rest again in the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.requires_grad or not x.requires_grad:
            return F.silu(super().forward(x))
        x = x.contiguous(memory_format=_layout(x))
        return _NormSiLU.apply(x, self.weight, self.bias, self.num_groups, self.eps)


# --- norms on a GPU, which autocast would compute in fp32, with a cast before and one after -----------------


class HalfGroupNorm(nn.GroupNorm):
    """A group norm in the precision of its input; its kernel computes means and variances in fp32."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        batch, channels, pixels = x.shape[0], x.shape[1], x.shape[2:].numel()
        return torch.native_group_norm(x, weight, bias, batch, channels, pixels, self.num_groups, self.eps)[0]


class HalfNormSiLU(HalfGroupNorm):
    """The same with a SiLU after it."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(super().forward(x))


class HalfLayerNorm(nn.LayerNorm):
    """A layer norm in the precision of its input; its kernel computes means and variances in fp32."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
            return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


# --- open_clip's ViTs as torch computes them fastest ---------------------------------------------------


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


def _layout(x: Tensor) -> torch.memory_format:
    last = torch.channels_last
    return last if x.is_contiguous(memory_format=last) else torch.contiguous_format


# --- which layer of a network becomes which ---------------------------------------------------------------


def _improve_conv(layer: nn.Conv2d, device: torch.device) -> None:
    square = len({*layer.stride}) == 1 and len({*layer.kernel_size}) == 1 and len({*layer.padding}) == 1
    if square and not isinstance(layer.padding, str) and layer.groups == 1 and layer.dilation == (1, 1):
        layer.__class__ = FrozenConv2d


def _improve_relu(layer: nn.ReLU, device: torch.device) -> None:
    if not layer.inplace:
        layer.__class__ = MaskReLU


def _improve_norm(layer: nn.GroupNorm, device: torch.device) -> None:
    if device.type == "cpu":
        layer.__class__ = FrozenNormSiLU
    elif device.type == "cuda":
        layer.__class__ = HalfNormSiLU


def _improve_group_norm(layer: nn.GroupNorm, device: torch.device) -> None:
    if device.type == "cuda" and layer.affine:
        layer.__class__ = HalfGroupNorm


def _improve_layer_norm(layer: nn.LayerNorm, device: torch.device) -> None:
    if device.type == "cuda" and layer.bias is not None:
        layer.__class__ = HalfLayerNorm


def _fold_norms(block: Any, device: torch.device) -> None:
    """Fold batch norms into the convolutions before them."""
    for i in ("1", "2"):
        conv, norm = getattr(block, f"conv{i}"), getattr(block, f"norm{i}")
        if isinstance(norm, nn.BatchNorm2d):
            setattr(block, f"conv{i}", fuse_conv_bn_eval(conv, norm))
            setattr(block, f"norm{i}", nn.Identity())


def _improve_patches(visual: Any, device: torch.device) -> None:
    if visual.conv1.stride == visual.conv1.kernel_size:
        visual.conv1.__class__ = PatchEmbedding


def _improve_attention(block: Any, device: torch.device) -> None:
    attention = block.attn
    self_attends = type(attention) is nn.MultiheadAttention and not hasattr(block, "ln_1_kv")
    if self_attends and attention.batch_first and attention.in_proj_bias is not None:
        attention.__class__ = SelfAttention


# The full name of a layer's class, and what improves such a layer in place.
LEANER_LAYERS: dict[str, Callable[[Any, torch.device], None]] = {
    "torch.nn.modules.conv.Conv2d": _improve_conv,
    "torch.nn.modules.activation.ReLU": _improve_relu,
    "torch.nn.modules.normalization.GroupNorm": _improve_group_norm,
    "clipgen.generators.vqgan.NormSiLU": _improve_norm,
}
FASTER_LAYERS: dict[str, Callable[[Any, torch.device], None]] = {
    "clipgen.mini.clip.ResBlock": _fold_norms,
    "open_clip.transformer.LayerNorm": _improve_layer_norm,
    "open_clip.transformer.VisionTransformer": _improve_patches,
    "open_clip.transformer.ResidualAttentionBlock": _improve_attention,
}
