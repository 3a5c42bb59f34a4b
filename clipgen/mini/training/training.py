"""What the stages have in common: where a stage works, the loop of its training, and the average that ships."""

from __future__ import annotations

import copy
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from clipgen import device as devices
from clipgen.generators.dvae import from_openai
from clipgen.mini import WEIGHTS
from clipgen.storage import weights

Placed = TypeVar("Placed", bound=Tensor | nn.Module)
Net = TypeVar("Net", bound=nn.Module)
SAVE_EVERY = 120  # seconds


@dataclass(frozen=True)
class Job:
    """What a stage is told: the folders of the data and of the checkpoints, how many minutes to train, and where."""

    cache: Path
    out: Path
    minutes: float
    device: torch.device

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        threads = f" ({torch.get_num_threads()} threads)" if name == "cpu" else ""
        return f"{self.minutes:g} minutes on {name}{threads} in {devices.full_range(self.device)}"

    def autocast(self) -> AbstractContextManager:
        """Computes in bfloat16 what can bear it, where the device multiplies it natively."""
        return devices.autocast(self.device, devices.full_range(self.device))

    def place(self, what: Placed) -> Placed:
        """A net or images on the device, channels last: the layout in which convolutions are fastest."""
        placed: Any = what
        return placed.to(self.device, memory_format=torch.channels_last)

    def compiled(self, function):
        """The function, compiled where there is a compiler and time to make up for it: up to twice as fast."""
        return torch.compile(function) if self.minutes >= 1 and shutil.which("g++") else function

    def read(self, name: str) -> dict[str, Any]:
        """What a stage left in ``out/name.pt``, on the CPU."""
        return torch.load(self.out / f"{name}.pt", map_location="cpu", weights_only=True)

    def shipped(self, stage: str) -> dict[str, Tensor]:
        """The averaged weights of a stage's model."""
        return {key.removeprefix("model."): value for key, value in self.read(stage)["average"].items()}

    def trained(self, stage: str, net: Net) -> Net:
        """A net with an earlier stage's averaged weights, for use."""
        net.load_state_dict(self.shipped(stage))
        return self.place(net.eval().requires_grad_(False))


def load_embedded(stem: str, kind: Callable[..., Net]) -> Net:
    """An embedded model as the package has it."""
    tensors, config = weights.load_weights(WEIGHTS / f"{stem}.safetensors")
    return weights.build_net(kind, config, from_openai(tensors) if stem == "dvae" else tensors, stem)


class Average(nn.Module):
    """Exponential moving average of a model, buffers included: what is shipped."""

    model: Any

    def __init__(self, model: nn.Module, decay: float = 0.998):
        super().__init__()
        self.decay = decay
        self.model = copy.deepcopy(model).eval()

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        for mine, theirs in zip(self.model.state_dict().values(), model.state_dict().values()):
            mine.lerp_(theirs, weight) if mine.is_floating_point() else mine.copy_(theirs)


class Training:
    """The loop of a stage: ``for progress in training`` runs from 0 to 1 in the minutes of the job.

    Each round ends with ``training.step(loss)``. ``nets`` are kept in ``out/name.pt`` every two minutes, with the time
    and the steps so far and the average of the net called model, and a stage that is started again with more minutes
    continues from there. ``clip`` is the largest norm of the model's gradient.
    """

    average: Any

    def __init__(
        self,
        job: Job,
        name: str,
        nets: dict[str, nn.Module],
        *optimisers: torch.optim.Optimizer,
        peak: float,
        clip: float | None = None,
        every: int = 100,
    ):
        self.job, self.name, self.optimisers = job, name, optimisers
        self.peak, self.clip, self.every = peak, clip, every
        self.average = Average(nets["model"]) if "model" in nets else None
        self.nets = nets | {"average": self.average} if self.average else nets
        self.file = job.out / f"{name}.pt"
        self.spent, self.steps = 0.0, 0
        if self.file.exists():
            state = job.read(name)
            self.spent, self.steps = state["spent"], state["steps"]
            for key, net in self.nets.items():
                net.load_state_dict(state[key])

    def __iter__(self) -> Iterator[float]:
        seconds, first, saved = 60 * self.job.minutes, self.steps, time.monotonic()
        while self.spent < seconds:
            began, progress = time.monotonic(), self.spent / seconds
            for optimiser in self.optimisers:
                learning_rate(optimiser, self.peak, progress)
                optimiser.zero_grad()
            yield progress
            if self.average:
                self.average.update(self.nets["model"], self.steps)
            self.steps += 1
            if self.steps - first <= 3 and self.job.device.type != "cpu":
                torch.accelerator.synchronize()
            took = time.monotonic() - began
            self.spent += took
            if self.steps - first == 3:  # the first ones also compile and warm up
                left = max(0, int((seconds - self.spent) / took))
                print(f"{self.name}: {took:.3g} s a step, time for about {left:,} more", flush=True)
            if time.monotonic() - saved > SAVE_EVERY:
                self.save()
                saved = time.monotonic()
        self.save()

    def step(self, loss: Tensor) -> None:
        """Backward, then a step of the optimisers, with what was backward before in the same round."""
        loss.backward()
        self.move()

    def move(self) -> None:
        """A step of the optimisers, with what was backward before in the same round."""
        if self.clip:
            nn.utils.clip_grad_norm_(self.nets["model"].parameters(), self.clip)
        for optimiser in self.optimisers:
            optimiser.step()

    @property
    def due(self) -> bool:
        """Whether this step is logged."""
        return self.steps % self.every == 0

    def log(self, **values) -> None:
        """A line of figures."""
        text = "  ".join(f"{k} {float(torch.as_tensor(v).detach()):.4f}" for k, v in values.items())
        print(f"{self.name} {self.spent / 60:6.1f} min  step {self.steps}  {text}", flush=True)

    def save(self) -> None:
        """Write the checkpoint, all or nothing."""
        state = {key: net.state_dict() for key, net in self.nets.items()}
        part = self.file.with_suffix(".part")
        torch.save(state | {"spent": self.spent, "steps": self.steps}, part)
        part.replace(self.file)


def learning_rate(optimiser: torch.optim.Optimizer, peak: float, progress: float, warm: float = 0.02) -> None:
    """Linear warm-up, then a cosine to 1% of the peak; a group's ``scale`` is a factor of its own."""
    rate = peak * min(1.0, progress / warm + 0.01) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
    for group in optimiser.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)


def save_weights(file: Path, tensors: dict[str, Tensor], config: dict, eight_bit: tuple[str, ...] = ()) -> None:
    """Save in 16 bits; the matrices named in ``eight_bit`` in 8 bits with one scale per row."""
    stored = {}
    for key, tensor in tensors.items():
        if key in eight_bit:
            scale = tensor.abs().amax(1, keepdim=True).clamp(min=1e-8) / 127
            stored[key], stored[f"{key}.scale"] = (tensor / scale).round().to(torch.int8), scale
        else:
            # Vectors stay as they are: the variances of batch norms overflow in 16 bits.
            stored[key] = tensor.half() if tensor.is_floating_point() and tensor.dim() > 1 else tensor
    stored = {key: tensor.detach().contiguous() for key, tensor in stored.items()}
    save_file(stored, file, {"config": json.dumps(config)})
