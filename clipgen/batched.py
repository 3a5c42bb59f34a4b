"""Several optimisations in one tensor, which is faster where a device has room for more than one picture."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from itertools import zip_longest

import torch
from torch import Tensor

from clipgen.clip.base import Perceptor
from clipgen.losses.loss import StepContext
from clipgen.losses.prompt_loss import PromptLoss, ViewBatch
from clipgen.memory import is_oom, release
from clipgen.optimize import Optimization


class BatchedSteps:
    """Steps of optimisations that share their models, their size and their step.

    Their latents go through the decoder as one tensor, and the cutouts for one CLIP as one; all else is each one's own.
    The pictures are those of ``Optimization.advance``, to rounding. Where memory runs out, the batch is halved.
    """

    def __init__(self) -> None:
        self.max_size: int | None = None  # known once memory ran out

    def advance(self, optimizations: Sequence[Optimization]) -> list[dict[str, Tensor]]:
        """Take one step of each; return what ``Optimization.advance`` returns, for each."""
        if len(optimizations) == 1:
            return [optimizations[0].advance()]
        if self.max_size and len(optimizations) > self.max_size:
            return self.advance(optimizations[: self.max_size]) + self.advance(optimizations[self.max_size :])
        rng_states = [one.rng.get_state() for one in optimizations]
        try:
            scores = compute_gradients(optimizations)
        except (RuntimeError, MemoryError) as error:
            if not is_oom(error):
                raise
        else:
            for one, own_scores in zip(optimizations, scores, strict=True):
                one.update_latent(own_scores["loss"])
            return scores
        release(optimizations[0].latent.device)
        self.max_size = len(optimizations) // 2
        warnings.warn(f"memory is short: at most {self.max_size} pictures are made together now", stacklevel=2)
        for one, state in zip(optimizations, rng_states, strict=True):
            one.rng.set_state(state)  # the same cutouts again
        return self.advance(optimizations)


def compute_gradients(optimizations: Sequence[Optimization]) -> list[dict[str, Tensor]]:
    """Do ``Optimization.compute_gradient`` for several; return the scores of each."""
    for one in optimizations:
        one.begin_step()
    latents, rngs = [one.latent for one in optimizations], [one.rng for one in optimizations]
    spec, progress = optimizations[0].spec, optimizations[0].step / optimizations[0].spec.steps
    decoded = spec.generator.image(torch.cat(latents), progress, rngs).split(1)
    images = [one.apply_mask(image) for one, image in zip(optimizations, decoded, strict=True)]
    contexts = [
        one.context(image.detach().requires_grad_(), one.rng) for one, image in zip(optimizations, images, strict=True)
    ]
    losses = backward_all(contexts, [one.loss_scaler.scale for one in optimizations])
    pairs = [(image, context.image.grad) for image, context in zip(images, contexts, strict=True)]
    pairs = [(image, gradient) for image, gradient in pairs if image.requires_grad and gradient is not None]
    if pairs:
        torch.autograd.backward([image for image, _ in pairs], [gradient for _, gradient in pairs])
    return [context.scores | {"loss": loss} for context, loss in zip(contexts, losses, strict=True)]


def backward_all(contexts: Sequence[StepContext], scales: Sequence[float]) -> list[Tensor]:
    """Do ``optimize.backward`` for several; return the loss of each."""
    losses = [torch.zeros((), device=context.image.device) for context in contexts]

    def backward(terms: dict[int, Tensor]) -> None:
        """Go back from terms by the index of their context."""
        gradients = [torch.full_like(term, scales[i]) for i, term in terms.items()]
        torch.autograd.backward(list(terms.values()), gradients)
        for i, term in terms.items():
            losses[i] = losses[i] + term.detach().reshape(())

    for batches in zip_longest(*map(_view_batches, contexts)):  # the next batch of each, where there is one
        for some in _by_perceptor({i: batch for i, batch in enumerate(batches) if batch}):
            backward(_encode(some))
    for i, context in enumerate(contexts):
        for loss in context.spec.losses:
            if not isinstance(loss, PromptLoss):
                for term in loss.terms(context):
                    if term.requires_grad:
                        backward({i: term})
                    else:
                        losses[i] = losses[i] + term
    return losses


def _view_batches(context: StepContext) -> Iterator[ViewBatch]:
    for loss in context.spec.losses:
        if isinstance(loss, PromptLoss):
            yield from loss.view_batches(context)


Rendered = tuple[ViewBatch, Tensor, Tensor | None]


def _by_perceptor(batches: dict[int, ViewBatch]) -> list[dict[int, Rendered]]:
    """Render batches, and group those that one call of a CLIP can take."""
    groups: dict[tuple[Perceptor, int | None], dict[int, Rendered]] = {}
    for i, batch in batches.items():
        cutouts, patches = batch.render()
        key = batch.perceptor, None if patches is None else patches.shape[1]
        groups.setdefault(key, {})[i] = batch, cutouts, patches
    return list(groups.values())


def _encode(group: dict[int, Rendered]) -> dict[int, Tensor]:
    """Return the term of each batch of a group, encoded in one call."""
    batches, cutouts, patches = zip(*group.values(), strict=True)
    indices = None if patches[0] is None else torch.cat(patches)
    embeddings = batches[0].perceptor.encode_image(torch.cat(cutouts), indices)
    parts = embeddings.split([len(some) for some in cutouts])
    return {i: batch.evaluate(part) for i, batch, part in zip(group, batches, parts, strict=True)}
