"""How fast a step is, and where its time goes: ``python tests/benchmarks/bench_run.py``.

Side by side in one process, alternating: our cutouts against those of the notebooks of 2021 (one crop after another,
each pooled to CLIP's size), forwards and backwards; and whole steps of the embedded models at several settings.
Prints medians; nothing is asserted.
"""

from __future__ import annotations

import statistics
import tempfile
import time

import torch
from torch import Tensor
from torch.nn import functional as F

import clipgen
from clipgen.optvis.cutouts import cutouts


def crops_one_by_one(images: Tensor, count: int, size: int, rng: torch.Generator) -> Tensor:
    """The way of the VQGAN+CLIP notebooks: square crops of random side and place, average-pooled, then joined."""
    height, width = images.shape[-2:]
    views = []
    for _ in range(count):
        side = int(torch.rand((), generator=rng) * (min(height, width) - size // 2) + size // 2)
        y, x = (int(torch.randint(0, room - side + 1, (), generator=rng)) for room in (height, width))
        views.append(F.adaptive_avg_pool2d(images[..., y : y + side, x : x + side], size))
    return torch.cat(views)


def median_ms(*functions, rounds: int = 9) -> list[float]:
    """Median milliseconds of each, called in turns so that all meet the same machine."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds + 2):
        for kept, function in zip(times, functions, strict=True):
            began = time.perf_counter()
            function()
            kept.append(1000 * (time.perf_counter() - began))
    return [statistics.median(kept[2:]) for kept in times]


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for side, size, count in ((128, 64, 16), (256, 224, 32), (512, 224, 32)):
        image = torch.rand(1, 3, side, side, requires_grad=True)
        rng = torch.Generator().manual_seed(0)
        ours, theirs = median_ms(
            lambda: cutouts(image, count, size, rng).square().mean().backward(),  # noqa: B023
            lambda: crops_one_by_one(image, count, size, rng).square().mean().backward(),  # noqa: B023
        )
        print(f"{count} cutouts of {size} from {side}x{side}: {ours:.1f} ms, one by one {theirs:.1f} ms")
    for knobs in ({}, {"generator": "mini-dvae"}, {"cutouts": 32}, {"passes": 4}, {"init": "random"}):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            frames = iter(clipgen.Run("a red apple", folder=folder, steps=61, every=10, **knobs))
            next(frames)
            first = time.perf_counter() - began
            next(frames)
            began = time.perf_counter()
            for _ in range(5):
                next(frames)
            step = (time.perf_counter() - began) / 50
        print(f"{knobs or 'default'}: first preview after {first:.1f} s, {1000 * step:.0f} ms a step")


if __name__ == "__main__":
    main()
