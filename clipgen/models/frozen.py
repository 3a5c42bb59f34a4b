"""Layers for nets whose weights stay: their backward pass needs less than torch keeps for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(weight)
        ctx.shape, ctx.dtype, ctx.ways = x.shape, x.dtype, (stride, padding)
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (weight,) = ctx.saved_tensors
        made = conv2d_input(ctx.shape, weight.to(gradient.dtype), gradient, *ctx.ways)
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
        ctx.save_for_backward(made > 0)
        return made

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (passes,) = ctx.saved_tensors
        # As whole numbers 0 times what is not finite is 0, too; torch.where takes more than twice as long.
        return (gradient.view(_BITS[gradient.element_size()]) * passes).view(gradient.dtype)


class ReLU(nn.Module):
    """torch's own, which keeps a byte a number for the backward pass instead of the number."""

    def forward(self, x: Tensor) -> Tensor:
        return _ReLU.apply(x) if x.requires_grad else x.relu()
