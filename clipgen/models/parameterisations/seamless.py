"""A generator whose pictures repeat without a seam: what lies beyond one edge is what lies before the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from clipgen.models.computing import Block
from clipgen.models.parameterisations.protocol import Randomness


class Seamless:
    """A parameterisation with all that it has, whose net pads with the other side of the picture instead of zeros."""

    def __init__(self, param: Any):
        self._param = param

    def __getattr__(self, name: str) -> Any:
        return getattr(self._param, name)

    def spare(self) -> bool:
        """Nothing can be spared: what is computed again in the backward pass would be padded with zeros."""
        return False

    def image(self, latent: Tensor, progress: float = 1.0, rng: Randomness | None = None) -> Tensor:
        """The picture of a latent, with a gradient."""
        with circular(getattr(self._param, "net", None)):
            return self._param.image(latent, progress, rng)


@contextmanager
def circular(net: nn.Module | None) -> Iterator[None]:
    """For a while all convolutions of a net that pad do so with the other side; its weights are left alone.

    Blocks that forget keep what they compute meanwhile.
    """
    modules = [*net.modules()] if net else []
    padding = [module for module in modules if getattr(module, "padding_mode", "") == "zeros"]
    sparing = [module for module in modules if isinstance(module, Block) and module.sparing]
    for module in padding:
        module.padding_mode = "circular"  # type: ignore[assignment]
    for block in sparing:
        block.sparing = False
    try:
        yield
    finally:
        for module in padding:
            module.padding_mode = "zeros"  # type: ignore[assignment]
        for block in sparing:
            block.sparing = True
