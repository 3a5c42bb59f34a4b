"""A text tower that is in memory only while a text is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import torch
from safetensors import safe_open
from torch import Tensor, nn

from clipgen.errors import ClipgenError


class OffloadedTextTower:
    """The matrices of a net beside its ``visual``, read from a safetensors file by memory map when they are needed.

    A run reads texts when it begins and when its prompt is changed; ViT-B/32's text tower takes 0.25 GB. Only matrices
    that the file has, with the same values and names, are offloaded.
    """

    def __init__(self, net: nn.Module, file: Path | None):
        self._file, self._lock, self._weights = file, Lock(), dict[str, Tensor]()
        if file is None:
            return
        self._version = _version(file)
        with safe_open(file, "pt") as stored:
            names = set(stored.keys())
            for name, weight in net.named_parameters():
                if name.startswith("visual.") or name not in names or weight.dim() < 2:
                    continue
                if torch.equal(stored.get_tensor(name).to(weight.dtype), weight):
                    self._weights[name] = weight
        self._unload()

    @contextmanager
    def loaded(self) -> Iterator[None]:
        """Have the weights in memory, on the net's device, for the time of a ``with``. One thread at a time."""
        with self._lock:
            try:
                self._load()
                yield
            finally:
                self._unload()

    def _load(self) -> None:
        if not (self._file and self._weights):
            return
        if _version(self._file) != self._version:
            raise ClipgenError(f"{self._file} was deleted or changed while it was in use: load the perceptor again")
        with safe_open(self._file, "pt") as stored:
            for name, weight in self._weights.items():
                weight.data = stored.get_tensor(name).to(weight)

    def _unload(self) -> None:
        for weight in self._weights.values():
            weight.data = weight.new_empty(0)


def _version(file: Path) -> tuple[int, int] | None:
    """Return the time and size of a file, which another one in its place would have otherwise; None without a file."""
    return (file.stat().st_mtime_ns, file.stat().st_size) if file.is_file() else None
