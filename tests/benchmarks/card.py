"""Everything that is measured of a GPU, in one command of a few minutes: ``python -m tests.benchmarks card``.

1. ``tests``: the tests of a card with its real kernels, ``tests/card/pictures.py``; without one on a pretended card.
2. ``steps``: seconds and memory of a step for three kinds of work, beside the loops that people use.
3. ``batches``: seconds of a step with several pictures in one tensor.
4. ``profile``: kernels, waits and copies of a step, and the share of time in which the card computes.

Each part starts only if ``--minutes`` are not over; what was left out is in the report.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

import clipgen

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
    report: dict[str, list[dict[str, Any]]] = {"tests": [], "steps": [], "batches": [], "profile": [], "left out": []}
    jobs: list[tuple[str, str, Callable[[], list[dict[str, Any]]]]] = []
    usual = {"cutouts": 32, "batch": 1, "against": "", "setting": {}, "free": None, "group": GROUP}

    def steps(work: str, size: int, **other: Any) -> Callable[[], list[dict[str, Any]]]:
        asked = argparse.Namespace(**vars(options) | usual | {"work": work, "size": size} | other)
        return lambda: compare(asked, cache, alone="batch" in other or bool(other.get("setting")))

    jobs.append(("tests", "pictures", lambda: run_tests(end - time.monotonic())))
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


def run_tests(seconds: float) -> list[dict[str, Any]]:
    """Return a row for each test of a card: its outcome, and how far its pictures are from the CPU's, in levels of 255.

    Raises TimeoutExpired after so many seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        tests = Path(__file__).parents[1] / "card/pictures.py"
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
        options = [f"--junitxml={report}", "-o", "junit_family=xunit1"]  # the one with properties
        subprocess.run([*command, *options, tests], timeout=seconds, env=os.environ | {"CLIPGEN_CACHE": folder})
        return [test_row(case) for case in ElementTree.parse(report).iter("testcase")]


def test_row(case: ElementTree.Element) -> dict[str, Any]:
    """Return the row of a test in a report of pytest."""
    failure = case.find("failure") if case.find("failure") is not None else case.find("error")
    levels = case.find("properties/property[@name='levels']")
    return {
        "test": case.get("name"),
        "outcome": "passed" if failure is None else str(failure.get("message")).partition("\n")[0],
        "levels": "" if levels is None else float(str(levels.get("value"))),
        "seconds": float(str(case.get("time"))),
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
