"""Speed and memory, side by side in one run: ``python -m tests.benchmarks compare --help``.

``compare``: a step of clipgen against the same step of what people run (``tests/benchmarks/references.py``), or of
another commit, with random weights at the published size; each side in a process of its own, in turns.
``scale``: how the cost of a step grows with the picture's side, the number of cutouts, and pictures in one tensor.
``less``: what a step costs with each setting that saves work, and whether its gradient points the same way.
``sooner``: when the built-in decoder has a judge's score with all steps, and when with less work; and made pictures.
``start``: the README's command, whole and until its first preview, and what the evaluator says of its picture.
``profile``: where the time of a step goes, by operator.
``numerics``: what a judge says of pictures that were made in less than fp32, beside those made in fp32.
``card``: all of it on a GPU, in a few minutes (``tests/benchmarks/card.py``); ``--simulate``: a T4's step, computed.
``plain``: a run's step beside nothing but its parts, in one process (``tests/benchmarks/plain.py``).
``overhead``, ``cluster``: what a study costs beside its pictures (``tests/benchmarks/studies.py``).
Seconds are medians with their range, memory is the most that the process ever held; the machine's peak is measured in
the same call. Timings are told, never asserted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from clipgen.device import PRECISIONS, resolve_device, resolve_precision
from clipgen.memory import free_bytes
from tests.benchmarks.studies import cluster, overhead

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
# What is compared: the reference, the side of its picture, and clipgen's settings for the same work.
WORK: dict[str, tuple[str, int, dict[str, Any]]] = {
    "vqgan": ("nerdyrodent", 256, {"generator": "vqgan_imagenet_f16_16384", "cut_min": 1.0, "cut_max": 1.0}),
    "dvae": ("murdock", 512, {"generator": "dvae", "relax": "gumbel", "cut_min": 0.43, "cut_max": 1.9}),
    "built-in": ("", 128, {"generator": "mini-vqgan"}),
}


def published(work: str) -> list[str]:
    """The generators of some work whose published weights are made at random."""
    return [name for name in [WORK[work][2]["generator"]] if not name.startswith("mini")]


def settings_of(work: str, cache: Path) -> dict[str, Any]:
    """clipgen's settings for some work, with weights from ``cache``."""
    clip = {"perceptor": f"ViT-B-32/{cache / 'ViT-B-32.safetensors'}", "init": "random"} if published(work) else {}
    return WORK[work][2] | clip


class Side:
    """One side of a comparison: a process that makes a step when it is asked to."""

    def __init__(self, name: str, told: dict[str, Any], place: Path, cache: Path):
        environment = os.environ | {"PYTHONPATH": str(place), "CLIPGEN_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, str(HERE / "worker.py"), json.dumps(told)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.name, self.seconds, self.busy, self.memory, self.flops = name, [], [], 0, 0
        self.process = subprocess.Popen(command, env=environment, cwd=cache, **pipes)
        self.process.stdout.readline()  # it is ready

    def step(self, asked: str = "step") -> None:
        self.process.stdin.write(f"{asked}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended before its time; what it said stands above")
        told = json.loads(line)
        if asked == "count":  # which takes memory of its own
            self.flops = told["flops"]
        else:
            self.memory = told["memory"]
            self.seconds.append(told["seconds"])
            self.busy.append(told["busy"])

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    @property
    def row(self) -> dict[str, Any]:
        kept, busy = (taken[1:] or taken for taken in (self.seconds, self.busy))  # the first one warms up
        median = statistics.median(kept)
        told = {"side": self.name, "seconds": median, "least": min(kept), "most": max(kept)}
        told["of the CPU"] = statistics.median(busy)  # all threads', whatever else the machine does
        return told | {"GB": self.memory / 1e9, "GFLOP": self.flops / 1e9, "GFLOP/s": self.flops / 1e9 / median}


@contextlib.contextmanager
def tree(commit: str) -> Iterator[Path]:
    """A commit's files, for as long as they are needed."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", place, commit], cwd=ROOT, check=True)
        try:
            yield place
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", place], cwd=ROOT, check=True)


@contextlib.contextmanager
def weights(names: list[str]) -> Iterator[Path]:
    """A cache folder with random weights in the published formats."""
    with tempfile.TemporaryDirectory() as folder:
        if names:
            sys.path.insert(0, str(ROOT / "tests"))
            from published import published as made_up

            made_up(Path(folder), *[name for name in names if name != "dvae"])
            # The first time converts what was downloaded; that is told nowhere.
            load = "import clipgen, sys; clipgen.load_generator(sys.argv[1])"
            environment = os.environ | {"CLIPGEN_CACHE": folder, "PYTHONPATH": str(ROOT)}
            for name in names:
                subprocess.run([sys.executable, "-c", load, name], env=environment, check=True, stderr=subprocess.PIPE)
        yield Path(folder)


@contextlib.contextmanager
def short(device: str, left: float | None) -> Iterator[None]:
    """Hold the memory of this machine but for some GB of it, as long as a side starts and plans its step."""
    if left is None:
        yield
        return
    room = free_bytes(torch.device(device))
    if room is None or room < left * 1e9:
        raise SystemExit(f"--free {left:g}: so much is not free here, or nobody says")
    held = [torch.ones(int(room - left * 1e9), dtype=torch.uint8, device=device)]
    try:
        yield
    finally:
        held.clear()
        if device == "cuda":
            torch.cuda.empty_cache()


def compare(options: argparse.Namespace) -> list[dict[str, Any]]:
    with weights(published(options.work)) as cache:
        return compared(options, cache)


def compared(options: argparse.Namespace, cache: Path, alone: bool = False) -> list[dict[str, Any]]:
    """A row for each side, with weights from ``cache``; ``alone``: clipgen's only."""
    reference, side, _ = WORK[options.work]
    size = options.size or side
    wide = {"size": size, "cutouts": options.cutouts, "device": options.device, "batch": getattr(options, "batch", 1)}
    wide["group"] = getattr(options, "group", 1)
    with contextlib.ExitStack() as trees:
        mine = wide | {"side": "clipgen", "settings": settings_of(options.work, cache)}
        told = [("clipgen", mine | {"settings": mine["settings"] | options.setting}, ROOT)]
        if options.against:
            told.append((options.against, mine, trees.enter_context(tree(options.against))))
        elif reference and not alone:
            told.append((reference, wide | {"side": reference}, HERE))
        sides = []
        for name, asked, place in told:
            with short(options.device, getattr(options, "free", None) if name == "clipgen" else None):
                sides.append(Side(name, asked, place, cache))
        for _ in range(options.rounds + 1):
            for one in sides:
                one.step()
        for one in sides:
            one.step("count")
            one.end()
    title = f"{options.work} {size}x{size}, {options.cutouts} cutouts"
    rows = [{"work": title} | one.row for one in sides]
    for row in rows:
        row["share of the peak"] = (
            row["GFLOP/s"] / options.peaks[0 if row["side"] == reference else 1]
        )  # fp32, as those are
        row["ratio"] = rows[-1]["seconds"] / row["seconds"]
    return rows


def scale(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    usual = {"work": options.work, "size": 256, "cutouts": 32, "batch": 1}
    asked = [("size", usual | {"size": size}) for size in options.sizes]
    asked += [("cutouts", usual | {"cutouts": count}) for count in options.cutout_counts]
    small = {"work": "built-in", "size": 128, "cutouts": 16}
    asked += [("batch", small | {"batch": batch}) for batch in options.batches]
    with weights(published(options.work)) as cache:
        for grows, one in asked:
            wide = argparse.Namespace(**vars(options) | {"against": "", "setting": {}} | one)
            told = compared(wide, cache, alone=True)[0]
            kept = ("seconds", "of the CPU", "GB", "GFLOP")
            rows.append({"grows": grows} | one | {name: told[name] for name in kept})
            print(rows[-1], flush=True)
    if options.plot:
        plot(rows, options.plot)
    return rows


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """How seconds and memory of a step grow, a panel for what grows."""
    from matplotlib.figure import Figure

    names = {"size": "width and height, pixels", "cutouts": "cutouts", "batch": "pictures in one batch"}
    kinds = list(dict.fromkeys(row["grows"] for row in rows))
    figure = Figure((9, 3.3), layout="constrained")
    for kind, axes in zip(kinds, figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]):
        points = [row for row in rows if row["grows"] == kind]
        along = [row[kind] for row in points]
        axes.plot(along, [row["seconds"] for row in points], "o-", label="seconds a step")
        axes.plot(along, [row["GB"] for row in points], "s--", label="peak memory, GB")
        fixed = {"size": f"{points[0]['size']}x{points[0]['size']}", "cutouts": f"{points[0]['cutouts']} cutouts"}
        said = ", ".join([points[0]["work"], *(text for name, text in fixed.items() if name != kind)])
        axes.set(xlabel=names[kind], title=said, xscale="log", yscale="log")
        axes.set_xticks(along, [str(number) for number in along])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(file, dpi=110)


def less(options: argparse.Namespace) -> list[dict[str, Any]]:
    from tests.benchmarks import less as saving

    with weights(published(options.work)) as cache:
        os.environ["CLIPGEN_CACHE"] = str(cache)
        return saving.less(options, cache, settings_of(options.work, cache))


def sooner(options: argparse.Namespace) -> list[dict[str, Any]]:
    from tests.benchmarks import less as saving

    return saving.sooner(options)


def start(options: argparse.Namespace) -> list[dict[str, Any]]:
    from clipgen.clip.catalogue import embed, load_perceptor

    judge, taken = load_perceptor("evaluator"), dict[str, list[tuple[float, float, float]]]()
    wanted = embed(judge, [options.prompt])[0]
    with contextlib.ExitStack() as trees, tempfile.TemporaryDirectory() as folder:
        places = {"clipgen": ROOT}
        if options.against:
            places[options.against] = trees.enter_context(tree(options.against))
        for _ in range(options.rounds + 1):
            for name, place in places.items():
                run = subprocess.Popen(
                    [sys.executable, "-m", "clipgen", options.prompt],
                    cwd=folder,
                    env=os.environ | {"PYTHONPATH": str(place)},
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                began, before = time.perf_counter(), set(Path(folder).glob("clipgen-runs/*/[bf]*/*.png"))
                while not (pictures := set(Path(folder).glob("clipgen-runs/*/[bf]*/*.png")) - before):
                    if run.poll() is not None:
                        break
                    time.sleep(0.01)
                first = time.perf_counter() - began
                if run.wait():
                    raise SystemExit(f"{name}: the command failed")
                whole = time.perf_counter() - began
                last = max(pictures.pop().parents[1].glob("frames/*.png"))
                score = float(judge.embed_image([Image.open(last).convert("RGB")])[0] @ wanted)
                taken.setdefault(name, []).append((first, whole, score))
    heads = "first preview", "whole", "judge"
    medians = {name: map(statistics.median, zip(*told[1:], strict=True)) for name, told in taken.items()}
    asked = f'clipgen "{options.prompt}"'
    return [{"work": asked, "side": name} | dict(zip(heads, row, strict=True)) for name, row in medians.items()]


@contextlib.contextmanager
def work(options: argparse.Namespace) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A folder for runs, and clipgen's settings for some work, its weights in the cache."""
    size = options.size or WORK[options.work][1]
    with weights(published(options.work)) as cache:
        os.environ["CLIPGEN_CACHE"] = str(cache)
        asked = {"size": (size, size), "cutouts": options.cutouts, "device": options.device}
        yield cache, settings_of(options.work, cache) | asked | options.setting


def plain(options: argparse.Namespace) -> list[dict[str, Any]]:
    from tests.benchmarks.plain import compared

    with work(options) as (folder, asked):
        return [{"work": options.work, "cutouts": options.cutouts} | compared(options.rounds, folder, **asked)]


def profile(options: argparse.Namespace) -> list[dict[str, Any]]:
    import clipgen

    with work(options) as (folder, asked):
        run = clipgen.Run("a red apple", folder=folder, steps=100, every=100, **asked)
        next(iter(run))
        optimization: Any = run.optimization
        activities = [torch.profiler.ProfilerActivity.CPU]
        if options.device == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        with torch.profiler.profile(activities=activities) as made:
            for _ in range(options.rounds):
                optimization.advance()
    kind = "device" if options.device == "cuda" else "cpu"
    print(made.key_averages().table(sort_by=f"self_{kind}_time_total", row_limit=20, max_name_column_width=40))
    return []


def numerics(options: argparse.Namespace) -> list[dict[str, Any]]:
    import clipgen

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for prompt in ("a red apple", "a boat on the sea", "a cat in the snow", "a blue car")[: options.rounds]:
            asked = {"judge": "evaluator", "steps": 50, "every": 50, "device": options.device, "folder": folder}
            asked |= WORK["built-in"][2]
            made = {name: clipgen.generate(prompt, precision=name, **asked) for name in ("fp32", options.reduced)}
            told: dict[str, Any] = {name: run.journal.scores[-1]["judge"] for name, run in made.items()}
            rows.append({"work": prompt} | told | {"ratio": told[options.reduced] / told["fp32"]})
    return [*rows, {"work": "mean"} | {k: statistics.mean(row[k] for row in rows) for k in rows[0] if k != "work"}]


def card(options: argparse.Namespace) -> list[dict[str, Any]]:
    if options.simulate:
        from tests.benchmarks.simulate import simulate_steps

        return simulate_steps(show=True)
    from tests.benchmarks.card import measure_card

    options.precision = resolve_precision(torch.device(options.device))
    with weights(["vqgan_imagenet_f16_16384", "dvae"]) as cache:
        os.environ["CLIPGEN_CACHE"] = str(cache)
        report = measure_card(options, compared, cache)
    page = "\n\n".join(f"## {part}\n\n{table(rows)}" for part, rows in report.items() if rows)
    print(f"\n{page}", flush=True)
    if options.json:
        options.json.with_suffix(".md").write_text(f"{page}\n")
    return []


def peaks(device: torch.device, mine: str) -> tuple[float, float]:
    """GFLOP/s of a large matrix product in fp32 and in ``mine``, the precision that clipgen computes in."""
    found = []
    for name in ("fp32", mine):
        a, b = (torch.randn(2048, 2048, device=device, dtype=PRECISIONS[name]) for _ in range(2))
        times = []
        for _ in range(12):
            began = time.perf_counter()
            a @ b
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        found.append(2 * 2048**3 / min(times) / 1e9)
    return found[0], found[1]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    heads = list(rows[0])
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        cells = (f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for function in (compare, scale, less, sooner, start, profile, plain, numerics, card, overhead, cluster):
        one = commands.add_parser(name := function.__name__)
        one.set_defaults(function=function)
        one.add_argument("--rounds", type=int, default=5, help="steps of each side, or starts, after one to warm up")
        one.add_argument("--device", default=str(resolve_device().type))
        one.add_argument("--json", type=Path, help="write the figures here, too; card: its tables beside it")
        if name == "numerics":
            one.add_argument("--reduced", choices=[*PRECISIONS], default="bf16", help="beside fp32")
        elif name in ("overhead", "cluster"):
            one.add_argument("--rows", type=int, default=100 if name == "overhead" else 1000)
            one.add_argument("--steps", type=int, default=20 if name == "overhead" else 3)
            one.add_argument("--nodes", type=int, default=4)
        elif name not in ("start", "sooner", "card"):
            one.add_argument("--work", choices=[*WORK], default="vqgan")
        if name in ("compare", "profile", "less", "plain"):
            one.add_argument("--size", type=int, help="of the picture; by default what the reference draws")
            one.add_argument("--cutouts", type=int, default=32)
        if name in ("compare", "profile", "plain"):
            one.add_argument("--setting", type=json.loads, default={}, help='for clipgen alone, as {"passes": 4}')
        if name in ("compare", "start"):
            one.add_argument("--against", default="", help="a commit instead of the reference")
        if name == "compare":
            one.add_argument("--free", type=float, help="GB that clipgen finds free where it starts; the rest is held")
        if name == "card":
            one.add_argument("--minutes", type=float, default=8, help="begin nothing new after them")
            one.add_argument("--simulate", action="store_true", help="compute a T4's step on a pretended one instead")
        if name == "start":
            one.add_argument("--prompt", default="a red apple")
        if name == "scale":
            one.add_argument("--sizes", type=int, nargs="*", default=[256, 512, 1024])
            one.add_argument("--cutout-counts", type=int, nargs="*", default=[8, 32, 128])
            one.add_argument("--batches", type=int, nargs="*", default=[1, 2, 4, 8])
            one.add_argument("--plot", type=Path, help="draw it here, too")
        if name == "less":
            one.add_argument("--ways", nargs="*", default=[], help="some of them, plain first")
        if name == "sooner":
            one.add_argument("--prompts", type=int, default=8, help="so many of them")
    options = parser.parse_args()
    if getattr(options, "simulate", False):
        print(table(options.function(options)))
        return
    device = resolve_device(options.device)
    mine = resolve_precision(device, getattr(options, "setting", {}).get("precision", "auto"))
    options.peaks = peaks(device, mine)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    flops = ", ".join(f"{peak:.0f} GFLOP/s in {n}" for n, peak in zip(("fp32", mine), options.peaks))
    print(f"{device.type}, {name}, torch {torch.__version__}; a large matrix product: {flops}\n", flush=True)
    if rows := options.function(options):
        print(table(rows))
        if options.json:
            options.json.write_text(json.dumps({"peaks": options.peaks, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
