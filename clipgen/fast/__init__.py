"""Every speed-up that plain torch does not need. ``CLIPGEN_FAST=0`` switches all off; results agree to rounding.

What each gained when it was added, on a machine with two cores and AMX (bf16), or on a CPU that was not noted (*):

- layers, convolutions and ReLUs of frozen networks: a dVAE step at 512x512 takes 3.4 instead of 5.5 GB, with weights in
  bf16 (*); the backward pass of a large convolution takes 0.5 to 0.9 of the time;
- layers, group norms with SiLU: half of the time or less backward up to 4 channels per group, 0.5 GB less for VQGAN at
  512x512;
- layers, open_clip's ViT: the backward pass of its patch embedding no longer takes a ninth of a step, nor do copies
  take more than half of the attention's time;
- channels last: a softmax over token logits takes a sixth of the time;
- allocator: a VQGAN step at 1024x1024 takes 12.6 instead of 21.1 s;
- pages of 2 MB: a dVAE step at 512x512 takes a tenth less memory and a twentieth less time;
- adam: ``torch.optim`` imports torch's compiler, 1.5 s of a core and a third of the time to the first preview (*);
- threads that sleep while they wait (OMP_WAIT_POLICY=PASSIVE): beside other busy programs a step of the built-in models
  takes a quarter of the time, on AVX2; on a quiet machine it takes the same, and three quarters of the processor time;
- no garbage collection while libraries load: a seventh of the time that importing torch takes.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    Net = TypeVar("Net", bound=nn.Module)

enabled = os.environ.get("CLIPGEN_FAST") != "0"


def set_environment() -> None:
    """Set what torch reads when it is first imported, unless somebody has: larger pages, and threads that sleep."""
    if enabled:
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
        if sys.platform == "linux":  # only there it was measured
            os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@contextmanager
def paused_gc() -> Iterator[None]:
    """Collect no garbage while libraries load."""
    collecting = gc.isenabled()
    if enabled:
        gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def optimize_for(net: Net, device: torch.device, save_memory: bool = True, channels_last: bool = True) -> Net:
    """Make a frozen network or a part of one faster, in place, and return it. Weights keep their names.

    Args:
        save_memory: Whether layers keep less for the backward pass; for CLIP towers that was not measured.
        channels_last: Whether convolutions compute with the channels of a pixel side by side.
    """
    if not enabled:
        return net
    import torch

    from clipgen.fast.layers import FASTER_LAYERS, LEANER_LAYERS

    improvements = FASTER_LAYERS | LEANER_LAYERS if save_memory else FASTER_LAYERS
    for layer in net.modules():
        kind = type(layer)
        if improve := improvements.get(f"{kind.__module__}.{kind.__qualname__}"):
            improve(layer, device)
    return net.to(memory_format=torch.channels_last) if channels_last else net


def channels_last(tensor: Tensor) -> Tensor:
    """Return a tensor (B, C, H, W) with the channels of a place side by side."""
    import torch

    return tensor.contiguous(memory_format=torch.channels_last) if enabled else tensor


def optimizer_class(name: str) -> Any:
    """Return the class of an optimiser of ``torch.optim`` by its name, or one that computes the same."""
    from clipgen.fast import adam

    if enabled and name in ("Adam", "AdamW"):
        return getattr(adam, name)
    import torch

    return getattr(torch.optim, name)
