"""What a worker of a study does, whatever started it: it makes rows, one after another, with the same models."""

from __future__ import annotations

import gc
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from clipgen.errors import ClipgenError
from clipgen.runs.batch import iterate_batch
from clipgen.runs.journal import Journal
from clipgen.runs.run import Run
from clipgen.studies.row import RowState
from clipgen.studies.storage import at_hand


class Maker:
    """Makes rows in this process. Computes with so many ``threads`` on a CPU."""

    def __init__(self, threads: int):
        torch.set_num_threads(threads)
        gc.freeze()  # libraries stay: collecting without looking at them takes 0.06 s of a row instead of 0.15
        self._like: Run | None = None

    def probe(self, folders: Sequence[Path], address: str) -> tuple[float, float]:
        """Make the first frame of some rows; the bytes of the GPU that are taken then, and all it has."""
        with at_hand(folders, address) as here:
            runs = self._resumed(here)
            next(iterate_batch(runs))
        free, all_ = torch.cuda.mem_get_info(runs[0].spec.device)
        return all_ - free, all_

    def make(self, folders: Sequence[Path], address: str = "") -> None:
        """Go on with the runs in some folders to their ends, in one tensor; what becomes of them is in the folders.

        Where one fails, each goes on by itself, so that the error is told where it belongs. ``address``: where the rows
        are that this machine does not have.
        """
        with at_hand(folders, address) as here:
            self._try(here)

    def _try(self, folders: Sequence[Path]) -> None:
        failed = False
        try:
            self._make(folders)
        except Exception as error:  # a row that fails is a row; the others go on
            traceback.print_exc(file=sys.stderr)
            self._like = None  # a device that ran out of memory needs it back
            said = str(error) if isinstance(error, ClipgenError) else f"{type(error).__name__}: {error}"
            if len(folders) == 1:
                with suppress(OSError):
                    replace(RowState.read(folders[0]), done=False, error=said).write(folders[0])
            failed = True
        if failed and len(folders) > 1:  # only now: until here the error holds all that the rows took together
            for folder in folders:
                self._try([folder])
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _resumed(self, folders: Sequence[Path]) -> list[Run]:
        runs: list[Run] = []
        for folder in folders:
            runs.append(Run.resume(folder, like=runs[-1] if runs else self._like))
        return runs

    def _make(self, folders: Sequence[Path]) -> None:
        runs = self._resumed(folders)
        # A run that was killed between a frame and its state is a frame back.
        states = [replace(RowState.read(run.journal.folder), step=run.step, error="", done=False) for run in runs]
        began, device = time.monotonic(), runs[0].spec.device
        _forget_peak(device)

        def note(run: Run, **more) -> None:
            before = states[runs.index(run)]
            seconds, memory = before.seconds + (time.monotonic() - began) / len(runs), max(before.memory, _peak(device))
            RowState(run.step, seconds, memory, **more).write(run.journal.folder)

        for run, _ in iterate_batch(runs):
            note(run)
            _check_saved(run.journal)
        for run in runs:
            stuck = "" if run.finished else f"the loss was not finite; stopped at the last good frame, step {run.step}"
            note(run, done=run.finished, error=stuck)
            run.render = None
        self._like = runs[0]


def _check_saved(journal: Journal) -> None:
    if journal.trouble:
        raise ClipgenError(f"its frames cannot be saved ({journal.trouble}); make room, and start again")


def _forget_peak(device: torch.device) -> None:
    """Begin to look for the most memory from now on, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def _peak(device: torch.device) -> float:
    """MB that were taken at most: of the GPU by tensors, or of the machine by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1.024e-3
    try:
        from resource import RUSAGE_SELF, getrusage
    except ImportError:  # Windows
        return 0.0
    return getrusage(RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
