"""The study that the tests of kills let a process make: ``python killed_study.py FOLDER WORKERS``."""

import random
import sys

import clipgen
from clipgen.studies import executor
from clipgen.studies.grid import expand_grid
from clipgen.studies.row import Row, RowState

ASKED = {"seed": range(3), "steps": 14, "size": (64, 64), "init": "perlin", "cutouts": 2, "every": 1, "progress": False}
PROMPT = "a cat@0-8 | a dog:0.8@4-14"


def main(folder, workers, engine="local"):
    """The study itself."""
    return clipgen.study(PROMPT, folder=folder, workers=int(workers), engine=engine, **ASKED)


def rows(folder):
    """Its rows, not begun."""
    asked = {name: value for name, value in ASKED.items() if name != "progress"}
    return [Row(one, folder) for one in expand_grid(PROMPT, asked)]


def kills(kind, monkeypatch, most):
    """A function that returns the workers to be killed now: each when its row has come a few steps further."""
    rng, plans, call = random.Random(0), [], kind.call

    def called(worker, function, folders, address):
        (folder,) = folders
        step = RowState.read(folder).step
        if len(plans) < most and step < ASKED["steps"] - 4:
            plans.append([worker, folder, step + rng.randrange(1, 4)])
        return call(worker, function, folders, address)

    def due():
        open_plans = [(plan, RowState.read(plan[1])) for plan in plans if plan[0]]
        ripe = [plan for plan, state in open_plans if state.step >= plan[2] and not state.done]
        workers = [plan[0] for plan in ripe]
        for plan in ripe:
            plan[0] = None
        return workers

    monkeypatch.setattr(kind, "call", called)
    return due


if __name__ == "__main__":
    executor.count_cores = lambda: 1  # one thread in each worker, whatever the machine, so that frames can be equal
    assert main(*sys.argv[1:]).finished
