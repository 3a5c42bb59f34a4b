"""What a worker of a study computes, whatever engine it belongs to: rows, one batch after another."""

import gc
import os
import pickle
import queue
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from clipgen.errors import ClipgenError
from clipgen.runs.finish import iterate_batch
from clipgen.runs.run import Run
from clipgen.studies.row import RowState, local_rows

_last_run: Run | None = None  # of this worker: the next rows share its models


def serve(threads: int, handle: int) -> None:
    """Compute the tasks that come in through a channel; ends with the process that sends them.

    Args:
        threads: Number of CPU threads.
        handle: The handle of the channel's end, as ``ProcessWorker`` passes it on.
    """
    if sys.platform == "win32":
        from multiprocessing.connection import PipeConnection

        channel = PipeConnection(handle)
    else:
        channel = Connection(handle)
        os.set_inheritable(handle, False)  # processes that libraries start are not to keep it open
    tasks: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def receive() -> None:
        try:
            while True:
                tasks.put(channel.recv_bytes())
        finally:
            os._exit(0)

    threading.Thread(target=receive, daemon=True).start()
    initialize(threads)
    while True:
        function, arguments = pickle.loads(tasks.get())
        channel.send(function(*arguments))


def initialize(threads: int) -> None:
    """Set the number of CPU threads of this process, and exempt its libraries from garbage collection."""
    torch.set_num_threads(threads)
    gc.freeze()  # a row then takes 0.06 s to collect instead of 0.15


def make_rows(folders: Sequence[Path], address: str = "") -> None:
    """Resume the runs in some folders to their ends, in one tensor; the outcome of each is in its folder.

    Where one fails, each is made by itself, so that the error is written where it belongs. ``address`` is that of the
    study, for machines that do not have the folders.
    """
    with local_rows(folders, address) as local:
        _try_rows(local)


def _try_rows(folders: Sequence[Path]) -> None:
    global _last_run
    failed = False
    try:
        _finish_rows(folders)
    except Exception as error:  # a failed row is still a row; the others continue
        traceback.print_exc(file=sys.stderr)
        _last_run, failed = None, True  # a device that ran out of memory needs it back
        reason = str(error) if isinstance(error, ClipgenError) else f"{type(error).__name__}: {error}"
        if len(folders) == 1:
            with suppress(OSError):
                replace(RowState.read(folders[0]), done=False, error=reason).write(folders[0])
    if failed and len(folders) > 1:  # outside of the handler: the traceback would keep tensors alive
        for folder in folders:
            _try_rows([folder])
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _finish_rows(folders: Sequence[Path]) -> None:
    global _last_run
    runs: list[Run] = []
    for folder in folders:
        runs.append(Run.resume(folder, like=runs[-1] if runs else _last_run))
    earlier, began = [RowState.read(folder).seconds for folder in folders], time.monotonic()

    def write_state(run: Run, done: bool = False, error: str = "") -> None:
        seconds = earlier[runs.index(run)] + (time.monotonic() - began) / len(runs)
        RowState(run.step, seconds, done, error).write(run.journal.folder)

    for run, _ in iterate_batch(runs):
        write_state(run)
        if run.journal.write_error:
            raise ClipgenError(f"its frames cannot be saved ({run.journal.write_error}); make room, and start again")
    for run in runs:
        error = "" if run.finished else f"the loss was not finite; stopped at the last good frame, step {run.step}"
        write_state(run, run.finished, error)
        del run.optimization  # its memory is for the next rows
    _last_run = runs[0]
