"""Where the tensors live and how finely they are computed."""

from __future__ import annotations

import torch

from clipgen.errors import ClipgenError


def pick(name: str = "auto") -> torch.device:
    """``auto``: CUDA, else Apple's MPS, else CPU. Raises ClipgenError for a device that is not here."""
    if name != "auto":
        try:
            return torch.empty(0, device=name).device
        except (RuntimeError, AssertionError) as error:
            message = str(error).splitlines()[0]
            raise ClipgenError(f"device={name!r} cannot be used here ({message}); use auto or cpu") from error
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it (about 4 times faster on such a CPU), float32 elsewhere."""
    if device.type == "cpu":
        # Emulated bf16 is slower than fp32, and torch has no public question for this.
        native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    else:
        native = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if native else torch.float32


def autocast(device: torch.device) -> torch.autocast:
    """Computes in ``dtype`` what can bear it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype(device) is torch.bfloat16)
