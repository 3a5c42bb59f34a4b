"""Adam and AdamW for one latent: the numbers of ``torch.optim``, without importing torch's compiler."""

import math
from typing import Any

import torch
from torch import Tensor

MOMENTS = "exp_avg", "exp_avg_sq"


class Adam:
    """Kingma and Ba 2015, ``weight_decay`` added to the gradient. State and arguments are named as torch's."""

    decoupled = False  # whether weight decay is separate from the gradient

    def __init__(
        self,
        params: list[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        (self.latent,) = params
        group = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "eps": eps}
        self.param_groups: list[dict[str, Any]] = [group]
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
            self.state = {"step": torch.zeros(()), **{name: torch.zeros_like(self.latent) for name in MOMENTS}}
        step = self.state["step"].item() + 1
        latent, exp_avg, exp_avg_sq = self.latent, self.state["exp_avg"], self.state["exp_avg_sq"]
        denom = torch.empty_like(exp_avg_sq)  # allocated before anything moves: memory may be short
        if self.decoupled:
            latent.mul_(1 - lr * decay)
        elif decay:
            gradient = gradient.add(latent, alpha=decay)
        exp_avg.lerp_(gradient, 1 - beta1)
        exp_avg_sq.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        torch.sqrt(exp_avg_sq, out=denom).div_(math.sqrt(1 - beta2**step)).add_(group["eps"])
        latent.addcdiv_(exp_avg, denom, value=-lr / (1 - beta1**step))
        self.state["step"] += 1

    def state_dict(self) -> dict[str, Any]:
        return {"state": {0: self.state} if self.state else {}, "param_groups": self.param_groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = state_dict["state"].get(0)
        if state:
            moments = {name: state[name].to(self.latent, copy=True).view_as(self.latent) for name in MOMENTS}
            self.state = {"step": state["step"].clone(), **moments}
        else:
            self.state = {}
        self.param_groups = [{key: group[key] for key in self.param_groups[0]} for group in state_dict["param_groups"]]


class AdamW(Adam):
    """Loshchilov and Hutter 2019: each step multiplies the latent by ``1 - lr * weight_decay``."""

    decoupled = True
