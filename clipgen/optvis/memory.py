"""Gradients in as many passes as the memory asks for."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch

from clipgen.errors import ClipgenError
from clipgen.optvis.objectives import Moment, Objective


class Memory:
    """Backward passes that survive running out of memory: the same views then go through CLIP in more parts."""

    def __init__(self, passes: int):
        self.passes = self.asked = passes

    def backward(self, objectives: Sequence[Objective], moment: Moment, most: int) -> float:
        """Collect the gradients of all objectives on the moment's image and latent; returns the loss.

        ``most``: so many passes at most, one for each view. Raises ClipgenError when that is not enough.
        """
        numbers = moment.rng.get_state()
        while True:
            moment.passes, moment.scores = self.passes, {}
            try:
                loss = 0.0
                for objective in objectives:
                    for term in objective.terms(moment):
                        term.backward()
                        loss += float(term.detach())
                return loss
            except RuntimeError as error:
                self._split(error, moment, most)
            moment.rng.set_state(numbers)  # the same views again
            moment.image.grad = moment.latent.grad = None

    def _split(self, error: RuntimeError, moment: Moment, most: int) -> None:
        """Make more of the passes, or raise what cannot be helped."""
        if not (isinstance(error, torch.cuda.OutOfMemoryError) or "alloc" in str(error).lower()):
            raise error
        if self.passes >= most:
            raise ClipgenError(
                "out of memory with one cutout at a time; lower size, or choose a smaller perceptor"
            ) from error
        if moment.image.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.passes == self.asked:
            warnings.warn("memory is short: the cutouts go through CLIP in several passes now", stacklevel=4)
        self.passes = min(2 * self.passes, most)
