"""A plain run's step beside nothing but its parts: what the loop costs that they are put together with.

Both in one process, in turns, with the same cutouts of the same picture; after the last step both have the same latent,
to the bit, so that nothing was left out. Seconds are CPU time, which other programs leave alone.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import clipgen
from clipgen.losses.prompt_loss import PromptLoss, Targets, prompt_distance

WARM = 3  # turns before it counts; the first frame is among them


def whole(run: clipgen.Run) -> Iterator[torch.Tensor]:
    """Yield the latent after each step of a run, with all that happens between two steps."""
    with run.session():
        while run.prepare_step():
            run.record_step(run.optimization.advance())
            yield run.optimization.latent


def bare(run: clipgen.Run) -> Iterator[torch.Tensor]:
    """Yield the latent after each of the same steps by hand: decode, cut out, encode, go back, move."""
    with run.session():
        run.prepare_step()
        optimization = run.optimization
    spec, rng, weights = optimization.spec, optimization.rng, torch.ones(1)
    generator, config, loss = spec.generator, spec.optimizer, spec.losses[0]
    assert isinstance(loss, PromptLoss)
    (perceptor, _), (embeddings,) = loss.perceptors[0], loss.embeddings
    targets = Targets(embeddings, weights, torch.tensor([-math.inf])).to(embeddings.device)
    latent, ema_latent = optimization.latent.detach().clone().requires_grad_(), optimization.ema_latent.clone()
    optimizer = config.create(latent)
    for step in range(run.settings.steps):
        optimizer.param_groups[0]["lr"] = config.lr_at(step / run.settings.steps, generator.lr, False)
        optimizer.zero_grad()
        image = generator.image(latent, step / run.settings.steps, rng)
        image_copy = image.detach().requires_grad_()
        cutouts = loss.cutouts.sample(image.shape, perceptor.size, rng, perceptor.patches).render(image_copy)
        prompt_distance(perceptor.encode_image(cutouts), targets).backward()
        image.backward(image_copy.grad)
        optimizer.step()
        generator.project_(latent)
        ema_latent.lerp_(latent.detach(), 1 - config.ema)
        yield latent


def compared(rounds: int, folder: Path, **settings: Any) -> dict[str, Any]:
    """CPU seconds of a step and of its parts, both medians, and the median of the ratio of the two."""
    asked = {"init": "random", "steps": 10**5, "every": 10**5} | settings
    run, other = (clipgen.Run("a red apple", folder=folder, **asked) for _ in range(2))
    sides = {"run": whole(run), "parts": bare(other)}
    pairs = []
    for turn in range(rounds + WARM):
        took, latents = {}, {}
        for name in sorted(sides, reverse=turn % 2):
            began = time.process_time()
            latent = next(sides[name])
            if latent.is_cuda:
                torch.cuda.synchronize()
            took[name], latents[name] = time.process_time() - began, latent.detach()
        assert torch.equal(*latents.values()), "these are not the same steps"
        pairs.append((took["run"], took["parts"]))
    one, parts = zip(*pairs[WARM:], strict=True)
    ratios = sorted(a / b for a, b in pairs[WARM:])
    told = {"a run's step": statistics.median(one), "its parts": statistics.median(parts)}
    quarters = statistics.quantiles(ratios, n=4)
    return told | {"ratio": quarters[1], "quartiles": f"{quarters[0]:.3f} to {quarters[2]:.3f}"}
