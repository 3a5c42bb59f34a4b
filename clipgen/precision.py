"""How finely a model's net is computed, and what is done where that turns out to be too coarse."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clipgen import device as devices

M = TypeVar("M")


class Block(nn.Module):
    """A part of a net that can forget what the backward pass needs of it, and compute that again (Chen et al. 2016)."""

    sparing = False

    def __call__(self, x: Tensor) -> Tensor:
        once = super().__call__
        return checkpoint(once, x, use_reentrant=False) if self.sparing and x.requires_grad else once(x)


class Product(nn.Module):
    """A layer of our own that does nothing with its numbers but multiply by them and add them, as a convolution."""


class Computing:
    """A model whose net computes in ``precision``, which whoever loads it sets: see ``clipgen.device``."""

    name: str
    net: Any
    precision = "auto"

    def settle(self, precision: str) -> None:
        """Compute in a precision from now on: one of ``clipgen.device.PRECISIONS``."""
        self.precision = precision

    def narrow(self, net: nn.Module) -> None:
        """Keep the weights that bf16 multiplies by in bf16, if that is the precision: what autocast makes of them.

        It saves their memory, and a copy at every step. What else a net has, such as norms, stays as it is; and so do
        the weights under fp16, which an overflow may end.
        """
        if self.precision == "bf16":
            for layer in net.modules():
                if isinstance(layer, (nn.Linear, nn.Conv2d, Product)):
                    for weight in layer.parameters(recurse=False):
                        weight.data = weight.data.bfloat16()

    def spare(self) -> bool:
        """Keep less for the backward pass, and take longer; returns whether anything is left to spare."""
        blocks = [block for block in self.net.modules() if isinstance(block, Block) and not block.sparing]
        for block in blocks:
            block.sparing = True
        return bool(blocks)

    def compute(self, net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """What a part of the net makes of ``x``, as float32.

        fp16 ends at 65,504. Where activations go beyond, as some published weights' do, nothing finite comes out: the
        net is computed in fp32 then, now and from then on, with a warning.
        """
        with devices.autocast(x.device, self.precision):
            made = net(x).float()
        if devices.precision(x.device, self.precision) == "fp16" and x.isfinite().all() and not made.isfinite().all():
            warnings.warn(f"{self.name} leaves the range of fp16: it is computed in fp32 from now on", stacklevel=3)
            self.precision = "fp32"
            return self.compute(net, x)
        return made


def share_weights(model: M) -> M:
    """Return a model with the same weights and a state of its own: how its net pads, what it keeps, its precision.

    Several runs, in threads of their own, can use one set of weights: what one of them changes is no other's.
    """
    twin = copy.copy(model)
    if (net := getattr(model, "net", None)) is not None:
        twin.net = _twin(net)  # type: ignore[attr-defined]
    return twin


def _twin(net: nn.Module) -> nn.Module:
    """Modules of their own with the parameters and buffers of a net, so that these can be moved for both."""
    twin = net.__new__(type(net))
    twin.__dict__.update(net.__dict__)
    twin.__dict__["_modules"] = {name: part and _twin(part) for name, part in net._modules.items()}
    return twin
