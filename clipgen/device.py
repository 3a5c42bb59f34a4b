"""The device of a run, and the precision that it computes in."""

from __future__ import annotations

import platform
from collections.abc import Set
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch

from clipgen.errors import ClipgenError

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def pick(name: str = "auto") -> torch.device:
    """Return a device by name, with its index: ``cuda`` is the current one, such as cuda:0.

    ``auto`` is CUDA, else Apple's MPS, else the CPU. Raises ClipgenError for a device that this machine lacks.
    """
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.empty(0, device=best if name == "auto" else name).device
        if device.type == "meta" or (device.type == "cpu" and name.partition(":")[2] not in ("", "0")):
            raise RuntimeError("nothing can be computed on it")
        if device.type == "cuda" and device.index >= (count := torch.cuda.device_count()):
            raise RuntimeError(f"there are {count}, counted from cuda:0")  # torch looks only when something is computed
        return device
    except (RuntimeError, AssertionError) as error:
        message = str(error).splitlines()[0]
        raise ClipgenError(f"device={name!r} cannot be used here ({message}); use auto or cpu") from error


def gpu_memory(device: torch.device) -> int:
    """Return the total memory of a CUDA or MPS device in bytes."""
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else torch.mps.recommended_max_memory()


def best_precision(kind: str, capability: tuple[int, ...] = (), flags: Set[str] = frozenset()) -> str:
    """Return the fastest of PRECISIONS that a device computes correctly.

    - CUDA has tensor cores for fp16 from 7.0 on, for bf16 from 8.0 on; 7.5 emulates bf16, several times slower. TF32
      came with 8.0 as well, so that before 7.0 there is only fp32.
    - A CPU without AVX512-BF16 or AMX emulates bf16, slower than fp32.
    - On MPS a norm of mixed precisions ended the process until torch 2.13 (pytorch/pytorch issue 154887), and so did
      some convolutions in fp16 before macOS 14 (issue 119108).

    Args:
        kind: The type of the device, such as ``cuda``.
        capability: The compute capability of CUDA, or the version of macOS.
        flags: The number types that a CPU multiplies natively; of MPS ``mixed_norms``, if torch has them.
    """
    if kind == "cuda":
        return "bf16" if capability >= (8, 0) else "fp16" if capability >= (7, 0) else "fp32"
    if kind == "mps":
        return "fp16" if capability >= (14, 0) and "mixed_norms" in flags else "fp32"
    return "bf16" if kind == "cpu" and flags & {"avx512_bf16", "amx_bf16"} else "fp32"


def precision(device: torch.device, name: str = "auto") -> str:
    """Return a precision by name, for ``auto`` the best of the device. Raises ClipgenError for an impossible one."""
    if name == "auto":
        return best_precision(device.type, *_capability(device))
    if name not in PRECISIONS:
        raise ClipgenError(f"precision={name!r}: choose one of: auto, {', '.join(PRECISIONS)}")
    if name != "fp32" and not torch.amp.is_autocast_available(device.type):
        raise ClipgenError(f"precision={name!r}: torch computes on {device.type} in fp32 only; use auto or fp32")
    return name


def full_range(device: torch.device) -> str:
    """Return bf16 if it is the device's best precision, else fp32: for what overflows fp16, such as training."""
    return "bf16" if precision(device) == "bf16" else "fp32"


def autocast(device: torch.device, name: str = "auto") -> AbstractContextManager:
    """Return torch's autocast to a precision, which leaves norms, softmax and losses in fp32."""
    name = precision(device, name)
    return nullcontext() if name == "fp32" else torch.autocast(device.type, PRECISIONS[name])


@lru_cache
def _capability(device: torch.device) -> tuple[tuple[int, ...], frozenset[str]]:
    """Return the capability and the flags of a device, as ``best_precision`` takes them."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device), frozenset()
    if device.type == "mps":
        mixed = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)
        version = tuple(int(part) for part in platform.mac_ver()[0].split(".")[:2])
        return version, frozenset({"mixed_norms"} if mixed else ())
    # torch has no public question that all its versions answer; a CPU with AMX tiles multiplies bf16 in them.
    tests = {"avx512_bf16": "_is_avx512_bf16_supported", "amx_bf16": "_is_amx_tile_supported"}
    return (), frozenset(flag for flag, name in tests.items() if getattr(torch.cpu, name, lambda: False)())
