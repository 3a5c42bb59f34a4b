"""Loss scaling: gradients that fp16 could not tell from zero are computed larger (Micikevicius et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

FIRST, MOST, PATIENCE = 2.0**16, 2.0**24, 100


class Scaling:
    """A factor on the loss, taken off its gradient again, as large as fp16's range allows; 1 without fp16.

    Where a gradient goes beyond that range, the factor is a quarter from then on; after PATIENCE good steps in a row,
    twice.
    """

    def __init__(self, precision: str):
        self.on = precision == "fp16"
        self.factor, self.good = (FIRST if self.on else 1.0), 0

    def unscale_(self, gradient: Tensor) -> None:
        """Take the factor off a gradient, in place."""
        if self.on:
            gradient.div_(self.factor)

    def too_large(self, finite: bool) -> bool:
        """Whether the factor was too large for a gradient, ``finite`` or not; it is less from then on.

        A gradient that is not finite without a factor either is no matter of scale.
        """
        if not self.on:
            return False
        if finite:
            self.good += 1
            if self.good == PATIENCE:
                self.factor, self.good = min(MOST, 2 * self.factor), 0
            return False
        had = self.factor
        self.factor, self.good = max(1.0, self.factor / 4), 0
        return had > 1

    @property
    def state(self) -> list[float]:
        """What the next step depends on, for ``restore``."""
        return [self.factor, self.good]

    def restore(self, state: Sequence[float]) -> None:
        """Become what ``state`` said, where there is fp16 here, too; run folders up to 0.2 say nothing."""
        if self.on and state:
            self.factor, self.good = state[0], int(state[1])
