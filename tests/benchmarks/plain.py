"""A plain run's step beside nothing but its parts: what the loop costs that they are put together with.

Both in one process, in turns, with the same views of the same picture; after the last step both have the same latent,
to the bit, so that nothing was left out. Seconds are CPU time, which other programs leave alone.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import clipgen
from clipgen.losses.prompt_loss import prompt_distance
from clipgen.optimize import Render
from clipgen.runs.course import Frame

WARM = 3  # turns before it counts; the first frame is among them


def whole(run: clipgen.Run) -> Iterator[torch.Tensor]:
    """The steps as a run makes them, with all that may happen between two; yields the latent after each."""
    going, scores = run.going(), None
    while True:
        if isinstance(said := going.send(scores), Frame):
            scores = None
        else:
            scores = said.advance()
            yield said.latent


def bare(run: clipgen.Run) -> Iterator[torch.Tensor]:
    """The same steps by hand: decode, cut out, look, go back, move. Yields the latent after each."""
    render = next(run.going())
    assert isinstance(render, Render)
    param, descent, loss = render.recipe.param, render.recipe.descent, render.recipe.objectives[0]
    (perceptor, _), (targets,) = loss.perceptors[0], loss.targets
    latent, average = render.latent.detach().clone().requires_grad_(), render.average.clone()
    optimizer, rng, weights = descent.start(latent), render.rng, torch.ones(1)
    for step in range(run.settings.steps):
        optimizer.param_groups[0]["lr"] = descent.rate(step / run.settings.steps, param.lr, False)
        optimizer.zero_grad()
        image = param.image(latent, step / run.settings.steps, rng)
        leaf = image.detach().requires_grad_()
        views = loss.cutouts.draw(leaf.shape, perceptor.size, rng, perceptor.patches).render(leaf)
        prompt_distance(perceptor.encode_image(views), targets, weights).backward()
        image.backward(leaf.grad)
        optimizer.step()
        param.project_(latent)
        average.lerp_(latent.detach(), 1 - descent.ema)
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
