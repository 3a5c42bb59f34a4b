"""The optimiser of a latent, its learning rate schedule, and the average that frames show."""

import inspect
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from clipgen import fast
from clipgen.errors import ClipgenError
from clipgen.fast.adam import Adam
from clipgen.setting import setting as declare

setting = partial(declare, section="optimizer")


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser and its schedule. Raises ClipgenError for an optimiser that needs more than a gradient."""

    optimizer: str = setting(
        "Adam", "a class of torch.optim", common=("Adam", "AdamW", "RAdam", "RMSprop", "SGD"), live=False
    )
    lr: float = setting(0.15, "learning rate, in the unit of lr_unit", 1e-12, 1e6)
    lr_unit: str = setting(
        "own",
        "unit of lr: own (the generator's, such as its codebook's deviation), absolute (the latent's)",
        choices=("own", "absolute"),
    )
    beta2: float = setting(0.99, "decay of squared gradients, of Adam and AdamW", 0, 0.99999, live=False)
    eps: float = setting(
        1e-8, "epsilon of Adam and AdamW; lower it for small gradients, such as logits'", 1e-20, 1, live=False
    )
    weight_decay: float = setting(0.0, "weight decay of the latent, times lr", 0, 1, live=False)
    momentum: float = setting(0.0, "momentum of SGD and RMSprop", 0, 0.9999, live=False)
    nesterov: bool = setting(False, "Nesterov's momentum, of SGD", live=False)
    clip_grad: float = setting(0.0, "largest norm of the latent's gradient; 0: any", 0)
    schedule: str = setting(
        "auto",
        "schedule of the learning rate, down to 10% of lr (auto: constant with a camera, else cosine)",
        choices=("auto", "cosine", "linear", "constant"),
    )
    ema: float = setting(0.8, "decay of the latent's moving average, which is what is shown", 0, 0.99999)

    def __post_init__(self) -> None:
        if not _is_usable(getattr(torch.optim, self.optimizer, None)):
            names = sorted(name for name, kind in vars(torch.optim).items() if _is_usable(kind))
            raise ClipgenError(f"optimizer={self.optimizer!r}: choose one of: {', '.join(names)}")
        if self.momentum and self.optimizer not in ("SGD", "RMSprop"):
            raise ClipgenError(f"momentum={self.momentum}: {self.optimizer} takes none; choose optimizer='SGD'")
        if self.nesterov and not (self.momentum and self.optimizer == "SGD"):
            raise ClipgenError("nesterov=True: needs optimizer='SGD' and a momentum, such as 0.9")

    def create(self, latent: Tensor) -> torch.optim.Optimizer | Adam:
        """Return a new optimiser for a latent."""
        kind = fast.optimizer_class(self.optimizer)
        arguments = inspect.signature(kind).parameters
        names = [name for name in ("lr", "weight_decay", "momentum", "nesterov") if name in arguments]
        options: dict[str, Any] = {name: getattr(self, name) for name in names}
        if self.optimizer in ("Adam", "AdamW"):
            options |= {"betas": (0.9, self.beta2), "eps": self.eps}
        return kind([latent], **options)

    def clip_gradient_(self, gradient: Tensor) -> None:
        """Scale a gradient in place so that its norm is at most ``clip_grad``, as torch's ``clip_grad_norm_`` does."""
        if self.clip_grad:
            gradient.mul_((self.clip_grad / (gradient.norm() + 1e-6)).clamp(max=1))

    def lr_at(self, progress: float, unit: float, has_camera: bool) -> float:
        """Return the learning rate at ``progress`` in [0, 1]; ``unit``: the generator's own unit of it."""
        # A still picture converges; what a camera moves through is painted to the end.
        schedule = ("constant" if has_camera else "cosine") if self.schedule == "auto" else self.schedule
        decay = {"cosine": 0.5 * (1 + math.cos(math.pi * progress)), "linear": 1 - progress, "constant": 1.0}[schedule]
        return self.lr * (unit if self.lr_unit == "own" else 1.0) * (0.1 + 0.9 * decay)


def _is_usable(kind: Any) -> bool:
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)) or kind is torch.optim.Optimizer:
        return False
    # These need a closure, sparse gradients or matrices.
    return kind.__name__ not in ("LBFGS", "SparseAdam", "Muon")
