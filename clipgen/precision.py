"""The precision in which a network computes, its activation checkpointing, and copies that share its weights."""

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clipgen import device as devices
from clipgen.fast.layers import HalfGroupNorm, HalfLayerNorm

Model = TypeVar("Model")


class CheckpointedBlock(nn.Module):
    """A part of a network that can recompute its activations in the backward pass (Chen et al. 2016)."""

    checkpointed = False

    def __call__(self, x: Tensor) -> Tensor:
        if self.checkpointed and x.requires_grad:
            return checkpoint(super().__call__, x, use_reentrant=False)
        return super().__call__(x)


class Upsample(nn.Upsample):
    """Twice the height and width, each pixel repeated; on CUDA in the precision of the input.

    Autocast would compute it in fp32, and every sum after it.
    """

    def __init__(self) -> None:
        super().__init__(scale_factor=2)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cuda":
            return super().forward(x)
        with torch.autocast("cuda", enabled=False):
            return super().forward(x)


class MixedPrecision:
    """A model whose ``net`` computes in ``precision``, one of ``clipgen.device.PRECISIONS`` or auto."""

    name: str
    net: Any
    precision = "auto"

    def set_precision(self, precision: str) -> None:
        """Compute in a precision from now on."""
        self.precision = precision

    def cast_weights(self, net: nn.Module) -> None:
        """Store the weights that autocast would cast at every step in bf16 or fp16, if that is the precision.

        A weight beyond fp16's range stays float32, and so do those of norms that compute in float32.
        """
        if self.precision not in ("bf16", "fp16"):
            return
        for layer in net.modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d, nn.MultiheadAttention, HalfGroupNorm, HalfLayerNorm)):
                for weight in layer.parameters(recurse=False):
                    reduced = weight.data.to(devices.PRECISIONS[self.precision])
                    if self.precision == "bf16" or reduced.isfinite().all():
                        weight.data = reduced

    def leave_fp16(self) -> None:
        """Compute in fp32 from now on, with a warning."""
        warnings.warn(f"{self.name} leaves the range of fp16: it is computed in fp32 from now on", stacklevel=4)
        for weight in self.net.parameters():
            if weight.dtype == torch.float16:
                weight.data = weight.data.float()
        self.precision = "fp32"  # last: where memory runs out before, autocast computes with weights of either type

    def enable_checkpointing(self) -> bool:
        """Recompute activations in the backward pass instead of storing them; return whether that is new."""
        blocks = [block for block in self.net.modules() if isinstance(block, CheckpointedBlock)]
        changed = any(not block.checkpointed for block in blocks)
        for block in blocks:
            block.checkpointed = True
        return changed

    def compute(self, net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return ``net(x)`` as float32, computed in the model's precision.

        fp16 ends at 65,504, which some published weights exceed. If the input is finite and the output is not, this
        and all later calls compute in fp32, with a warning; within ``deferred_range_checks`` only the later ones.
        """
        with devices.autocast(x.device, self.precision):
            output = net(x).float()
        if devices.resolve_precision(x.device, self.precision) == "fp16":
            deferred = _deferred.get()
            checks = deferred or RangeChecks()
            checks.add(self, x, output)
            if not deferred and checks.read([bool(total.isfinite()) for total in checks.sums]):
                return self.compute(net, x)
        return output


class RangeChecks:
    """Sums of each fp16 network's input and output; a non-finite sum means overflow. All are read in one transfer."""

    def __init__(self) -> None:
        self.models: list[MixedPrecision] = []
        self.sums: list[Tensor] = []  # an input's and an output's for each model
        self.failed = False

    def add(self, model: MixedPrecision, x: Tensor, output: Tensor) -> None:
        self.models.append(model)
        self.sums += [x.detach().float().sum(), output.detach().sum()]

    def read(self, finite: Sequence[bool]) -> bool:
        """Switch models whose input was finite and whose output was not to fp32; return whether there was one."""
        for model, given, returned in zip(self.models, finite[::2], finite[1::2], strict=True):
            if given and not returned:
                self.failed = True
                if model.precision != "fp32":
                    model.leave_fp16()
        return self.failed


_deferred: ContextVar[RangeChecks | None] = ContextVar("deferred", default=None)  # each thread has its own


@contextmanager
def deferred_range_checks() -> Iterator[RangeChecks]:
    """Gather the checks of fp16 networks, for a caller that reads them afterwards and repeats the failed step."""
    checks = RangeChecks()
    token = _deferred.set(checks)
    try:
        yield checks
    finally:
        _deferred.reset(token)


def share_weights(model: Model) -> Model:
    """Return a model with the same weights but a state of its own: padding, checkpointing, precision.

    Runs in several threads can then use one set of weights, and change nothing of each other's.
    """
    shared: Any = copy.copy(model)
    if shared.net is not None:
        shared.net = _copy_modules(shared.net)
    return shared


def _copy_modules(net: nn.Module) -> nn.Module:
    """Return new modules that hold the same parameters and buffers, so that moving these moves them for both."""
    shared = net.__new__(type(net))
    shared.__dict__.update(net.__dict__)
    shared.__dict__["_modules"] = {name: part and _copy_modules(part) for name, part in net._modules.items()}
    return shared
