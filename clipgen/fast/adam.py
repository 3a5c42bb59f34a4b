"""Adam and AdamW for one latent: what torch.optim computes, without what importing it costs.

Making an optimiser of torch's own imports its compiler, 1.5 s of a core, which is a third of the time to the first
preview. These two move nearly every run; the others are torch's.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

SLICE = 2**18  # numbers that a CPU moves at a time: what is made on the way stays in its cache


class Adam:
    """Kingma and Ba 2015, ``weight_decay`` added to the gradient.

    Of torch's optimisers it has what a render asks of one, and it keeps its state under their names.
    """

    apart = False

    def __init__(
        self,
        latents: list[Tensor],
        lr: float,
        betas: tuple[float, float],
        weight_decay: float = 0.0,
        eps: float = 1e-8,
    ):
        (self.latent,) = latents
        self.param_groups: list[dict[str, Any]] = [
            {"lr": lr, "betas": betas, "weight_decay": weight_decay, "eps": eps},
        ]
        self.state: dict[str, Tensor] = {}

    def zero_grad(self) -> None:
        self.latent.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move the latent by its gradient."""
        gradient, group = self.latent.grad, self.param_groups[0]
        lr, decay, (beta1, beta2) = group["lr"], group["weight_decay"], group["betas"]
        assert gradient is not None
        if not self.state:
            self.state = {"step": torch.zeros(()), **{name: torch.zeros_like(self.latent) for name in _MOMENTS}}
        step = self.state["step"].item() + 1
        whole = self.latent, gradient, *(self.state[name] for name in _MOMENTS)
        pieces = math.ceil(self.latent.numel() / SLICE) if self.latent.device.type == "cpu" else 1
        rows = -min(2, self.latent.dim())
        for latent, gradient, mean, square in zip(*(each.chunk(pieces, rows) for each in whole), strict=True):
            spread = torch.empty_like(square)  # taken before anything moves: memory may be short
            if self.apart:
                latent.mul_(1 - lr * decay)
            elif decay:
                gradient = gradient.add(latent, alpha=decay)
            mean.lerp_(gradient, 1 - beta1)
            square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            torch.sqrt(square, out=spread).div_(math.sqrt(1 - beta2**step)).add_(group["eps"])
            latent.addcdiv_(mean, spread, value=-lr / (1 - beta1**step))
        self.state["step"] += 1

    def state_dict(self) -> dict[str, Any]:
        return {"state": {0: self.state} if self.state else {}, "param_groups": self.param_groups}

    def load_state_dict(self, told: dict[str, Any]) -> None:
        """Become what ``state_dict`` told, on the latent's device."""
        kept = dict(told["state"].get(0, {}))
        self.state = {name: kept[name].to(self.latent, copy=True).view_as(self.latent) for name in _MOMENTS if kept}
        self.state |= {"step": kept["step"].clone()} if kept else {}
        self.param_groups = [{key: group[key] for key in self.param_groups[0]} for group in told["param_groups"]]


class AdamW(Adam):
    """Loshchilov and Hutter 2019: the latent itself decays, by ``lr * weight_decay`` of it a step."""

    apart = True


_MOMENTS = "exp_avg", "exp_avg_sq"
