"""Finish a run, or several in one batch, which is faster where a device has room for more.

A progress bar shows how far they are; Ctrl-C, or a notebook's stop button, ends them after the current step.
"""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from clipgen.device import deterministic
from clipgen.inits import Dalle
from clipgen.memory import is_oom, release
from clipgen.optimize import Optimization
from clipgen.runs.frames import Frame
from clipgen.runs.inputs import PromptLike
from clipgen.runs.journal import Journal
from clipgen.runs.run import Run
from clipgen.runs.settings import list_settings
from clipgen.runs.spec import RunSpec
from clipgen.storage import display_path


@list_settings
def generate(prompt: PromptLike, *, progress: bool = True, **options: Any) -> Run:
    """Make a picture with a progress bar; return the Run. Takes the arguments of Run and of ``finish``."""
    return finish(Run(prompt, **options), progress)


def finish(run: Run, progress: bool = True) -> Run:
    """Take the remaining steps of a run, with a progress bar.

    An interrupt (Ctrl-C, a notebook's stop button) ends it after the current step, with everything kept: ``finished``
    is False then, and ``Run.resume(run.journal.folder)`` continues. A second interrupt stops at once.
    """
    return finish_batch([run], progress)[0]


def finish_batch(runs: Sequence[Run], progress: bool = True) -> Sequence[Run]:
    """Finish several runs, as ``clipgen.finish`` does one; an interrupt ends all after the current step."""
    first, is_single = runs[0], len(runs) == 1
    total, done = sum(run.settings.steps for run in runs), sum(run.step for run in runs)
    bar = tqdm(total=total, initial=done, disable=not progress, unit="step", dynamic_ncols=True)
    bar.set_description("draft" if isinstance(first.spec.init, Dalle) and not first.step else "CLIP")

    def stop() -> None:
        for run in runs:
            run.stop()

    frames = first if is_single else (frame for _, frame in iterate_batch(runs))
    with bar, interrupts(stop):
        for frame in frames:
            bar.set_description("CLIP", refresh=False)
            bar.update(sum(run.step for run in runs) - bar.n)
            if is_single:
                scores = {name: f"{frame.scores[name]:.3f}" for name in ("clip", "judge") if name in frame.scores}
                bar.set_postfix(scores)
        if all(run.finished for run in runs):
            bar.total = bar.n  # they may have run out of patience before their last steps
    return runs


def batch_key(spec: RunSpec) -> tuple[Any, ...]:
    """Return what runs must share to be batched: models, size, ``tile``, and number of steps."""
    return *spec.models_key, spec.settings.size, spec.settings.tile, spec.settings.steps


def iterate_batch(runs: Sequence[Run]) -> Iterator[tuple[Run, Frame]]:
    """Yield the frames of runs with one ``batch_key`` and shared models. Those behind catch up first."""
    batched = BatchedSteps()
    with ExitStack() as stack:
        sessions: dict[Run, ExitStack] = {}
        for run in runs:  # a stack for each, as a run may end before the others
            sessions[run] = stack.enter_context(ExitStack())
            sessions[run].enter_context(run.session())

        def prepare(run: Run) -> bool:
            """Prepare the next step of a run; close its session and return False if there is none."""
            has_step = run.prepare_step()
            if not has_step:
                sessions[run].close()
            return has_step

        active = [run for run in runs if prepare(run)]
        while active:
            earliest = min(run.step for run in active)
            batch = [run for run in active if run.step == earliest]
            all_scores = batched.advance([run.optimization for run in batch])
            for run, scores in zip(batch, all_scores, strict=True):
                if frame := run.record_step(scores):
                    yield run, frame
            active = [run for run in active if run not in batch or prepare(run)]  # the others are prepared already


class BatchedSteps:
    """Steps of optimisations that share their models, their size and their step.

    Their latents go through the decoder as one tensor; all else is each one's own.
    The pictures are those of ``Optimization.advance``, to rounding. Where memory runs out, the batch is halved.
    """

    def __init__(self) -> None:
        self.max_size: int | None = None  # of a batch; None until memory runs out

    def advance(self, optimizations: Sequence[Optimization]) -> list[dict[str, Tensor]]:
        """Take one step of each; return what ``Optimization.advance`` returns, for each."""
        if len(optimizations) == 1:
            return [optimizations[0].advance()]
        groups = [list(group) for _, group in groupby(optimizations, lambda each: each.spec.generator.texts)]
        if len(groups) > 1:  # one decoder pass is conditioned by one prompt
            return [scores for group in groups for scores in self.advance(group)]
        if self.max_size and len(optimizations) > self.max_size:
            return self.advance(optimizations[: self.max_size]) + self.advance(optimizations[self.max_size :])
        rng_states = [optimization.rng.get_state() for optimization in optimizations]
        try:
            with deterministic(any(each.spec.deterministic for each in optimizations)):
                scores = compute_gradients(optimizations)
        except (RuntimeError, MemoryError) as error:
            if not is_oom(error):
                raise
        else:
            for optimization, own_scores in zip(optimizations, scores, strict=True):
                optimization.update_latent(own_scores["loss"])
            return scores
        release(optimizations[0].latent.device)
        self.max_size = len(optimizations) // 2
        warnings.warn(f"memory is short: at most {self.max_size} pictures are made together now", stacklevel=2)
        for optimization, state in zip(optimizations, rng_states, strict=True):
            optimization.rng.set_state(state)  # the same cutouts again
        return self.advance(optimizations)


def compute_gradients(optimizations: Sequence[Optimization]) -> list[dict[str, Tensor]]:
    """Do ``Optimization.compute_gradient`` for several, with one decoder pass; return the scores of each."""
    latents, rngs = [each.latent for each in optimizations], [each.rng for each in optimizations]
    spec, progress = optimizations[0].spec, optimizations[0].step / optimizations[0].spec.steps
    images = spec.generator.image(torch.cat(latents), progress, rngs).split(1)
    copies = [image.detach().requires_grad_() for image in images]
    scores = [each.compute_gradient(copy) for each, copy in zip(optimizations, copies, strict=True)]
    products = [(image * copy.grad).sum() for image, copy in zip(images, copies, strict=True) if copy.grad is not None]
    if products:
        torch.stack(products).sum().backward()
    return scores


class Interrupted(KeyboardInterrupt):
    """An interrupt of a run that can be resumed from its ``journal``."""

    def __init__(self, journal: Journal):
        super().__init__(f"interrupted; continue with: clipgen resume {display_path(journal.folder)}")
        self.journal = journal


@contextmanager
def resumable(journal: Journal) -> Iterator[None]:
    """Raise interrupts as ``Interrupted``, which names the run folder."""
    try:
        yield
    except Interrupted:
        raise
    except KeyboardInterrupt as error:
        raise Interrupted(journal) from error


@contextmanager
def interrupts(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` at the first interrupt; a second one ends the block at once, in the middle of a step.

    The handler is left alone outside the main thread, where interrupts are ignored, as in a shell's background jobs,
    and where Python could not restore it.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before in (None, signal.SIG_IGN):
        yield
        return

    def on_interrupt(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, before)
        stop()

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    except KeyboardInterrupt:
        stop()
    finally:
        signal.signal(signal.SIGINT, before)
