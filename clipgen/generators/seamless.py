"""A generator whose pictures repeat without a seam: what lies beyond one edge is what lies before the other."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from clipgen.generators.protocol import Randomness
from clipgen.precision import share_weights


class Seamless:
    """A parameterisation with all that it has, whose net pads with the other side of the picture instead of zeros.

    That net is its own, with the same weights: whoever shares the model, in whatever thread, has zeros around.
    """

    def __init__(self, param: Any):
        self._param, self._wrapped = param, share_weights(param)
        net = getattr(self._wrapped, "net", None)
        for module in net.modules() if net else ():
            if getattr(module, "padding_mode", "") == "zeros":
                module.padding_mode = "circular"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped if name == "spare" else self._param, name)

    def image(self, latent: Tensor, progress: float = 1.0, rng: Randomness | None = None) -> Tensor:
        """The picture of a latent, with a gradient."""
        return self._wrapped.image(latent, progress, rng)
