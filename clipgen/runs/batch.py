"""Runs whose steps are taken in one tensor, each with its own prompt, seed, random numbers and journal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from clipgen.batched import BatchedSteps
from clipgen.runs.history import Frame
from clipgen.runs.interrupts import interrupts
from clipgen.runs.run import Run, finish
from clipgen.runs.spec import RunSpec


def batch_key(spec: RunSpec) -> tuple[Any, ...]:
    """Return what runs must share to be batched: models, size, and number of steps."""
    s = spec.settings
    return s.generator, s.relax, s.perceptor, str(spec.device), spec.precision, s.size, s.tile, s.steps


def iterate_batch(runs: Sequence[Run]) -> Iterator[tuple[Run, Frame]]:
    """Yield the frames of runs with one ``batch_key`` and shared models. Runs that are behind catch up first."""
    batched = BatchedSteps()
    with ExitStack() as stack:
        sessions = {id(run): stack.enter_context(ExitStack()) for run in runs}
        for run in runs:
            sessions[id(run)].enter_context(run.session())
        to_prepare, ready = list(runs), list[Run]()
        while to_prepare or ready:
            for run in to_prepare:
                if run.prepare_step():
                    ready.append(run)
                else:
                    sessions[id(run)].close()
            first = min((run.step for run in ready), default=0)
            to_prepare = [run for run in runs if run in ready and run.step == first]
            ready = [run for run in ready if run not in to_prepare]
            if not to_prepare:
                continue
            all_scores = batched.advance([run.optimization for run in to_prepare])
            for run, scores in zip(to_prepare, all_scores, strict=True):
                if frame := run.record_step(scores):
                    yield run, frame


def finish_batch(runs: Sequence[Run], progress: bool = True) -> Sequence[Run]:
    """Let runs go on to their end, as ``clipgen.finish`` does with one; an interrupt ends all after their next step."""
    from tqdm.auto import tqdm

    if len(runs) == 1:
        return [finish(runs[0], progress)]

    def stop() -> None:
        for run in runs:
            run.stop()

    total, done = sum(run.settings.steps for run in runs), sum(run.step for run in runs)
    bar = tqdm(total=total, initial=done, disable=not progress, unit="step", dynamic_ncols=True)
    with bar, interrupts(stop):
        for _ in iterate_batch(runs):
            bar.update(sum(run.step for run in runs) - bar.n)
    return runs
