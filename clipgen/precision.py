"""The precision in which a net computes, its activation checkpointing, and copies that share its weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clipgen import device as devices


class HasNet(Protocol):
    """A model with its network, or None."""

    net: Any


M = TypeVar("M", bound=HasNet)


class CheckpointedBlock(nn.Module):
    """A part of a net that can recompute its activations in the backward pass (Chen et al. 2016)."""

    checkpointed = False

    def __call__(self, x: Tensor) -> Tensor:
        if self.checkpointed and x.requires_grad:
            return checkpoint(super().__call__, x, use_reentrant=False)
        return super().__call__(x)


class MixedPrecision:
    """A model whose ``net`` computes in ``precision``, one of ``clipgen.device.PRECISIONS`` or auto."""

    name: str
    net: Any
    precision = "auto"

    def set_precision(self, precision: str) -> None:
        """Compute in a precision from now on."""
        self.precision = precision

    def cast_weights(self, net: nn.Module) -> None:
        """Store the weights that autocast would cast at every step in bf16, if that is the precision.

        Norms stay float32; so do all weights under fp16, which an overflow may end.
        """
        if self.precision == "bf16":
            for layer in net.modules():
                if isinstance(layer, (nn.Linear, nn.Conv2d, nn.MultiheadAttention)):
                    for weight in layer.parameters(recurse=False):
                        weight.data = weight.data.bfloat16()

    def enable_checkpointing(self) -> bool:
        """Recompute activations in the backward pass instead of storing them; return whether that is new."""
        blocks = [block for block in self.net.modules() if isinstance(block, CheckpointedBlock)]
        changed = any(not block.checkpointed for block in blocks)
        for block in blocks:
            block.checkpointed = True
        return changed

    def compute(self, net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return ``net(x)`` as float32, computed in the model's precision.

        fp16 ends at 65,504, which some published weights exceed. Where only the result is not finite, this and all
        later calls compute in fp32, with a warning.
        """
        with devices.autocast(x.device, self.precision):
            output = net(x).float()
        if devices.precision(x.device, self.precision) == "fp16" and x.isfinite().all() and not output.isfinite().all():
            warnings.warn(f"{self.name} leaves the range of fp16: it is computed in fp32 from now on", stacklevel=3)
            self.precision = "fp32"
            return self.compute(net, x)
        return output


def share_weights(model: M) -> M:
    """Return a model with the same weights but a state of its own: padding, checkpointing, precision.

    Runs in several threads can then use one set of weights, and change nothing of each other's.
    """
    shared = copy.copy(model)
    if shared.net is not None:
        shared.net = _copy_modules(shared.net)
    return shared


def _copy_modules(net: nn.Module) -> nn.Module:
    """Return new modules that hold the same parameters and buffers, so that moving these moves them for both."""
    shared = net.__new__(type(net))
    shared.__dict__.update(net.__dict__)
    shared.__dict__["_modules"] = {name: part and _copy_modules(part) for name, part in net._modules.items()}
    return shared
