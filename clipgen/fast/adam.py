"""Adam and AdamW for one latent: what torch.optim computes, without what importing it costs.

Creating one of torch's own optimisers imports its compiler: 1.5 s, a third of the time to the first preview.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

CHUNK = 2**18  # numbers that a CPU updates at a time, so that temporaries stay in its cache


class Adam:
    """Kingma and Ba 2015, ``weight_decay`` added to the gradient. Its state has the keys of torch's."""

    decoupled = False  # whether the latent itself decays, instead of the gradient

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
        """Update the latent by its gradient."""
        gradient, group = self.latent.grad, self.param_groups[0]
        lr, decay, (beta1, beta2) = group["lr"], group["weight_decay"], group["betas"]
        assert gradient is not None
        if not self.state:
            self.state = {"step": torch.zeros(()), **{name: torch.zeros_like(self.latent) for name in _MOMENTS}}
        step = self.state["step"].item() + 1
        tensors = self.latent, gradient, *(self.state[name] for name in _MOMENTS)
        chunks = math.ceil(self.latent.numel() / CHUNK) if self.latent.device.type == "cpu" else 1
        rows = -min(2, self.latent.dim())
        for latent, gradient, mean, square in zip(*(each.chunk(chunks, rows) for each in tensors), strict=True):
            spread = torch.empty_like(square)  # allocated before anything changes: memory may run out
            if self.decoupled:
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

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Load what ``state_dict`` returned, onto the latent's device."""
        state = dict(saved["state"].get(0, {}))
        self.state = {name: state[name].to(self.latent, copy=True).view_as(self.latent) for name in _MOMENTS if state}
        self.state |= {"step": state["step"].clone()} if state else {}
        self.param_groups = [{key: group[key] for key in self.param_groups[0]} for group in saved["param_groups"]]


class AdamW(Adam):
    """Loshchilov and Hutter 2019: the latent itself decays, by ``lr * weight_decay`` a step."""

    decoupled = True


_MOMENTS = "exp_avg", "exp_avg_sq"
