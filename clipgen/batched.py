"""Several pictures in the making, in one tensor: faster than one after another where a device has room for more."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from clipgen.clip.protocol import Perceptor
from clipgen.losses.objectives import Moment
from clipgen.losses.prompt_loss import Look, PromptLoss
from clipgen.memory import empty, scarce
from clipgen.optimize import Render


class Together:
    """Makes a step of renders that share their models, their size and the step that they are at.

    Their latents go through the decoder as one, and all views of one perceptor are looked at together; prompts, random
    numbers, optimisers and averages are each render's own. A picture is the one that it would be alone, to rounding,
    and alone ``Render.advance`` makes it. Where memory is short, fewer go together.
    """

    def __init__(self) -> None:
        self.most: int | None = None  # renders at once, once too many were tried

    def advance(self, renders: Sequence[Render]) -> list[dict[str, Tensor]]:
        """Make one step of each; returns what ``Render.advance`` does, for each."""
        if len(renders) == 1:
            return [renders[0].advance()]
        if self.most and len(renders) > self.most:
            return self.advance(renders[: self.most]) + self.advance(renders[self.most :])
        numbers = [render.rng.get_state() for render in renders]
        try:
            made = _differentiate(renders)
        except (RuntimeError, MemoryError) as error:
            if not scarce(error):
                raise
        else:  # all are ready, so that all step
            for render, scores in zip(renders, made):
                render.move(scores["loss"])
            return made
        empty(renders[0].latent.device)
        self.most = len(renders) // 2
        warnings.warn(f"memory is short: at most {self.most} pictures are made together now", stacklevel=2)
        for render, state in zip(renders, numbers):
            render.rng.set_state(state)  # the same views again
        return self.advance(renders)


def _differentiate(renders: Sequence[Render]) -> list[dict[str, Tensor]]:
    """Leave the gradients of a step at the latents; returns the scores of each render."""
    r, progress = renders[0].recipe, renders[0].step / renders[0].recipe.steps
    for render in renders:
        render.begin_step()
    latents, numbers = zip(*((render.latent, render.rng) for render in renders))
    decoded = r.param.image(torch.cat(latents), progress, numbers).split(1)
    images = [render.masked(picture) for render, picture in zip(renders, decoded)]
    leaves = [image.detach().requires_grad_() for image in images]
    moments = [
        Moment(leaf, render.latent, render.step, render.recipe, render.rng, render.memory.passes)
        for render, leaf in zip(renders, leaves)
    ]
    losses = _backward(moments, [render.scaling.factor for render in renders])
    pulled = [(image, leaf) for image, leaf in zip(images, leaves) if image.requires_grad and leaf.grad is not None]
    if pulled:
        torch.autograd.backward([image for image, _ in pulled], [leaf.grad for _, leaf in pulled])
    return [moment.scores | {"loss": loss} for moment, loss in zip(moments, losses)]


def _backward(moments: Sequence[Moment], factors: Sequence[float]) -> list[Tensor]:
    """``Memory.backward``, for several: collects the gradients of all objectives; returns each moment's loss."""
    losses = [torch.zeros((), device=moment.image.device) for moment in moments]

    def back(terms: Sequence[tuple[int, Tensor]]) -> None:
        """One pass back from terms of different moments, each with its moment's number."""
        tensors = [term for _, term in terms]
        torch.autograd.backward(tensors, [torch.full_like(term, factors[i]) for i, term in terms])
        for i, term in terms:
            losses[i] = losses[i] + term.detach().reshape(())

    for looks in zip_longest(*map(_looks, moments)):  # of each moment the next one, where there is one
        like: dict[tuple[Perceptor, int | None], list[tuple[Any, ...]]] = {}  # what one call can look at
        for i, look in enumerate(looks):
            if look:
                views, kept = look.show()
                width = None if kept is None else kept.shape[1]
                like.setdefault((look.perceptor, width), []).append((i, look.worth, views, kept))
        for (perceptor, width), ours in like.items():
            numbers, worths, views, kept = zip(*ours)
            seen = perceptor.encode_image(torch.cat(views), None if width is None else torch.cat(kept))
            parts = seen.split([len(each) for each in views])
            back([(i, worth(part)) for i, worth, part in zip(numbers, worths, parts)])
    for i, moment in enumerate(moments):
        for objective in moment.recipe.objectives:
            if not isinstance(objective, PromptLoss):
                for term in objective.terms(moment):
                    back([(i, term)])
    return losses


def _looks(moment: Moment) -> Iterator[Look]:
    for objective in moment.recipe.objectives:
        if isinstance(objective, PromptLoss):
            yield from objective.looks(moment)
