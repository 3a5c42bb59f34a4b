"""A text tower that leaves the memory while no text is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import torch
from safetensors import safe_open
from torch import Tensor, nn

from clipgen.errors import ClipgenError


class Resting:
    """The matrices beside a net's ``visual``, as far as a safetensors file has the same ones under the same names.

    A run needs the text tower when it begins and when it is steered; of ViT-B/32 it is 0.25 GB. Between the two its
    weights are in the file alone, and come back by memory map.
    """

    def __init__(self, net: nn.Module, file: Path | None):
        self._file, self._one, self._weights = file, Lock(), dict[str, Tensor]()
        if file is None:
            return
        self._seen = _identity(file)
        with safe_open(file, "pt") as stored:
            for name, weight in net.named_parameters():
                if name.startswith("visual.") or weight.dim() < 2 or name not in stored.keys():  # noqa: SIM118
                    continue
                if torch.equal(stored.get_tensor(name).to(weight.dtype), weight):
                    self._weights[name] = weight
        self._rest()

    @contextmanager
    def awake(self) -> Iterator[None]:
        """For a while the weights are there, on the device that the net has."""
        with self._one:
            try:
                self._wake()
                yield
            finally:
                self._rest()

    def _wake(self) -> None:
        if not (self._file and self._weights):
            return
        if _identity(self._file) != self._seen:
            raise ClipgenError(f"{self._file} was deleted or changed while it was in use: load the perceptor again")
        with safe_open(self._file, "pt") as stored:
            for name, weight in self._weights.items():
                weight.data = stored.get_tensor(name).to(weight)

    def _rest(self) -> None:
        for weight in self._weights.values():
            weight.data = weight.new_empty(0)


def _identity(file: Path) -> tuple[int, int] | None:
    """What another file in its place has otherwise; None where there is none."""
    if not file.is_file():
        return None
    return file.stat().st_mtime_ns, file.stat().st_size
