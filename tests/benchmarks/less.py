"""Less work for the same picture: what is saved by it, whether it points the same way, and when it is there.

The commands ``less`` and ``sooner`` of ``python -m tests.benchmarks``. Seconds are those of the CPU where that
computes, which a busy machine stretches less than the clock.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

import clipgen
from clipgen.mini.drafts import CACHE

WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "plain, other cutouts": {},
    "patch_dropout=0.5": {"patch_dropout": 0.5},
}
FEWER = "4@0-40, 16@40-"
DECODED = {"generator": "mini-vqgan"}
SOONER: dict[str, dict[str, Any]] = {
    "all steps": DECODED | {"settled": 0},
    "settled=1": DECODED | {"settled": 1},
    f"cutouts={FEWER!r}": DECODED | {"settled": 0, "cutouts": FEWER},
    "both": DECODED | {"settled": 1, "cutouts": FEWER},
    "made, all steps": {"settled": 0},
    "made: default": {},
}
PROMPTS = (
    "a red apple",
    "a cat",
    "a castle in the snow",
    "a sunflower",
    "a sailboat on the sea",
    "a blue car",
    "a rose and a butterfly",
    "a pizza",
)


def less(options: argparse.Namespace, cache: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Each way's seconds a step, and the cosine of its mean gradient to the plain one's, at a latent that stays."""
    still = {"lr": 1e-12, "steps": 10**5, "every": 10**5, "init": "random", "device": options.device}
    size = options.size or 512
    rows, runs, means = [], dict[str, clipgen.Run](), dict[str, Any]()
    for name in options.ways or WAYS:
        like = next(iter(runs.values()), None)
        asked = settings | still | {"size": (size, size), "cutouts": options.cutouts} | WAYS[name]
        runs[name] = run = clipgen.Run("a red apple", folder=cache, like=like, **asked)
        next(iter(run))  # a step to warm up
        run.optimization.rng.manual_seed(len(runs))
        optimization, seconds, mean = run.optimization, [], 0.0
        for _ in range(options.rounds):
            began = _now(options.device)
            optimization.advance()
            seconds.append(_now(options.device) - began)
            mean = mean + optimization.latent.grad.detach().float() / options.rounds
        means[name] = mean.flatten()
        rows.append({"work": f"{options.work} {size}x{size}, {options.cutouts} cutouts", "side": name})
        rows[-1] |= {"seconds": statistics.mean(seconds), "least": min(seconds), "most": max(seconds)}
        rows[-1]["of plain"] = rows[-1]["seconds"] / rows[0]["seconds"]
        rows[-1]["cosine"] = float(F.cosine_similarity(means[name], means["plain"], dim=0))
        print(rows[-1], flush=True)
    return rows


def sooner(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All steps of the built-in decoder against less work, and made pictures, by the evaluator's score of whole frames.

    ``end``: seconds of the whole run. ``score``: of its last frame. ``there``: seconds until a frame had 99% of the
    score that all steps end with; of all pairs of a prompt and a seed the median.
    """
    told: dict[str, list[tuple[float, float, float]]] = {name: [] for name in SOONER}
    shared = {"folder": tempfile.gettempdir(), "judge": "evaluator", "device": options.device}
    like = {kind: clipgen.Run("a cat", generator=kind, **shared) for kind in ("mini-vqgan", "stack")}
    for prompt in PROMPTS[: options.prompts]:
        for seed in range(2):
            wanted = None
            for name, settings in SOONER.items():
                with tempfile.TemporaryDirectory() as folder:
                    kind = like[settings.get("generator", "stack")]
                    run = clipgen.Run(prompt, folder=folder, like=kind, seed=seed, judge="evaluator", **settings)
                    CACHE.clear()  # of the run before
                    began, curve = _now(options.device), []
                    for frame in run:
                        curve.append((_now(options.device) - began, frame.scores["judge"]))
                wanted = curve[-1][1] if wanted is None else wanted
                there = next((at for at, score in curve if score >= 0.99 * wanted), float("inf"))
                told[name].append((curve[-1][0], curve[-1][1], there))
                print(f"{prompt}, {seed}, {name}: {run.step} steps, {told[name][-1]}", flush=True)
    rows = []
    for name, runs in told.items():
        end, score, there = (statistics.median(column) for column in zip(*runs, strict=True))
        row = {"side": name, "score": score, "end": end, "there": there}
        ends, theres = ([pair[i] for pair in told["all steps"]] for i in (0, 2))
        row["end, times sooner"] = statistics.median(a / b[0] for a, b in zip(ends, runs, strict=True))
        row["there, times sooner"] = statistics.median(a / b[2] for a, b in zip(theres, runs, strict=True))
        row["score, of that of all"] = statistics.median(a[1] / b[1] for a, b in zip(runs, told["all steps"]))
        rows.append(row)
    return rows


def _now(device: str) -> float:
    """Seconds that were computed: on a GPU those that passed."""
    if device != "cuda":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()
