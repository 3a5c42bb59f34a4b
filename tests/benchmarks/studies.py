"""What a study costs beside its pictures: ``python -m tests.benchmarks overhead`` and ``cluster``.

``overhead``: 100 runs of the built-in models as a loop in one process, as a study of one worker, and of two, a thread
each; in turns, by wall and by CPU time, everything from Python's start to its end.
``cluster``: 1,000 small runs on Ray, several nodes on this machine beside a head that makes none: what a row takes of
the study's own process and of the head, what it writes, and how long a worker takes to begin.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
ASKED = "size=(64, 64), init='perlin', steps={steps}"
LOOP = """
import torch, clipgen
torch.set_num_threads(1)
run = None
for seed in range({rows}):
    run = clipgen.generate("a cat", seed=seed, like=run, progress=False, {asked})
"""
STUDY = """
import clipgen
from clipgen.studies import executor
executor.count_cores = lambda: {workers}  # a thread for each
assert clipgen.study("a cat", seed=range({rows}), workers={workers}, progress=False, {asked}).finished
"""


def overhead(options: argparse.Namespace) -> list[dict[str, Any]]:
    told = {"rows": options.rows, "asked": ASKED.format(steps=options.steps)}
    sides = {"a loop": LOOP.format(**told)}
    sides |= {f"a study, {workers} worker(s)": STUDY.format(workers=workers, **told) for workers in (1, 2)}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, script in sides.items():
            with tempfile.TemporaryDirectory() as folder:
                began, before = time.perf_counter(), _spent()
                environment = os.environ | ONE_THREAD | {"PYTHONPATH": str(ROOT)}
                subprocess.run([sys.executable, "-c", script], cwd=folder, env=environment, check=True)
                seconds[name].append((time.perf_counter() - began, _spent() - before))
    rows = []
    for name, pairs in seconds.items():
        wall, cpu = (statistics.median(column) for column in zip(*pairs, strict=True))
        rows.append({"side": name, "wall s": wall, "CPU s": cpu, "pictures/min": 60 * options.rows / wall})
        rows[-1] |= {"wall / loop": wall / rows[0]["wall s"], "CPU / loop": cpu / rows[0]["CPU s"]}
    return rows


def _spent() -> float:
    """Seconds of CPU time of all processes that have ended below this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def cluster(options: argparse.Namespace) -> list[dict[str, Any]]:
    import ray
    from ray.cluster_utils import Cluster

    from clipgen.studies.grid import expand_grid
    from clipgen.studies.page import count_steps
    from clipgen.studies.row import Row, RowState, StudyStorage
    from clipgen.studies.study import Study

    os.environ |= ONE_THREAD
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(options.nodes):
        nodes.add_node(num_cpus=1)
    ray.init(nodes.address, log_to_driver=False)
    asked = {"size": (64, 64), "init": "perlin", "cutouts": 4, "every": 1}
    with tempfile.TemporaryDirectory() as folder:
        storage, clock, own, head = StudyStorage(folder), [time.perf_counter()], [time.process_time()], [_head()]

        def lap() -> None:
            for times, now in ((clock, time.perf_counter()), (own, time.process_time()), (head, _head())):
                times.append(now)

        runs = expand_grid("a cat", asked | {"seed": range(options.rows), "steps": options.steps})
        study = Study([Row(one, storage.folder) for one in runs], storage)
        lap()
        with storage.locked():
            for row in study.rows:
                row.begin(1)
        lap()
        study.make("ray", options.nodes)
        lap()
        states = [RowState.read(row.folder) for row in study.rows]
        assert all(state.done for state in states), [state.error for state in states if state.error]
        files = [file for file in Path(folder).rglob("*") if file.is_file()]
        written = sum(file.stat().st_size for file in files)
        ended = sorted((row.folder / "row.json").stat().st_mtime for row in study.rows)
        looked = time.perf_counter()
        count_steps(study.rows, [RowState.read(row.folder) for row in study.rows])
        looked = time.perf_counter() - looked
    ray.shutdown()
    nodes.shutdown()
    each, made = 1000 / options.rows, clock[3] - clock[2]
    in_workers = sum(state.seconds for state in states)
    told = {
        "rows, nodes": f"{options.rows} rows of {options.steps} frames, {options.nodes} nodes",
        "wall s to make them": made,
        "of which until the first was made": made - (ended[-1] - ended[0]),
        "pictures an hour": 3600 * options.rows / made,
        "seconds of a row in its worker": in_workers / options.rows,
        "share of the workers' time in rows": in_workers / (made * options.nodes),
        "ms a row to check it": each * (clock[1] - clock[0]),
        "ms a row to begin its folder": each * (clock[2] - clock[1]),
        "ms CPU a row, this process, while they are made": each * (own[3] - own[2]),
        "ms CPU a row, the head, while they are made": each * (head[3] - head[2]),
        "files a row": len(files) / options.rows,
        "kB a row": written / options.rows / 1e3,
        "ms to look at all rows once": 1e3 * looked,
    }
    return [{"what": name, "measured": value} for name, value in told.items()]


def _head() -> float:
    """Seconds of CPU time that Ray's central process here has taken so far: all nodes ask it, and so do drivers."""
    ticks = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"gcs_server" in (process / "cmdline").read_bytes().split(b"\0")[0]:
                ticks += sum(map(int, (process / "stat").read_text().rpartition(")")[2].split()[11:13]))
        except OSError:  # it has ended
            continue
    return ticks / os.sysconf("SC_CLK_TCK")
