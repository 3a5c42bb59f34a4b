"""How a latent moves: its optimiser, the fall of its learning rate, and the average that is shown."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from clipgen.errors import ClipgenError
from clipgen.fast.adam import Adam, AdamW
from clipgen.setting import setting as declare

setting = partial(declare, section="optimizer")


@dataclass(frozen=True)
class Descent:
    """The optimiser and its schedule. Raises ClipgenError for an optimiser that cannot drive a latent alone."""

    optimizer: str = setting(
        "Adam", "a class of torch.optim", common=("Adam", "AdamW", "RAdam", "RMSprop", "SGD"), live=False
    )
    lr: float = setting(0.15, "learning rate, in what lr_unit says, a step", 1e-12, 1e6)
    lr_unit: str = setting(
        "own",
        "what lr counts in: own (the generator's unit, such as deviations of its codebook), absolute (the latent's)",
        choices=("own", "absolute"),
    )
    beta2: float = setting(
        0.99, "of Adam and AdamW: how long gradients' squares are remembered", 0, 0.99999, live=False
    )
    eps: float = setting(
        1e-8, "of Adam and AdamW: a gradient far below this moves nothing; logits' are small", 1e-20, 1, live=False
    )
    weight_decay: float = setting(0.0, "how much of the latent each step takes away, times lr", 0, 1, live=False)
    schedule: str = setting(
        "auto",
        "how the learning rate falls (auto: constant with a camera, else cosine)",
        choices=("auto", "cosine", "linear", "constant"),
    )
    ema: float = setting(
        0.8, "how much of the average latent each step keeps: the average is what is shown", 0, 0.99999
    )

    def __post_init__(self) -> None:
        if not _usable(getattr(torch.optim, self.optimizer, None)):
            known = sorted(name for name, kind in vars(torch.optim).items() if _usable(kind))
            raise ClipgenError(f"optimizer={self.optimizer!r}: choose one of: {', '.join(known)}")

    def start(self, latent: Tensor) -> torch.optim.Optimizer | Adam:
        """A fresh optimiser for a latent."""
        if kind := {"Adam": Adam, "AdamW": AdamW}.get(self.optimizer):
            return kind([latent], self.lr, (0.9, self.beta2), self.weight_decay, self.eps)
        kind = getattr(torch.optim, self.optimizer)
        decays = "weight_decay" in inspect.signature(kind).parameters
        return kind([latent], lr=self.lr, **({"weight_decay": self.weight_decay} if decays else {}))

    def rate(self, progress: float, unit: float, moving: bool) -> float:
        """The learning rate; ``unit``: the generator's own, ``moving``: whether a camera moves through the picture."""
        # A picture settles; what a camera moves through has to be painted to the end.
        schedule = ("constant" if moving else "cosine") if self.schedule == "auto" else self.schedule
        fall = {"cosine": 0.5 * (1 + math.cos(math.pi * progress)), "linear": 1 - progress, "constant": 1.0}[schedule]
        return self.lr * (unit if self.lr_unit == "own" else 1.0) * (0.1 + 0.9 * fall)


def _usable(kind: Any) -> bool:
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)) or kind is torch.optim.Optimizer:
        return False
    # These want a closure, sparse gradients or matrices.
    return kind.__name__ not in ("LBFGS", "SparseAdam", "Muon")
