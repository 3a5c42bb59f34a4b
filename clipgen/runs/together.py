"""Runs whose steps are made in one tensor, each with its own prompt, seed, random numbers and journal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from clipgen.batched import Together
from clipgen.optimize import Render
from clipgen.runs.course import Frame
from clipgen.runs.interrupts import interrupts
from clipgen.runs.run import Run, finish
from clipgen.runs.spec import RunSpec


def alike(spec: RunSpec) -> tuple[Any, ...]:
    """What runs have to share to be made together: models, size, and number of steps."""
    s = spec.settings
    return s.generator, s.relax, s.perceptor, str(spec.device), spec.precision, s.size, s.tile, s.steps


def together(runs: Sequence[Run]) -> Iterator[tuple[Run, Frame]]:
    """The frames of runs that are ``alike`` and share their models, as they are made; those behind catch up first."""
    loops, answers = [run.going() for run in runs], dict[int, Any].fromkeys(range(len(runs)))
    waiting: dict[int, Render] = {}  # for their next step
    steps = Together()
    while answers or waiting:
        for i, scores in answers.items():
            try:
                while isinstance(said := loops[i].send(scores), Frame):
                    yield runs[i], said
                    scores = None
                waiting[i] = said
            except StopIteration:
                continue
        least = min((render.step for render in waiting.values()), default=0)
        now = [i for i, render in waiting.items() if render.step == least]
        answers = dict(zip(now, steps.advance([waiting.pop(i) for i in now]))) if now else {}


def finish_together(runs: Sequence[Run], progress: bool = True) -> Sequence[Run]:
    """Let runs go on to their end, as ``clipgen.finish`` does with one; an interrupt ends all after their next step."""
    from tqdm.auto import tqdm

    if len(runs) == 1:
        return [finish(runs[0], progress)]

    def stop() -> None:
        for run in runs:
            run.stop()

    total, done = sum(run.settings.steps for run in runs), sum(run.step for run in runs)
    with (
        tqdm(total=total, initial=done, disable=not progress, unit="step", dynamic_ncols=True) as bar,
        interrupts(stop),
    ):
        for _ in together(runs):
            bar.update(sum(run.step for run in runs) - bar.n)
    return runs
