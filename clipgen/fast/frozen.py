"""Layers for nets whose weights stay: their backward pass needs less than torch keeps for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

MANY = 2**14  # places of a picture, for which turning the weights round is little beside convolving by them


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(weight)
        ctx.shape, ctx.dtype, ctx.layout, ctx.ways = x.shape, x.dtype, _layout(x), (stride, padding)
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        weight, (stride, padding) = ctx.saved_tensors[0].to(gradient.dtype), ctx.ways
        around = weight.shape[-1] - 1 - padding
        if gradient.device.type == "cpu" and stride == 1 and around >= 0 and gradient.shape[2:].numel() >= MANY:
            # The same sums as below, in a half to nine tenths of the time.
            gradient = gradient.contiguous(memory_format=ctx.layout)
            made = F.conv2d(gradient, weight.transpose(0, 1).flip(2, 3), padding=around)
        else:
            made = conv2d_input(ctx.shape, weight, gradient, stride, padding)
        return made.to(ctx.dtype), None, None, None, None


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 0) -> Tensor:
    """``torch.nn.functional.conv2d``; if the weights are frozen, the input is not kept for the backward pass.

    torch keeps it always, though only the gradient of the weights would ask for it.
    """
    if weight.requires_grad or not x.requires_grad:
        return F.conv2d(x, weight, bias, stride, padding)
    return _Convolution.apply(x, weight, bias, stride, padding)


class Conv2d(nn.Conv2d):
    """torch's own, square, by ``conv2d``."""

    def forward(self, x: Tensor) -> Tensor:
        if self.padding_mode != "zeros":
            return super().forward(x)
        return conv2d(x, self.weight, self.bias, self.stride[0], int(self.padding[0]))


_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class _ReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        made = x.relu()
        ctx.save_for_backward(made.bool())  # on a CPU in a quarter of the time of ``made > 0``
        return made

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (passes,) = ctx.saved_tensors
        # As whole numbers 0 times what is not finite is 0, too; torch.where takes more than twice as long.
        bits = _BITS[gradient.element_size()]
        return passes.to(bits).mul_(gradient.view(bits)).view(gradient.dtype)


class ReLU(nn.Module):
    """torch's own, which keeps a byte a number for the backward pass instead of the number."""

    def forward(self, x: Tensor) -> Tensor:
        return _ReLU.apply(x) if x.requires_grad else x.relu()


NARROW = 8  # channels a group, up to which torch's own backward pass on a CPU in bf16 takes twice as long or more


class _NormSiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:  # type: ignore[override]
        size, channels, places = *x.shape[:2], x.shape[2:].numel()
        normed, mean, scale = torch.native_group_norm(x, weight, bias, size, channels, places, groups, eps)
        ctx.save_for_backward(x, weight, bias, mean, scale)
        return F.silu(normed)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, bias, mean, scale = ctx.saved_tensors
        (size, channels), places, groups = x.shape[:2], x.shape[2:].numel(), mean.shape[1]
        width, wide = channels // groups, torch.promote_types(x.dtype, torch.float32)

        def each(numbers: Tensor) -> Tensor:
            """Of every channel (B, C), those of groups (B, G)."""
            return numbers.to(wide).repeat_interleave(width, 1)

        def along(numbers: Tensor) -> Tensor:
            """(B, C) as what stands at every place."""
            return numbers.to(x.dtype)[:, :, None, None]

        factor = each(scale) * weight
        normed = torch.addcmul(along(bias - each(mean) * factor), x, along(factor))
        gradient = torch.ops.aten.silu_backward(gradient, normed).contiguous(memory_format=_layout(x))
        if width > NARROW or x.dtype != torch.bfloat16:
            shape = size, channels, places, groups, [True, False, False]
            return torch.ops.aten.native_group_norm_backward(gradient, x, mean, scale, weight, *shape)[0], *[None] * 4

        def average(numbers: Tensor) -> Tensor:
            """Of a group's channels and places, from their sums over places (B, C)."""
            return each(numbers.unflatten(1, (groups, width)).sum(2) / (width * places))

        # The derivative of (x - mean) * scale is what comes in without its mean and without its part along x.
        total, product = (part.sum((2, 3)).to(wide) for part in (gradient, gradient * normed))
        slope = -each(scale).square() * average(product - bias * total)
        offset = -slope * each(mean) - each(scale) * average(weight * total)
        rest = torch.addcmul(along(offset), x, along(slope))
        return torch.addcmul(rest, gradient, along(factor)), *[None] * 4


def norm_silu(norm: nn.Module, x: Tensor) -> Tensor:
    """``silu(norm(x))``. A frozen group norm on a CPU keeps x alone, and computes the rest again on the way back."""
    frozen = isinstance(norm, nn.GroupNorm) and not norm.weight.requires_grad and x.requires_grad
    if not frozen or x.device.type != "cpu":
        return F.silu(norm(x))
    x = x.contiguous(memory_format=_layout(x))
    return _NormSiLU.apply(x, norm.weight, norm.bias, norm.num_groups, norm.eps)


def _layout(x: Tensor) -> torch.memory_format:
    last = torch.channels_last
    return last if x.is_contiguous(memory_format=last) else torch.contiguous_format
