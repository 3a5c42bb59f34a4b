"""The device of a run, and the precision that it computes in."""

import platform
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from threading import RLock

import torch
from torch import Tensor
from torch.nn import functional as F

from clipgen.errors import ClipgenError

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def resolve_device(name: str = "auto") -> torch.device:
    """Return a device by name, with its index: ``cuda`` is the current one, such as cuda:0.

    ``auto`` is CUDA, else Apple's MPS if torch can sample cutouts on it, else the CPU. Raises ClipgenError for a device
    that this machine lacks, or that torch lacks an operation for.
    """
    chosen = _best() if name == "auto" else name
    try:
        torch.device(chosen)
    except RuntimeError as error:
        raise ClipgenError(f"device={name!r}: choose one of: auto, cpu, cuda, cuda:1, mps") from error
    if chosen.startswith("mps") and torch.backends.mps.is_available() and (missing := sampling_error("mps")):
        raise ClipgenError(
            f"device={name!r} cannot be used here: this torch ({torch.__version__}) cannot sample cutouts on it "
            f"({missing}); update torch (pip install -U torch), or use device='cpu'"
        )
    if chosen.startswith("cuda") and torch.cuda.is_available() and (missing := missing_kernels(torch.device(chosen))):
        raise ClipgenError(f"device={name!r} cannot be used here: {missing}; use device='cpu', or another torch")
    try:
        device = torch.empty(0, device=chosen).device
        if device.type == "meta" or (device.type == "cpu" and name.partition(":")[2] not in ("", "0")):
            raise RuntimeError("nothing can be computed on it")
        if device.type == "cuda" and device.index >= (count := torch.cuda.device_count()):
            raise RuntimeError(f"there are {count}, counted from cuda:0")  # torch looks only when something is computed
        return device
    except (RuntimeError, AssertionError) as error:
        raise ClipgenError(f"device={name!r} cannot be used here ({_reason(error)}); use auto or cpu") from error


def _best() -> str:
    if torch.cuda.is_available():
        if not (missing := missing_kernels(torch.device("cuda"))):
            return "cuda"
        warnings.warn(f"device='auto' is the CPU: {missing}", stacklevel=3)
    return "mps" if torch.backends.mps.is_available() and not sampling_error("mps") else "cpu"


def missing_kernels(device: torch.device) -> str:
    """Return why this torch has no kernels for a CUDA GPU; empty if it has."""
    try:
        capability, architectures = torch.cuda.get_device_capability(device), torch.cuda.get_arch_list()
    except (RuntimeError, AssertionError):  # there is no such device, or no driver: ``resolve_device`` says so
        return ""
    if can_run(capability, architectures):
        return ""
    names = ", ".join(architectures)
    return f"this torch ({torch.__version__}) has kernels for {names}, and the GPU is {capability[0]}.{capability[1]}"


def can_run(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Return whether kernels for CUDA architectures, such as ``sm_75``, run on a GPU of a compute capability.

    Kernels run on later GPUs of the same major version, and where they are PTX (``compute_90``) on all later ones;
    those with an "a" (``sm_90a``) on their own only. Architectures that are not CUDA's (ROCm's) can run.
    """
    matches = [match for name in architectures if (match := re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", name))]
    for kind, major, minor, letter in (match.groups() for match in matches):
        built_for = int(major), int(minor)
        is_later = built_for <= capability and (kind == "compute" or built_for[0] == capability[0])
        if built_for == capability or (is_later and letter != "a"):
            return True
    return not matches


def _reason(error: BaseException) -> str:
    """Return the first sentence of an error of torch."""
    return re.split(r"\. |\n", str(error))[0]


@lru_cache
def sampling_error(kind: str) -> str:
    """Return why a kind of device cannot sample cutouts and compute their gradient; empty if it can.

    On MPS ``grid_sample`` at a picture's border came with torch 2.13, and its backward pass later (pytorch/pytorch
    issues 125098 and 169143).
    """
    try:
        image = torch.zeros(1, 1, 2, 2, device=kind, requires_grad=True)
        grid = torch.zeros(1, 2, 2, 2, device=kind)
        F.grid_sample(image, grid, padding_mode="border", align_corners=False).sum().backward()
    except RuntimeError as error:  # of which NotImplementedError is a kind
        return _reason(error)
    return ""


def copy_to(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device, on CUDA without waiting for the copy.

    Elsewhere the source may be freed before such a copy ends, which gives wrong numbers on MPS (pytorch/pytorch issues
    139550 and 189690).
    """
    is_cuda = device.type == "cuda"
    if is_cuda and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=is_cuda)


def copy_to_cpu(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Callable[[], object]]:
    """Copy tensors to the CPU, from CUDA without waiting; return the copies, and what to call before they are read."""
    copies = {
        name: tensor.detach().to("cpu", non_blocking=tensor.device.type == "cuda", copy=True)
        for name, tensor in tensors.items()
    }
    devices = {tensor.device for tensor in tensors.values() if tensor.device.type == "cuda"}
    events = [torch.cuda.current_stream(device).record_event() for device in devices]
    return copies, lambda: [event.synchronize() for event in events]


_DETERMINISTIC = RLock()


@contextmanager
def deterministic(enabled: bool = True) -> Iterator[None]:
    """Use torch's deterministic algorithms, and warn of each operation without one. One thread at a time.

    The mode belongs to the whole process; the one before is restored.
    """
    if not enabled:
        yield
        return
    with _DETERMINISTIC:
        before = torch.get_deterministic_debug_mode()
        torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms would import torch's compiler
        try:
            yield
        finally:
            torch.set_deterministic_debug_mode(before)


@lru_cache(maxsize=64)
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return numbers as a float32 tensor (n,), copied to a device once. It is shared: do not write into it."""
    return torch.tensor(values, dtype=torch.float32, device=device)


def fork_rng(rng: torch.Generator, device: torch.device) -> torch.Generator:
    """Return a generator for large draws on a device: ``rng`` itself on the CPU, elsewhere a new one that it seeds.

    The noise of a step takes a CPU up to 0.4 s, in which a GPU would stand idle. The numbers are the device's own.
    """
    return rng if device.type == "cpu" else torch.Generator(device).manual_seed(draw_seed(rng))


def draw_seed(rng: torch.Generator) -> int:
    """Return a random seed."""
    return int(torch.randint(2**63 - 1, (), generator=rng))


def describe(device: torch.device) -> str:
    """Return a device in words: ``CPU (2 threads)``, or the name of a GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU ({threads} thread{'s' * (threads > 1)})" if device.type == "cpu" else device.type.upper()


@lru_cache
def matmul_rate(device: torch.device, precision: str) -> float:
    """Return the GFLOP/s of a CPU for a matrix product, measured at the first call (0.1 s)."""
    matrix, seconds = torch.ones(1024, 1024, dtype=PRECISIONS[precision], device=device), []
    for _ in range(4):
        began = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - began)
    return 2 * 1.024**3 / min(seconds)


def gpu_memory(device: torch.device) -> int:
    """Return the total memory of a CUDA or MPS device in bytes."""
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else torch.mps.recommended_max_memory()


def best_precision(kind: str, capability: tuple[int, ...] = (), flags: Set[str] = frozenset()) -> str:
    """Return the fastest of PRECISIONS that a device computes correctly.

    - CUDA has tensor cores for fp16 from 7.0 on, for bf16 and TF32 from 8.0 on; 7.5 emulates bf16, several times
      slower.
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


def resolve_precision(device: torch.device, name: str = "auto") -> str:
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
    return "bf16" if resolve_precision(device) == "bf16" else "fp32"


def autocast(device: torch.device, name: str = "auto") -> AbstractContextManager:
    """Return torch's autocast to a precision, which leaves norms, softmax and losses in fp32."""
    name = resolve_precision(device, name)
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
    # No public function of torch tells it in all versions. A CPU with AMX tiles multiplies bf16 in them.
    tests = {"avx512_bf16": "_is_avx512_bf16_supported", "amx_bf16": "_is_amx_tile_supported"}
    return (), frozenset(flag for flag, name in tests.items() if getattr(torch.cpu, name, lambda: False)())
