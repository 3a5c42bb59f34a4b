"""Everything that is measured of a GPU, in one command of a few minutes: ``python -m tests.benchmarks card``.

1. ``parity``: a few runs on the card in fp32 and in its own precision beside the same runs on the CPU.
2. ``steps``: seconds and memory of a step for three kinds of work, beside the loops that people use.
3. ``batches``: seconds of a step with several pictures in one tensor.
4. ``profile``: kernels, waits and copies of a step, and the share of time in which the card computes.

Each part starts only if ``--minutes`` are not over; what was left out is in the report.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import clipgen

SMALL: dict[str, Any] = {"steps": 6, "every": 6, "cutouts": 4, "size": (64, 64), "seed": 1, "init": "noise"}
PARITY: dict[str, dict[str, Any]] = {
    "stack": {},
    "spectrum, tiled and masked": {"generator": "fft", "tile": True, "mask": "bottom"},
    "strokes with a camera": {"generator": "strokes:6", "camera": "zoom=1.1"},
    "VQGAN with a judge": {"generator": "mini-vqgan", "judge": "evaluator"},
    "dVAE, Gumbel softmax": {"generator": "mini-dvae", "relax": "gumbel"},
    "all augmentations": {"augment": "flip, affine, perspective:0.5, colour, grey, erase, blur, grain"},
    "draft": {"init": "dalle", "size": (128, 128)},
}
# What is timed: the work, its side, and the precisions of clipgen.
STEPS = [("vqgan", 256), ("vqgan", 512), ("dvae", 512), ("built-in", 128)]
GROUP = 10  # steps between two waits for the card: a wait after each would be measured, too


def measure_card(
    options: argparse.Namespace,
    compare: Callable[..., list[dict[str, Any]]],
    cache: Path,
) -> dict[str, list[dict[str, Any]]]:
    """Return a table for each part: rows of figures by name.

    Args:
        options: the command's, with ``device``, ``minutes``, ``rounds`` and ``peaks``.
        compare: measures steps of clipgen beside a reference (``tests.benchmarks``).
        cache: a folder with random weights in the published formats.
    """
    end = time.monotonic() + 60 * options.minutes
    report: dict[str, list[dict[str, Any]]] = {"parity": [], "steps": [], "batches": [], "profile": [], "left out": []}
    jobs: list[tuple[str, str, Callable[[], list[dict[str, Any]]]]] = []
    usual = {"cutouts": 32, "batch": 1, "against": "", "setting": {}, "free": None, "group": GROUP}

    def steps(work: str, size: int, **other: Any) -> Callable[[], list[dict[str, Any]]]:
        asked = argparse.Namespace(**vars(options) | usual | {"work": work, "size": size} | other)
        return lambda: compare(asked, cache, alone="batch" in other or bool(other.get("setting")))

    for name, settings in PARITY.items():
        jobs.append(("parity", name, lambda name=name, settings=settings: [compare_pictures(name, settings, options)]))
    jobs += [("steps", f"{work} {size}", steps(work, size)) for work, size in STEPS]
    jobs += [
        ("profile", work, lambda work=work: [profile_steps(work, options, cache)])
        for work in ("vqgan", "dvae", "built-in")
    ]
    for name in [name for name in ("fp32", "fp16", "bf16") if name != options.precision]:
        jobs += [
            ("steps", f"{work} {name}", steps(work, size, setting={"precision": name}))
            for work, size in STEPS[:1] + STEPS[2:3]
        ]
    jobs += [("batches", f"{batch}", steps("built-in", 128, batch=batch, cutouts=16)) for batch in (1, 2, 4, 8)]
    for part, name, job in jobs:
        try:
            if time.monotonic() > end:
                raise TimeoutError("no time left")
            report[part] += [{"case": name} | row for row in job()]
        except Exception as error:  # one that fails leaves the others their time
            report["left out"].append({"part": part, "work": name, "why": f"{type(error).__name__}: {error}"})
        print(part, name, json.dumps(report[part][-1:] or report["left out"][-1:]), flush=True)
        if options.json:
            options.json.write_text(json.dumps({"peaks": options.peaks, "report": report}, indent=1) + "\n")
    return report


def compare_pictures(name: str, settings: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Return how far the card's pictures are from the CPU's, in levels of 255."""
    with tempfile.TemporaryDirectory() as folder:

        def picture(**other: Any) -> tuple[np.ndarray, float]:
            began = time.perf_counter()
            asked = SMALL | settings | {"folder": folder, "progress": False} | other
            run = clipgen.generate("a bee | gold:0.5 [top] | blurry:-0.3", **asked)
            return np.asarray(run.image, int), time.perf_counter() - began

        on_cpu, cpu_seconds = picture(device="cpu", precision="fp32")
        on_gpu, seconds = picture(device=options.device, precision="fp32")
        reduced, _ = picture(device=options.device, precision="auto")
    apart = np.abs(on_gpu - on_cpu)
    return {
        "most": int(apart.max()),
        "mean": float(apart.mean()),
        "mean, reduced precision": float(np.abs(reduced - on_cpu).mean()),
        "seconds": seconds,
        "seconds on the CPU": cpu_seconds,
    }


def profile_steps(work: str, options: argparse.Namespace, cache: Path) -> dict[str, Any]:
    """Return kernels, waits and bytes copied for a step, and the share of time in which the card computes."""
    from tests.benchmarks.__main__ import WORK, settings_of

    side = WORK[work][1]
    asked = settings_of(work, cache) | {"size": (side, side), "cutouts": 32, "device": options.device}
    run = clipgen.Run("a red apple", folder=cache, steps=10_000, every=10_000, **asked)
    next(iter(run))
    optimization: Any = run.optimization
    activities = [torch.profiler.ProfilerActivity.CPU]
    if options.device.startswith("cuda"):
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    taken = []
    for _ in range(3):
        synchronize(options.device)
        began = time.perf_counter()
        for _ in range(GROUP):
            optimization.advance()
        synchronize(options.device)
        taken.append((time.perf_counter() - began) / GROUP)
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(GROUP):
            optimization.advance()
        synchronize(options.device)
    averages = profiler.key_averages()

    def count(*names: str) -> float:
        return sum(one.count for one in averages if one.key.startswith(names)) / GROUP

    computing = sum(one.self_device_time_total for one in averages if not one.key.startswith("cuda")) / GROUP / 1e6
    print(averages.table(sort_by="self_device_time_total", row_limit=15, max_name_column_width=60), flush=True)
    return {
        "ms": 1000 * statistics.median(taken),
        "ms of kernels": 1000 * computing,
        "kernels": count("cudaLaunchKernel", "cuLaunchKernel", "cudaLaunchKernelExC"),
        "copies": count("cudaMemcpyAsync"),
        "waits": count("cudaStreamSynchronize", "cudaEventSynchronize"),
    }


def synchronize(device: str) -> None:
    """Wait for the card, if it is one."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
