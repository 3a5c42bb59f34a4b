"""Fit a step into the free memory: planned before the first step, and reduced further where memory runs out."""

import re
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from clipgen.errors import ClipgenError
from clipgen.fast import allocator
from clipgen.losses import StepSpec

T = TypeVar("T")
PROBE_SIZE = 8  # side of the latent on which a decoder's memory is measured
MARGIN = 1.3  # ratio of a step's peak memory to the activations saved for backward
AMPLE = 4  # if this multiple of a step's need is free, fragmentation (up to 2.5x) is harmless
# How CUDA, cuDNN, cuBLAS and related libraries, other accelerators and CPUs report that memory ran out. Some have no
# better words when there is no room for their handles and workspaces.
_OOM = re.compile(
    r"out of memory|not enough memory|bad_?alloc|memory ?allocation|alloc(ation)?_? ?failed"
    r"|(can.?t|cannot|could not|failed to|unable to|tried to) allocate|status_?not_?initialized"
    r"|unable to find an engine|find a valid cudnn algorithm",
    re.IGNORECASE,
)


class MemoryPlan:
    """In how many ``passes`` the cutouts of a step go through CLIP, and whether the decoder recomputes activations."""

    def __init__(self, passes: int):
        self.passes = self.requested_passes = passes
        self._oom_passes = 1  # as many as it took when memory ran out

    def plan(self, spec: StepSpec, latent: Tensor) -> None:
        """Choose passes and checkpointing so that a step fits into the free memory; warn if it does not."""
        if spec.generator.net is None or (available := free_bytes(latent.device)) is None:
            return
        try:
            decoder, cutouts = decoder_bytes(spec, latent), cutout_bytes(spec)
        except (RuntimeError, MemoryError) as error:
            if not is_oom(error):
                raise
            return  # even measuring runs out of memory; the step will too, and then ``handle_oom`` splits it

        def needed() -> float:
            return MARGIN * (decoder + cutouts / self.passes)

        full = needed()
        if latent.device.type == "cpu":
            allocator.keep_freed_memory(self, AMPLE * full < available)
        while needed() > available and self.passes < spec.cutouts.cutouts and cutouts / self.passes > decoder / 4:
            self.passes = min(2 * self.passes, spec.cutouts.cutouts)
        if needed() > available and spec.generator.enable_checkpointing():
            decoder = decoder_bytes(spec, latent)
        if full > available:
            height, width = spec.generator.image_size(latent)
            remedy = f"passes={self.passes}, and the step takes longer"
            if needed() > available:
                remedy = "it may not fit; lower size, or choose a smaller perceptor"
            warnings.warn(
                f"{width}x{height} with {spec.cutouts.cutouts} cutouts needs about {full / 1e9:.1f} GB, "
                f"{available / 1e9:.1f} are free: {remedy}",
                stacklevel=4,
            )

    def set_passes(self, passes: int, spec: StepSpec, latent: Tensor) -> None:
        """Use at least this many passes from now on."""
        if passes != self.requested_passes:
            self.requested_passes, self.passes = passes, max(passes, self._oom_passes)
            self.plan(spec, latent)

    def handle_oom(self, error: RuntimeError | MemoryError, spec: StepSpec) -> None:
        """Use less memory from now on, or raise an error. Call ``release`` after the ``except`` clause."""
        if not is_oom(error):
            raise error
        if self.passes < spec.cutouts.cutouts:
            if self._oom_passes == 1:
                warnings.warn("memory is short: the cutouts go through CLIP in more passes now", stacklevel=4)
            self.passes = self._oom_passes = min(2 * self.passes, spec.cutouts.cutouts)
        elif not spec.generator.enable_checkpointing():
            first_line = str(error).partition("\n")[0]
            raise ClipgenError(
                f"out of memory with one cutout at a time ({first_line}); lower size, or choose a smaller perceptor"
            ) from error.with_traceback(None)  # a notebook would keep the traceback, and with it the step's tensors

    def close(self) -> None:
        """Stop keeping freed memory for further steps."""
        allocator.release(self)


def is_oom(error: BaseException) -> bool:
    """Return whether an error means that memory ran out."""
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or bool(_OOM.search(str(error)))


def release(device: torch.device) -> None:
    """Give unused memory back to the system."""
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).empty_cache()
    elif device.type == "cpu":
        allocator.trim()


def retry_after_oom(device: torch.device, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function; where memory runs out, release unused memory and call it once more."""
    try:
        return function(*arguments)
    except (RuntimeError, MemoryError) as error:
        if not is_oom(error):
            raise
    release(device)
    return function(*arguments)


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes that are free on a device; None if unknown."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    allocator.trim()  # what an earlier run freed counts as free
    return allocator.available_memory() if device.type == "cpu" else None


def saved_bytes(compute: Callable[[], Tensor]) -> int:
    """Return the bytes that a computation saves for its backward pass, weights not counted."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not tensor.is_leaf or tensor.dtype == torch.bool:  # weights are leaves, and so are the masks of relus
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor.detach()  # an output that refers to itself by its grad_fn is never freed

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = compute()
    return sum(storages.values()) + result.numel() * result.element_size()


def decoder_bytes(spec: StepSpec, latent: Tensor) -> float:
    """Return the bytes that decoding a latent saves, extrapolated from a small one."""
    side = spec.generator.sequence or PROBE_SIZE
    small = latent.detach()[..., :side, :side].clone().requires_grad_()
    factor = latent.shape[-2] * latent.shape[-1] / (small.shape[-2] * small.shape[-1])
    return factor * saved_bytes(lambda: spec.generator.image(small, 0.0, torch.Generator().manual_seed(0)))


def cutout_bytes(spec: StepSpec) -> float:
    """Return the bytes that all cutouts save in the largest CLIP; several CLIPs run one after another."""
    largest = 0
    for perceptor, _ in spec.perceptors:
        image = torch.zeros(1, 3, perceptor.size, perceptor.size, device=spec.generator.device, requires_grad=True)
        params = spec.cutouts.sample(image.shape, 1, torch.Generator(), perceptor.patches)
        patches = params.select_patches(slice(1), image.device)
        largest = max(largest, saved_bytes(lambda: perceptor.encode_image(image, patches)))  # noqa: B023
    return spec.cutouts.cutouts * largest
