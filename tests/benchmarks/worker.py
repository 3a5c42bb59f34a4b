"""One side of a comparison, in a process of its own: a step whenever a line comes in, its seconds as a line out.

``python worker.py '{"side": "clipgen", "work": "vqgan", ...}'``. Used by ``python -m tests.benchmarks``; runs with any
commit's clipgen on its path.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode


class Gate:
    """Called once a step: tells what the last group of steps took, and holds until the next one is asked for."""

    def __init__(self, device: torch.device, group: int = 1):
        self.device, self.began, self.busy, self.counter = device, 0.0, 0.0, None
        self.group, self.left = group, 0  # steps between two lines, and those still to come
        self.out, sys.stdout = sys.stdout, sys.stderr  # the packages print, too

    def __call__(self, *_) -> None:
        if self.left:
            self.left -= 1
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        group = 1 if self.counter else self.group
        seconds, busy = time.perf_counter() - self.began, time.process_time() - self.busy
        told = {"seconds": seconds / group, "busy": busy / group}
        if self.counter:
            self.counter.__exit__(None, None, None)
            told["flops"], self.counter = self.counter.get_total_flops(), None
        told["memory"] = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else peak()
        print(json.dumps(told), file=self.out, flush=True)
        asked = sys.stdin.readline().strip()
        if not asked:
            sys.exit()
        if asked == "count":
            self.counter = FlopCounterMode(display=False)
            self.counter.__enter__()
        else:
            self.left = self.group - 1
        self.began, self.busy = time.perf_counter(), time.process_time()


def peak() -> int:
    """The most memory that this process ever held, in bytes."""
    found = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
    return 1024 * int(found[1]) if found else 0


def main() -> None:
    asked = json.loads(sys.argv[1])
    device = torch.device(asked["device"])
    gate = Gate(device, asked.get("group", 1))
    if asked["side"] != "clipgen":
        import references

        step = getattr(references, asked["side"])(asked["size"], asked["cutouts"], device)
        while True:
            gate()
            step()
    import clipgen

    def hold(image, latent, step):
        gate()
        return 0 * image[..., 0, 0].sum()

    endless = 10**5
    with tempfile.TemporaryDirectory() as folder:
        runs: list[clipgen.Run] = []
        for seed in range(asked.get("batch", 1)):
            runs.append(clipgen.Run(
                "a red apple", folder=folder, losses=[] if seed else [hold], steps=endless, every=endless,
                device=asked["device"], size=(asked["size"],) * 2, cutouts=asked["cutouts"], seed=seed,
                like=runs[0] if seed else None, **asked["settings"],
            ))  # fmt: skip
        if len(runs) > 1:
            from clipgen.runs.finish import iterate_batch

            list(iterate_batch(runs))
        list(runs[0])


if __name__ == "__main__":
    main()
