"""A study: runs that vary prompts, seeds and settings, made by an engine, with a table, a sheet and a page."""

from __future__ import annotations

import math
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image

from clipgen.errors import ClipgenError, explain_os_errors
from clipgen.images.sheets import png_bytes
from clipgen.prompts import slug
from clipgen.registry import ENGINES
from clipgen.runs.finish import batch_key
from clipgen.setting import check_count
from clipgen.storage import atomic_write, display_path
from clipgen.studies import page
from clipgen.studies.executor import WorkerExecutor, WorkerLost, visible_gpus
from clipgen.studies.grid import expand_grid
from clipgen.studies.row import Row, RowState, StudyStorage
from clipgen.studies.tables import MAX_ROWS, Table, format_value, write_csv
from clipgen.studies.worker import make_rows

TICK = 0.25  # seconds between two checks of how far the rows are
ATTEMPTS = 3  # a row is marked failed after this many lost workers in one step


class Study:
    """The rows of a study, made or not. A notebook shows it as its sheet.

    Attributes:
        rows: All runs, in the order of the grid, without duplicates.
        varied: Names of what differs between them.
        folder: Where they are, on this machine.
    """

    def __init__(self, rows: Iterable[Row], storage: StudyStorage, template: str = ""):
        self.storage, self.folder, self.template = storage, storage.folder, template
        self.rows = list({row.digest: row for row in rows}.values())
        self.varied = list(dict.fromkeys(name for row in self.rows for name in row.varied))

    def make(self, engine: str = "local", workers: int | None = None, batch: int = 1, progress: bool = False) -> None:
        """Make the missing rows; for the arguments see ``study``. After an interrupt the finished rows are kept."""
        name, _, _ = str(engine).partition("://")
        ENGINES.check(str(engine) if name == "local" else name)
        batch = check_count("batch", batch)
        if workers is not None:
            workers = check_count("workers", workers, remedy="; leave it out for the default")
        self.storage.sync(row.folder for row in self.rows)
        keys = {row: repr(batch_key(row.spec)) for row in self.rows if not row.state.done}
        todo = sorted(keys, key=keys.__getitem__)  # a worker loads models once
        if not todo:
            return
        batches: list[list[Path]] = []
        for _, group in groupby(todo, keys.__getitem__):
            folders = [row.folder for row in group]
            batches += [folders[i : i + batch] for i in range(0, len(folders), batch)]
        executor = ENGINES[name](workers, len(batches), visible_gpus([row.spec for row in self.rows]), engine)
        rows = {row.folder: row for row in self.rows}
        with executor, self.storage.locked():
            with explain_os_errors("folder", self.folder, "make room, and start again"):
                for row in todo:
                    row.begin(executor.threads)
            with page.show_progress(self.rows, self.varied, progress) as update:
                for ended in make_batches(executor, batches, self.storage):
                    for folder in ended:
                        self.storage.sync_row(folder)
                        rows[folder].ensure_ended()
                    update()

    @property
    def finished(self) -> bool:
        """Whether every row was made to its end."""
        return all(row.state.done for row in self.rows)

    @property
    def table(self) -> Any:
        """A line for each row: prompt, what varies, scores of its last frame, seconds, folder, error.

        A pandas DataFrame where pandas is installed, else a list of dictionaries.
        """
        records = [row.to_record() for row in self.rows]
        try:
            import pandas
        except ImportError:
            return records
        return pandas.DataFrame(records)

    def best(self, by: str = "") -> Row:
        """Return the row whose last frame has the highest score.

        Scores of different perceptors or prompts do not compare; those of one judge do.

        Args:
            by: Name of the score; by default "judge" if there is one, else "clip".

        Raises:
            ClipgenError: If no row has this score.
        """
        scores = {row: row.scores for row in self.rows}
        names = {name for line in scores.values() for name in line}
        by = by or ("judge" if "judge" in names else "clip")
        finite = [row for row, line in scores.items() if math.isfinite(line.get(by, math.nan))]
        if not finite:
            raise ClipgenError(f"by={by!r}: no row has this score; there are {', '.join(sorted(names)) or 'none yet'}")
        return max(finite, key=lambda row: scores[row][by])

    def sheet(self, across: str = "", down: str = "") -> Image.Image:
        """Return the last frames in a grid with labelled axes. Of several rows in one cell it shows the best.

        Args:
            across: Name of what varies from column to column; by default the last one that varies.
            down: Name of what varies from line to line; by default all others.

        Raises:
            ClipgenError: For a name that does not vary, and before the first frame.
        """
        return page.draw_sheet(self.rows, self.varied, across, down)

    def export(self, file: str | Path) -> Path:
        """Write the study to a file, whole or not at all; return its path.

        Args:
            file: .html: a page with the pictures and scores to filter and order; .png: the sheet; .csv: the table.

        Raises:
            ClipgenError: For another suffix, and for a file that cannot be written.
        """
        file = page.check_file(file)
        with explain_os_errors("output", file, "choose a place that has room"), atomic_write(file) as part:
            if part.suffix == ".html":
                page.write_page(self.rows, self.varied, self.template, part)
            elif part.suffix == ".png":
                self.sheet().save(part)
            else:
                write_csv([row.to_record() for row in self.rows], part)
        return file

    def _repr_png_(self) -> bytes | None:
        return png_bytes(self.sheet()) if any(row.image for row in self.rows) else None

    def __repr__(self) -> str:
        states = [row.state for row in self.rows]
        failed = sum(bool(state.error) for state in states)
        done, folder = sum(state.done for state in states), display_path(self.folder)
        return f"<Study of {len(states)} rows in {folder}: {done} made, {failed} failed>"


def study(
    template: Any = None,
    *,
    table: Table | None = None,
    zip: bool = False,
    folder: str | Path | None = None,
    engine: str = "local",
    workers: int | None = None,
    batch: int = 1,
    max_rows: int = MAX_ROWS,
    progress: bool = True,
    **settings: Any,
) -> Study:
    """Make many runs: ``study("a {thing}", thing=["cat", "dog"], seed=range(4), cutouts=[16, 32], steps=60)``.

    Each row is an ordinary run in a folder. The study started again makes only what is missing and resumes interrupted
    rows, to the same frames. A failed row has its error in the table; the others continue. An interrupt ends the study
    early, with everything kept.

    Args:
        template: The prompt, with placeholders such as ``{thing}``; or several.
        table: Values of several names at once: a .csv or .yaml file, dictionaries or a DataFrame. A column "prompt" has
            templates.
        zip: Take the lists side by side instead of each value with each.
        folder: Where rows are kept; by default named after the template. An address for fsspec, such as
            "s3://bucket/study", is copied to as rows are made, and from when another machine starts the study again.
        engine: "local", processes on this machine, one for each GPU; "ray", or the address of a cluster,
            "ray://head:10001", whose nodes see the folder or reach its address.
        workers: Number of workers, which share the cores.
        batch: Number of rows in one tensor, of those that share models, size and number of steps; pictures are equal to
            those made singly, up to rounding.
        max_rows: More rows are refused.
        progress: Show a progress bar, and in a notebook the sheet as it fills.
        settings: See ``clipgen.Run``; and values of the placeholders. A list, range, set, array, Series or generator is
            varied, anything else holds for all rows. Two numbers for ``size`` are one size.

    Raises:
        ClipgenError: For arguments that cannot work, in any row, before a model is loaded.
    """
    if not (folder is None or (isinstance(folder, (str, os.PathLike)) and os.fspath(folder).strip())):
        raise ClipgenError(f"folder={folder!r}: must be a path or an address; leave it out for one in clipgen-runs")
    if not isinstance(zip, bool):
        raise ClipgenError(f"zip={zip!r}: must be True or False")
    points = expand_grid(template, settings, table, zip, check_count("max_rows", max_rows))
    title = template if isinstance(template, str) else format_value(points[0].prompt)
    storage = StudyStorage(folder if folder is not None else Path("clipgen-runs", f"study-{slug(title)}"))
    names = storage.row_names()
    result = Study((Row(point, storage.folder, names) for point in points), storage, title)
    with suppress(KeyboardInterrupt):
        result.make(engine, workers, batch, progress)
    return result


def make_batches(
    executor: WorkerExecutor, batches: Iterable[Sequence[Path]], storage: StudyStorage
) -> Iterator[list[Path]]:
    """Have an executor make the rows in these folders, each batch in one tensor.

    Rows of a lost worker are resumed by another one, each by itself. Yields at least every TICK seconds: the folders of
    the rows that have ended since then, made or failed.
    """
    waiting, running = deque(batches), dict[Future, Sequence[Path]]()
    losses: Counter[tuple[Path, int]] = Counter()
    while waiting or running:
        if not waiting:
            executor.close_idle()
        while waiting and len(running) < executor.workers:
            batch, address = waiting.popleft(), "" if executor.shares_folders else storage.address
            for folder in batch if address else ():
                storage.upload(folder)
            running[executor.submit(make_rows, [folder.resolve() for folder in batch], address)] = batch
        ended: list[Path] = []
        for future in wait(running, TICK, FIRST_COMPLETED).done:
            batch, error = running.pop(future), future.exception()
            if error is None:
                ended += batch
            elif not isinstance(error, WorkerLost):
                raise error
            elif len(batch) > 1:
                waiting.extendleft([folder] for folder in reversed(batch))
            else:
                (folder,) = batch
                state = RowState.read(folder)
                losses[folder, state.step] += 1
                if losses[folder, state.step] < ATTEMPTS:
                    waiting.appendleft(batch)
                else:
                    reason = f"its worker was lost {ATTEMPTS} times in the same step ({error}); is memory short?"
                    with suppress(OSError):  # a full disk: Row.ensure_ended says so
                        replace(state, error=reason).write(folder)
                    ended.append(folder)
        yield ended
