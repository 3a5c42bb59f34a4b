"""A pretended CUDA card: tensors with real numbers on the CPU that are on ``cuda:0`` to torch and to Python.

    with Card(capability=(7, 5)) as card:  # a T4; (8, 0) is an A100
        run = clipgen.generate("a cat", device="cuda")
    card.waits, card.moved, card.operations

Autocast, autograd, generators and the rules for tensors of two devices are those of CUDA. Every wait of the host for
the card is counted with the line that waits, every copy with its bytes, and every operation that would be a kernel. No
kernel of a card runs, so nothing is learned of speed, memory, or errors within kernels; cuDNN's batch norm and the
fused attention are replaced. Needs Linux, a CUDA build of torch, one thread, and a process of its own: torch counts
devices at the first backward pass of a process, and ``allow_backward`` has to come before that.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

import clipgen

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
PACKAGE = str(Path(__file__).parents[2] / "clipgen")
aten = torch.ops.aten


def is_possible() -> bool:
    """Return whether a card can be pretended here."""
    return sys.platform == "linux" and torch.version.cuda is not None and not torch.cuda.is_available()


def allow_backward() -> None:
    """Let autograd run backward for CUDA tensors without a driver.

    Its engine asks CUDAHooks::hasPrimaryContext (slot 4 of the table of virtual functions), which throws without a
    driver; the slot is pointed at isAvailable (slot 3), which returns false.
    """
    torch._C._ensureCUDADeviceGuardSet()
    library = ctypes.CDLL(os.path.join(os.path.dirname(torch.__file__), "lib", "libtorch_cpu.so"))
    get_hooks = library._ZN2at6detail12getCUDAHooksEv  # at::detail::getCUDAHooks()
    get_hooks.restype = ctypes.c_void_p
    table = ctypes.c_void_p.from_address(get_hooks()).value
    assert table is not None
    page, writable = table & ~(mmap.PAGESIZE - 1), mmap.PROT_READ | mmap.PROT_WRITE
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(2 * mmap.PAGESIZE), writable):
        raise OSError(ctypes.get_errno(), "mprotect")
    slots = (ctypes.c_void_p * 8).from_address(table)
    slots[4] = slots[3]


# --- tensors and generators on the card -----------------------------------------------------------------


class CardTensor(Tensor):
    """A tensor on the card; ``inner`` has its numbers, or its shape alone."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor, requires_grad: bool = False):
        assert type(inner) is Tensor, type(inner)
        tensor = Tensor._make_subclass(
            cls, inner.detach(), requires_grad, dispatch_device=True, device_for_backend_keys=CUDA
        )
        tensor.inner = inner.detach()
        return tensor

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return dispatch(function, args, kwargs or {})

    @property
    def data(self):
        return self.detach()

    @data.setter
    def data(self, other):
        Tensor.data.__set__(self, other)
        self.inner = other.inner

    def __deepcopy__(self, memo):
        copy = CardTensor(self.inner.clone(), self.requires_grad)
        copy._is_param = getattr(self, "_is_param", False)
        return copy

    def tolist(self):  # torch's own takes no subclasses
        count_wait("tolist")
        return readable(self.inner).tolist()

    def __repr__(self, **_):
        return f"CardTensor({tuple(self.shape)}, {self.dtype})"


TorchGenerator = torch.Generator
card_generators: dict[int, torch.Generator] = {}  # by the address of what torch keeps of each


class _AnyGenerator(type):
    def __instancecheck__(cls, item: Any) -> bool:
        return isinstance(item, TorchGenerator)


class Generator(metaclass=_AnyGenerator):
    """torch.Generator, which makes one of the card, too; that draws what one of the CPU with the same seed would."""

    def __new__(cls, device: Any = CPU):
        generator = TorchGenerator()
        if torch.device(device).type == "cuda":
            card_generators[generator._cdata] = generator
        return generator


def is_of_cpu(item: Any) -> bool:
    return isinstance(item, TorchGenerator) and item._cdata not in card_generators


def readable(inner: Tensor) -> Tensor:
    """Return numbers for the host; ones where there are only shapes."""
    return torch.ones(inner.shape, dtype=inner.dtype) if inner.is_meta else inner


# --- the rules --------------------------------------------------------------------------------------------

INDEXING = {
    aten.index.Tensor,
    aten.index_put_.default,
    aten.index_put.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
}
COPIES = {aten._to_copy.default, aten.copy_.default, aten.copy.default}
WAITING = {  # operations whose result or whose shape the host reads
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.repeat_interleave.Tensor,
    aten._linalg_check_errors.default,
    aten._linalg_eigh.default,
    aten._linalg_solve_ex.default,
    aten.linalg_inv_ex.default,
}
NO_KERNEL = {
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.new_empty.default,
    aten.empty_strided.default,
    aten.new_empty_strided.default,
    aten.lift_fresh.default,
    aten.detach.default,
    aten.alias.default,
    aten._unsafe_view.default,
    aten._reshape_alias.default,
    aten.resize_.default,
    aten.set_.source_Tensor,
    aten.is_pinned.default,
    aten.sym_size.int,
    torch.ops.prim.device.default,
}


class WrongDevice(RuntimeError):
    """What CUDA would refuse."""


def has_kernel(function: Any) -> bool:
    return not (function in NO_KERNEL or function.is_view or torch.Tag.inplace_view in function.tags)


def check_devices(function: Any, flat: list[Any], device: torch.device | None) -> None:
    """Raise WrongDevice for what CUDA refuses; count the waits for indices of the CPU."""
    on_card = [item for item in flat if isinstance(item, CardTensor)]
    on_cpu = [item for item in flat if isinstance(item, Tensor) and not isinstance(item, CardTensor)]
    if any(map(is_of_cpu, flat)) and (on_card or device == CUDA):
        raise WrongDevice(f"{function}: a generator of the CPU draws nothing on cuda")
    if not on_card or not on_cpu or function in COPIES:
        return
    if function in INDEXING:
        if not isinstance(flat[0], CardTensor):
            raise WrongDevice(f"{function}: indices on cuda, the indexed tensor on the CPU")
        for index in on_cpu:
            if index.dtype in (torch.int64, torch.int32, torch.bool, torch.uint8):
                count_wait("an index from the CPU")
            elif index.dim():
                raise WrongDevice(f"{function}: values on the CPU, the indexed tensor on cuda")
        return
    takes_scalars = torch.Tag.pointwise in function.tags or function is aten.fill_.Tensor
    is_written = function._schema.is_mutable and not isinstance(flat[0], CardTensor)
    if any(tensor.dim() for tensor in on_cpu) or is_written or not takes_scalars:
        raise WrongDevice(f"{function}: {[(str(item.device), tuple(item.shape)) for item in on_card + on_cpu]}")


def check_copy(function: Any, args: Any, kwargs: Any, device: torch.device | None) -> None:
    """Count the bytes of a copy between the CPU and the card, and the wait for it if there is one."""
    if function is aten._to_copy.default:
        source, non_blocking = args[0], kwargs.get("non_blocking", False)
        to_card = isinstance(source, CardTensor) if device is None else device.type == "cuda"
    else:
        source, to_card = args[1], isinstance(args[0], CardTensor)
        non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        if source.dim() == 0 and to_card and not isinstance(source, CardTensor):
            return  # filled in with a kernel's argument
    from_card = isinstance(source, CardTensor)
    if from_card == to_card or not active:
        return
    active.moved.update({"down" if from_card else "up": source.numel() * source.element_size()})
    if from_card and not non_blocking:
        count_wait("a copy to the CPU")
    elif from_card:
        return  # into memory that torch pins
    elif not non_blocking:
        count_wait("a blocking copy from the CPU")
    elif not getattr(source, "is_copied_to_pinned", False):
        active.staged.update([line_of_package()])


def items_of(values: Any) -> Iterator[Any]:
    """Yield the items of nested lists and tuples."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from items_of(value)
        else:
            yield value


def map_items(function: Callable[[Any], Any], value: Any) -> Any:
    """Return a value, or nested lists and tuples, with the function's results in place of the items."""
    if isinstance(value, (list, tuple)):
        return type(value)([map_items(function, item) for item in value])
    return function(value)


def dispatch(function: Any, args: Any, kwargs: Any) -> Any:
    """Do one operation of torch's, on the card or on the CPU."""
    if function is torch.ops.prim.device.default:
        return CUDA
    flat = list(items_of(args)) + list(items_of(list(kwargs.values())))
    on_card = [item for item in flat if isinstance(item, CardTensor)]
    device = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
    if not on_card and not (device and device.type == "cuda"):
        return on_the_cpu(function, args, kwargs)
    check_devices(function, flat, device)
    if function in COPIES:
        check_copy(function, args, kwargs, device)
    if function in WAITING and on_card:
        count_wait(function._schema.name)
        if function is aten._local_scalar_dense.default:
            return readable(args[0].inner).item()
    indices = args[1] if function is aten.index.Tensor else ()
    if any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices):
        count_wait("a boolean index")
    leaves_card = device == CPU and function in COPIES
    place = active.place if active else CPU
    known = {id(tensor.inner): tensor for tensor in on_card}

    def take_off(item: Any) -> Any:
        if isinstance(item, CardTensor):
            return item.inner
        if isinstance(item, Tensor) and place.type == "meta" and not leaves_card and (item.dim() or indices):
            return item.to("meta")
        return place if isinstance(item, torch.device) and item.type == "cuda" else item

    plain_args = map_items(take_off, tuple(args))
    plain_kwargs = {name: map_items(take_off, value) for name, value in kwargs.items() if name != "pin_memory"}
    if isinstance(plain_kwargs.get("device"), str):
        plain_kwargs["device"] = place
    if place.type == "meta" and "generator" in plain_kwargs:
        plain_kwargs["generator"] = None
    output = compute(function, args, plain_args, plain_kwargs, leaves_card)
    if torch.Tag.inplace_view in function.tags:  # such as squeeze_, after which the outer tensor has another shape, too
        with no_dispatch():
            function(*args, **kwargs)
    if active:
        active.count(function, args, kwargs, output)
    if leaves_card or (function is aten.copy_.default and not isinstance(args[0], CardTensor)):
        return output

    def put_on(item: Any) -> Any:
        if id(item) in known:
            return known[id(item)]
        return CardTensor(item) if isinstance(item, Tensor) else item

    return map_items(put_on, output)


def compute(function: Any, args: Any, plain_args: Any, plain_kwargs: Any, leaves_card: bool) -> Any:
    """Return the result of an operation without its tensors' being on the card."""
    is_hollow = active is not None and active.place.type == "meta"
    if not is_hollow or function._schema.is_mutable or not has_kernel(function) or leaves_card:
        return compute_once(function, args, plain_args, plain_kwargs, leaves_card, is_hollow)
    # The shapes of a result are computed once for those of its arguments: torch takes milliseconds.
    key = f"{function} {map_items(geometry_of, plain_args)} {map_items(geometry_of, list(plain_kwargs.items()))}"
    if key not in hollow_results:
        output = compute_once(function, args, plain_args, plain_kwargs, leaves_card, is_hollow)
        hollow_results[key] = map_items(geometry_of, output)
    return map_items(empty_of, hollow_results[key])


hollow_results: dict[str, Any] = {}


@dataclass(frozen=True)
class Geometry:
    """What a hollow tensor is."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


def geometry_of(item: Any) -> Any:
    return Geometry(tuple(item.shape), item.stride(), item.dtype) if isinstance(item, Tensor) else item


def empty_of(item: Any) -> Any:
    if not isinstance(item, Geometry):
        return item
    return torch.empty_strided(item.shape, item.stride, dtype=item.dtype, device="meta")


def compute_once(
    function: Any, args: Any, plain_args: Any, plain_kwargs: Any, leaves_card: bool, is_hollow: bool
) -> Any:
    if leaves_card and is_hollow:
        return torch.zeros(args[0].shape, dtype=plain_kwargs.get("dtype") or args[0].dtype)
    if is_hollow and function is aten.copy_.default and not isinstance(args[0], CardTensor):
        return args[0]
    if is_hollow and function is aten.index.Tensor and args[1][0] is not None and args[1][0].dtype == torch.bool:
        return plain_args[0].clone()  # every element
    if function is aten._softmax.default and plain_args[2]:  # from half to float in one kernel, on CUDA alone
        return function(plain_args[0].float(), plain_args[1], False)
    if function is aten._softmax_backward_data.default and plain_args[3] != plain_args[0].dtype:
        return function(*plain_args[:3], plain_args[0].dtype).to(plain_args[3])
    return function(*plain_args, **plain_kwargs)


def on_the_cpu(function: Any, args: Any, kwargs: Any) -> Any:
    if function is aten._pin_memory.default:
        pinned = args[0].clone()
        pinned.is_copied_to_pinned = True
        return pinned
    output = function(*args, **kwargs)
    if active and active.on_cpu_operation and has_kernel(function):
        active.on_cpu_operation(function, args, kwargs, output)
    return output


# --- where --------------------------------------------------------------------------------------------------


def count_wait(reason: str) -> None:
    if active:
        active.wait(reason)


def line_of_package() -> str:
    """Return the innermost line of clipgen that is being executed; of a backward pass, that of its forward pass."""
    node = torch._C._current_autograd_node()
    trace = node.metadata.get("traceback_") if node is not None else None
    if trace:
        found = re.findall(r'File "(.*?)", line (\d+), in (\S+)', "".join(trace))
        frames = [(file, line, name) for file, line, name in reversed(found)]
    else:
        frame: Any = sys._getframe(1)
        if node is not None and threading.current_thread() is not threading.main_thread():
            frame = sys._current_frames()[threading.main_thread().ident or 0]
        frames = []
        while frame:
            frames.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
            frame = frame.f_back
    for file, line, name in frames:
        if file.startswith(PACKAGE):
            return f"{file.removeprefix(PACKAGE)[1:]}:{line} {name}" + (" (backward)" if trace else "")
    return "elsewhere"


# --- the card -----------------------------------------------------------------------------------------------


class _Dispatch(TorchDispatchMode):
    """Sees operations of the CPU, too: those that make tensors on the card begin as such."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch's compiler is imported

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return dispatch(function, args, kwargs or {})


plain_attention = torch.nn.functional.scaled_dot_product_attention


def attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """Compute what CUDA's fused kernel would: torch's own choice of a kernel asks the driver."""
    if not isinstance(q, CardTensor):
        return plain_attention(q, k, v, attn_mask, dropout_p, is_causal, scale=scale)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=q.dtype).masked_fill(~attn_mask, float("-inf"))
    if torch.is_autocast_enabled("cuda"):
        q, k, v = (tensor.to(torch.get_autocast_dtype("cuda")) for tensor in (q, k, v))
    fused = aten._scaled_dot_product_flash_attention_for_cpu
    return fused(q, k, v, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]


class Card:
    """The card, for as long as a ``with`` lasts.

    Args:
        capability: (7, 5) is a T4, (8, 0) an A100.
        hollow: Compute shapes alone, so that nets of published size take seconds; the host reads ones.
        traces: Give waits in a backward pass the line of their forward pass; slower.
    """

    def __init__(self, capability: tuple[int, int] = (7, 5), hollow: bool = False, traces: bool = False):
        self.capability, self.traces, self.memory = capability, traces, 14_500_000_000
        self.place = torch.device("meta") if hollow else CPU
        self.waits: Counter[str] = Counter()  # by line and reason
        self.staged: Counter[str] = Counter()  # copies that do not wait, from memory that is not pinned
        self.moved: Counter[str] = Counter()  # bytes, up and down
        self.operations: Counter[str] = Counter()
        self.on_operation: Callable[..., None] | None = None  # called with each
        self.on_cpu_operation: Callable[..., None] | None = None

    def clear(self) -> None:
        """Forget what was counted."""
        for counter in (self.waits, self.staged, self.moved, self.operations):
            counter.clear()

    def wait(self, reason: str) -> None:
        self.waits.update([f"{line_of_package()}: {reason}"])

    def count(self, function: Any, args: Any, kwargs: Any, output: Any) -> None:
        if has_kernel(function):
            self.operations.update([function._schema.name.split("::")[1]])
            if self.on_operation:
                self.on_operation(function, args, kwargs, output)

    def __enter__(self) -> Card:
        global active
        self.stack = ExitStack()
        answers: dict[str, Callable[..., Any]] = {
            "is_available": lambda: True,
            "device_count": lambda: 1,
            "current_device": lambda: 0,
            "_lazy_init": lambda: None,
            "get_device_capability": lambda *_: self.capability,
            "get_device_name": lambda *_: "a pretended card",
            "mem_get_info": lambda *_: (self.memory, self.memory),
            "memory_reserved": lambda *_: 0,
            "memory_allocated": lambda *_: 0,
            "max_memory_allocated": lambda *_: 0,
            "reset_peak_memory_stats": lambda *_: None,
            "empty_cache": lambda: None,
            "synchronize": lambda *_: None,
            "current_stream": lambda *_: mock.Mock(),
            "is_bf16_supported": lambda *_, **__: self.capability >= (8, 0),
        }
        for name, answer in answers.items():
            self.stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        self.stack.enter_context(mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", attention))
        self.stack.enter_context(mock.patch.object(torch, "Generator", Generator))
        self.stack.callback(card_generators.clear)
        forget_caches()
        self.stack.callback(forget_caches)
        self.restore(torch.backends.cudnn, "enabled", False)  # its batch norm asks the driver
        swaps = torch.__future__.get_swap_module_params_on_conversion()  # parameters keep their class as they move
        torch.__future__.set_swap_module_params_on_conversion(True)
        self.stack.callback(torch.__future__.set_swap_module_params_on_conversion, swaps)
        lifts = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        self.stack.callback(torch._C._set_only_lift_cpu_tensors, lifts)
        if self.traces:
            self.stack.enter_context(torch.autograd.set_detect_anomaly(True, check_nan=False))
        self.stack.enter_context(_Dispatch())
        active = self
        return self

    def __exit__(self, *_: Any) -> None:
        global active
        active = None
        self.stack.close()

    def restore(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute until the card goes."""
        self.stack.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)


active: Card | None = None


def take_step(card: Card, folder: Path, count: Callable[..., Any] | None = None, **settings: Any) -> tuple[int, int]:
    """Take the first step of a run and its frame, then count the waits and operations of a step or of ``count``."""
    run = clipgen.Run("a cat", folder=folder, device="cuda", **{"steps": 9, "every": 9} | settings)
    frames = iter(run)
    next(frames)
    card.clear()
    count(frames) if count else run.optimization.advance()
    counted = sum(card.waits.values()), sum(card.operations.values())
    frames.close()
    return counted


@contextmanager
def published_shapes() -> Iterator[None]:
    """Load published nets as shapes without weights, for a hollow card; ViT-B/32 is the only CLIP.

    Memory is enough for any step, and states are not saved: they have no numbers.
    """
    import open_clip

    from clipgen.clip.openclip import OpenCLIP
    from clipgen.memory import MemoryPlan
    from clipgen.runs.frames import FrameWriter
    from clipgen.storage import remote, weights

    vit = weights.build_empty(open_clip.create_model, {"model_name": "ViT-B-32", "device": "meta"})
    loaded = vit, open_clip.get_tokenizer("ViT-B-32"), None
    with (
        mock.patch.object(OpenCLIP, "load", staticmethod(lambda name: loaded)),
        mock.patch.object(remote, "fetch_weights", lambda *_: {}),
        mock.patch.object(weights, "assign_weights", lambda *_: None),
        mock.patch.object(MemoryPlan, "plan", lambda *_: None),
        mock.patch.object(FrameWriter, "write_state", lambda *_: None),
    ):
        yield


def forget_caches() -> None:
    """Empty the caches of clipgen's rooms that know of torch: tensors and facts of another card."""
    for name, module in list(sys.modules.items()):
        if name.startswith("clipgen") and vars(module).keys() & {"torch", "Tensor"}:
            for function in list(vars(module).values()):
                getattr(function, "cache_clear", lambda: None)()


if is_possible():
    allow_backward()
