"""The loss interface, and the specification of a step that losses are a part of."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clipgen.clip import Perceptor
from clipgen.cutouts import CutoutConfig
from clipgen.errors import ClipgenError
from clipgen.generators import Generator
from clipgen.images.camera import Camera
from clipgen.optimizers import OptimizerConfig
from clipgen.prompts import Prompt, weights_at
from clipgen.setting import fade_factors

LossFunction = Callable[[Tensor, Tensor, int], Tensor | float]  # (image (1, 3, H, W), latent, step) to a scalar


class InitTarget(NamedTuple):
    """A reference picture of the init loss, used while any of its prompts is active."""

    image: Tensor  # (1, 3, H, W) in [0, 1]
    latent: Tensor
    strength: float  # a factor on ``near``
    prompts: tuple[int, ...]  # indices of the prompts that it belongs to
    space: str = "latent"  # where the distance to it is measured with near_space="auto"
    draft_key: str = ""  # names the draft; when it changes, the run restarts from the new draft; empty: never restart


@dataclass(frozen=True)
class StepSpec:
    """Everything that a step computes with. Steering replaces it as a whole."""

    generator: Generator
    perceptors: Sequence[tuple[Perceptor, float]]  # with their weights, which sum to one
    prompts: Sequence[Prompt]
    losses: "Sequence[Loss]"
    init_targets: Sequence[InitTarget]
    optimizer: OptimizerConfig
    camera: Camera
    mask: Tensor | None  # (1, 1, H, W), 1 where the picture is painted
    steps: int
    cutouts: CutoutConfig
    precision: str = "fp32"  # of the models; fp16 needs loss scaling
    deterministic: bool = False  # whether gradients are computed by torch's deterministic algorithms

    def target_weights(self, step: int) -> list[float]:
        """Return the weight of each init target at a step: the sum of its positive prompts' weights."""
        weights = weights_at(self.prompts, step)
        return [sum(max(0.0, weights[i]) for i in target.prompts) for target in self.init_targets]

    def init_target(self, step: int, draft_key: str = "") -> InitTarget | None:
        """Return the init target with the largest weight at a step, or ``draft_key``'s until it has half faded."""
        weights, factors = self.target_weights(step), fade_factors([prompt.span for prompt in self.prompts], step)
        for target in self.init_targets:
            if target.draft_key and target.draft_key == draft_key and max(factors[i] for i in target.prompts) >= 0.5:
                return target
        return self.init_targets[weights.index(max(weights))] if any(weights) else None


@dataclass
class StepContext:
    """What losses see of a step."""

    image: Tensor  # (1, 3, H, W) in [0, 1]; a detached copy that collects the gradients of all losses
    latent: Tensor
    step: int
    spec: StepSpec
    rng: torch.Generator
    passes: int = 1  # the cutouts go through CLIP in this many parts
    scores: dict[str, Tensor] = field(default_factory=dict)  # scalars that losses report beside their value
    background: Tensor | None = None  # (1, 3, H, W), the picture that the run started from


class Loss:
    """Something to minimise. Implement ``loss``; or ``terms``, for one that is computed in parts."""

    name: str = "loss"

    def check(self, perceptors: Sequence[str]) -> None:
        """Raise ClipgenError if it cannot be computed with the perceptors of these names. Nothing is loaded."""

    def check_models(self, perceptors: Sequence[Perceptor]) -> None:
        """Raise ClipgenError if it cannot be computed with these perceptors."""

    def loss(self, context: StepContext) -> Tensor:
        """Return a scalar with a gradient to ``context.image`` or ``context.latent``."""
        raise NotImplementedError

    def terms(self, context: StepContext) -> Iterator[Tensor]:
        """Yield scalars that sum to the loss. The graph of each is freed before the next is computed."""
        yield self.loss(context)


class SumLoss(Loss):
    """The sum of several losses, in one graph with one backward pass."""

    def __init__(self, losses: Sequence[Loss]):
        self.losses = losses

    def terms(self, context: StepContext) -> Iterator[Tensor]:
        terms = [_to_scalar(term, loss, context) for loss in self.losses for term in loss.terms(context)]
        if terms:
            yield torch.stack(terms).sum()


class FunctionLoss(Loss):
    """A user's function ``(image, latent, step) -> scalar`` as a loss."""

    def __init__(self, function: LossFunction, name: str = ""):
        self.function = function
        self.name = name or getattr(function, "__name__", type(function).__name__)

    def loss(self, context: StepContext) -> Any:
        return self.function(context.image, context.latent, context.step)


def _to_scalar(value: Any, loss: Loss, context: StepContext) -> Tensor:
    """Return the value of a loss, which may be a number, as a scalar tensor."""
    if isinstance(value, Real):
        return torch.tensor(float(value), device=context.image.device)
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        value = value if value.is_floating_point() else value.float()
        return value.reshape(()).to(context.image.device)
    kind = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
    raise ClipgenError(f"losses: {loss.name} returned {kind} in step {context.step + 1}; return a number for each step")
