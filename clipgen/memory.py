"""A step in as many parts as the memory asks for: planned before the first one, and split further where that fails."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from clipgen.errors import ClipgenError
from clipgen.fast import heap
from clipgen.losses.objectives import Moment, Recipe

T = TypeVar("T")
SMALL = 8  # places of a latent's side on which its decoder is measured
MARGIN = 1.3  # what is computed beside what is kept, such as the widest layer's gradient
AMPLE = 4  # times what a step needs, which with its gaps holds two and a half: where so much is free, they do no harm
# What CUDA, cuDNN, cuBLAS and their kin, other accelerators and CPUs say when memory runs out. The libraries have no
# better words where there is no room for their handles and workspaces.
_SHORTAGE = re.compile(
    r"out of memory|not enough memory|bad_?alloc|memory ?allocation|alloc(ation)?_? ?failed"
    r"|(can.?t|cannot|could not|failed to|unable to|tried to) allocate|status_?not_?initialized"
    r"|unable to find an engine|find a valid cudnn algorithm",
    re.IGNORECASE,
)


class Memory:
    """How a step is parted: ``passes`` of views through CLIP, and whether the decoder keeps less and computes more."""

    def __init__(self, passes: int):
        self.passes = self.asked = passes

    def plan(self, recipe: Recipe, latent: Tensor) -> None:
        """Part a step so that it fits into the memory that is free, with a warning where it does not.

        What a decoder and a perceptor keep for the backward pass is measured on a small latent and one view of each.
        Nothing is planned for a generator that has nothing to spare, and where nobody says what is free.
        """
        spare = getattr(recipe.param, "spare", None)
        if spare is None or (room := free(latent.device)) is None:
            return
        try:
            decoder, views = _decoder(recipe, latent), _views(recipe)
        except (RuntimeError, MemoryError) as error:
            if not scarce(error):
                raise
            return  # not even this fits: the step will tell

        def needed() -> float:
            return MARGIN * (decoder + views / self.passes)

        whole = needed()
        if latent.device.type == "cpu":
            heap.suit(self, AMPLE * whole < room)
        while needed() > room and self.passes < recipe.views and views / self.passes > decoder / 4:
            self.passes = min(2 * self.passes, recipe.views)
        if needed() > room and spare():
            decoder = _decoder(recipe, latent)
        said = (
            f"{_size(recipe, latent)} with {recipe.views} views needs about {whole / 1e9:.1f} GB, {room / 1e9:.1f} are"
        )
        if needed() > room:
            warnings.warn(f"{said} free: it may not fit; lower size, or choose a smaller perceptor", stacklevel=4)
        elif whole > room:
            warnings.warn(f"{said} free: passes={self.passes}, and the step takes longer", stacklevel=4)

    def part(self, passes: int, recipe: Recipe, latent: Tensor) -> None:
        """Make a step in so many passes from now on, or in more where memory asks for them, if so many are new."""
        if passes != self.asked:
            self.passes = self.asked = passes
            self.plan(recipe, latent)

    def close(self) -> None:
        """There are no more steps."""
        heap.leave(self)

    def backward(self, moment: Moment, factor: float) -> Tensor:
        """Collect the gradients of all objectives on the moment's image and latent, times ``factor``; their loss."""
        loss = torch.zeros((), device=moment.image.device)
        for objective in moment.recipe.objectives:
            for term in objective.terms(moment):
                (term * factor).backward()
                loss = loss + term.detach().reshape(())
        return loss

    def relieve(self, error: RuntimeError | MemoryError, recipe: Recipe) -> None:
        """Take less memory from now on. Raises the error if it is another, ClipgenError where nothing is left to do.

        What the error still holds can be given back only after it was left: see ``empty``.
        """
        if not scarce(error):
            raise error
        if self.passes < recipe.views:
            if self.passes == self.asked:
                warnings.warn("memory is short: the cutouts go through CLIP in several passes now", stacklevel=4)
            self.passes = min(2 * self.passes, recipe.views)
        elif not getattr(recipe.param, "spare", bool)():
            first_line = str(error).partition("\n")[0]
            raise ClipgenError(
                f"out of memory with one cutout at a time ({first_line}); lower size, or choose a smaller perceptor"
            ) from error.with_traceback(None)  # which a notebook would hold, and with it all that this step took


def scarce(error: BaseException) -> bool:
    """Whether memory ran out: some backends have an error of their own for that, the others only words."""
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or bool(_SHORTAGE.search(str(error)))


def empty(device: torch.device) -> None:
    """Give back what an attempt left that failed for want of memory.

    To be called when the ``except`` is left: until then the error holds the frames, and they the attempt's tensors.
    """
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).empty_cache()
    elif device.type == "cpu":
        heap.give_back()


def again(part: Callable[[], T], device: torch.device) -> T:
    """Return what a part of a step returns; where memory is short, when what lies unused was given back."""
    try:
        return part()
    except (RuntimeError, MemoryError) as error:
        if not scarce(error):
            raise
    empty(device)
    return part()


def free(device: torch.device) -> int | None:
    """Bytes that can still be had on a device; None where nobody says."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    heap.give_back()  # what an earlier run left
    return heap.free() if device.type == "cpu" else None


def kept(compute: Callable[[], Tensor]) -> int:
    """Bytes that a computation keeps for its backward pass, without the weights."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if not tensor.is_leaf or tensor.dtype == torch.bool:  # weights are leaves, and what relus keep
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor.detach()  # an output that holds itself by its own grad_fn is never freed

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        made = compute()
    return sum(storages.values()) + made.numel() * made.element_size()


def _decoder(recipe: Recipe, latent: Tensor) -> float:
    """Bytes that a picture of this latent keeps."""
    small = latent.detach()[..., :SMALL, :SMALL].clone().requires_grad_()
    share = latent.shape[-2] * latent.shape[-1] / (small.shape[-2] * small.shape[-1])
    return share * kept(lambda: recipe.param.image(small, 0.0, torch.Generator().manual_seed(0)))


def _views(recipe: Recipe) -> float:
    """Bytes that all views of the hungriest perceptor keep; they go through one after another."""
    most = 0
    for perceptor, _ in recipe.perceptors:
        view = torch.zeros(1, 3, perceptor.size, perceptor.size, device=recipe.param.device, requires_grad=True)
        shown = recipe.cutouts.draw(view.shape, 1, torch.Generator(), perceptor.patches).patches(slice(1), view.device)
        most = max(most, kept(lambda: perceptor.encode_image(view, shown)))  # noqa: B023
    return recipe.views * most


def _size(recipe: Recipe, latent: Tensor) -> str:
    height, width = (n * recipe.param.stride for n in latent.shape[-2:])
    return f"{width}x{height}"
