"""A study: many prompts, seeds and settings as runs of one folder, made by an engine, seen as a table and a sheet."""

from __future__ import annotations

import math
import os
from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image

from clipgen.errors import ClipgenError
from clipgen.images.sheets import contact_sheet, grid, png_bytes
from clipgen.prompts import slug
from clipgen.registry import ENGINES
from clipgen.runs.batch import batch_key
from clipgen.setting import check_count
from clipgen.storage.files import atomic_write
from clipgen.studies import page
from clipgen.studies.grid import expand_grid
from clipgen.studies.local import gpus
from clipgen.studies.progress import watching
from clipgen.studies.protocol import Engine, work
from clipgen.studies.row import Row
from clipgen.studies.storage import StudyStorage
from clipgen.studies.tables import MAX_ROWS, Table, told, write_csv


class Study:
    """The rows of a study, made or not. In a notebook it shows itself as its sheet.

    ``rows``: every run, in the order of what was asked for; ``varied``: the names of what differs between them;
    ``folder``: where they are, here.
    """

    def __init__(self, rows: Sequence[Row], place: StudyStorage, template: str = ""):
        self.rows, self.place, self.folder, self.template = list(rows), place, place.folder, template
        self.varied = list(dict.fromkeys(name for row in rows for name in row.varied))

    def make(self, engine: str = "local", workers: int | None = None, batch: int = 1) -> Generator[None]:
        """Make what is missing, as ``study`` does; yields when all is checked, and then whenever a row may be further.

        It can be closed at any moment: what is made is kept.
        """
        name, _, _ = str(engine).partition(":")
        ENGINES.check(name)
        batch = check_count("batch", batch)
        if workers is not None:
            workers = check_count("workers", workers, "; leave it out for what suits")
        self.place.meet(row.folder for row in self.rows)
        if not (left := sorted((row for row in self.rows if not row.state.done), key=_alike)):
            return
        batches = [
            [row.folder for row in some[at : at + batch]]
            for some in (list(group) for _, group in groupby(left, _alike))
            for at in range(0, len(some), batch)
        ]
        doer: Engine = ENGINES[name](
            workers, len(batches), gpus([row.spec for row in self.rows]), engine, self.place.address
        )
        try:
            with self.place.alone():
                self._begin(left, doer.threads)
                doer.measure(batches[0])
                yield
                for over in work(doer, batches):
                    for row in self.rows if over else ():
                        if row.folder in over:
                            self.place.settle(row.folder)
                            row.check_over()
                    yield
        finally:
            doer.close()

    def _begin(self, rows: Sequence[Row], threads: int) -> None:
        try:
            for row in rows:
                row.begin(threads)
        except OSError as error:
            why = error.strerror or error
            raise ClipgenError(f"folder={str(self.folder)!r}: {why}; make room there, and start again") from error

    @property
    def finished(self) -> bool:
        """Whether every row was made to its end."""
        return all(row.state.done for row in self.rows)

    @property
    def table(self) -> Any:
        """A line for each row: prompt, what varies, scores of its last frame, seconds, memory in MB, folder, error.

        A pandas DataFrame where pandas is installed, else a list of dictionaries.
        """
        lines = [row.record for row in self.rows]
        try:
            import pandas
        except ImportError:
            return lines
        return pandas.DataFrame(lines)

    def best(self, by: str = "") -> Row:
        """The row whose last frame has the highest score: ``by`` its name, or the judge's if there is one, or CLIP's.

        Scores of different perceptors or prompts do not compare; a judge's do. Raises ClipgenError where there is no
        such score.
        """
        scored = [(row.scores, row) for row in self.rows]
        names = {name for scores, _ in scored for name in scores}
        by = by or ("judge" if "judge" in names else "clip")
        known = [(scores[by], row) for scores, row in scored if math.isfinite(scores.get(by, math.nan))]
        if not known:
            raise ClipgenError(f"by={by!r}: no row has this score; there are {', '.join(sorted(names)) or 'none yet'}")
        return max(known, key=lambda pair: pair[0])[1]

    def sheet(self, across: str = "", down: str = "") -> Image.Image:
        """The last frames with labelled axes: ``across`` and ``down`` name what varies along them.

        Without names the last one that varies goes across and the others go down. Where rows share a place the one
        with the best score is there. Raises ClipgenError for a name that does not vary, and before the first frame.
        """
        for name in filter(None, (across, down)):
            if name not in self.varied:
                raise ClipgenError(f"{name!r} does not vary in this study; there is {', '.join(self.varied) or 'none'}")
        across = across or next((name for name in reversed(self.varied) if name != down), "")
        rest = [down] if down else [name for name in self.varied if name != across]
        columns = list(dict.fromkeys(_axis(row, [across]) for row in self.rows))
        lines = list(dict.fromkeys(_axis(row, rest) for row in self.rows))
        if len(columns) * len(lines) > 2 * len(self.rows):  # side by side, or a table: most places would be empty
            made = [row for row in self.rows if row.image]
            labels = [row.label for row in made]
            return contact_sheet([row.image for row in made if row.image], min(4, len(made)), labels)
        places: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            if row.image:
                places.setdefault((_axis(row, rest), _axis(row, [across])), []).append(row)

        def shown(line: str, column: str) -> Image.Image | None:
            here = places.get((line, column))
            return Study(here, self.place).best().image if here else None

        return grid([[shown(line, column) for column in columns] for line in lines], columns, lines)

    def export(self, file: str | Path) -> Path:
        """Write the study to look at, hand in or publish, whole or not at all; returns the path.

        .html: one page, a grid to filter, each row opening its film, settings and curve; .png: the sheet; .csv: the
        table. Raises ClipgenError for another suffix, and for a place that cannot be written.
        """
        file = page.check(file)
        try:
            with atomic_write(file) as part:
                if part.suffix == ".html":
                    page.write(self.rows, self.varied, self.template, part)
                elif part.suffix == ".png":
                    self.sheet().save(part)
                else:
                    write_csv([row.record for row in self.rows], part)
        except OSError as error:
            raise ClipgenError(f"output={str(file)!r}: {error.strerror}; choose a place that has room") from error
        return file

    def _repr_png_(self) -> bytes | None:
        return png_bytes(self.sheet()) if any(row.image for row in self.rows) else None

    def __repr__(self) -> str:
        states = [row.state for row in self.rows]
        failed = sum(bool(state.error) for state in states)
        return f"<Study of {len(states)} rows in {self.folder}: {sum(s.done for s in states)} made, {failed} failed>"


def _axis(row: Row, names: Sequence[str]) -> str:
    return ", ".join(f"{name}={told(row.varied[name])}" for name in names if name in row.varied)


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
    """Many runs at once: ``study("a {thing}", thing=["cat", "dog"], seed=range(4), cutouts=[16, 32], steps=60)``.

    Every list is varied, of settings and of what fills the template's ``{placeholders}``, and so is a range, a set, an
    array, a Series or a generator; what is no list holds for all rows. ``zip``: the lists go side by side instead of
    each with each. ``table``: a .csv, a .yaml, dictionaries or a DataFrame, whose lines set several names at once; a
    column "prompt" is a template of its own. ``size``: two numbers are one size. More than ``max_rows`` rows are
    refused.

    Each row is an ordinary run in ``folder`` (by default named after the template). The study started again makes
    only what is missing and goes on where rows were interrupted, to the same frames. A row that fails says so in the
    table, and the others go on. An interrupt ends it early, with everything kept. ``folder`` may be an address for
    fsspec, such as "s3://bucket/study": rows are then made in a folder here, named after it, copied there as soon as
    each is made, and fetched by whoever starts the study again on another machine.

    ``engine``: "local", processes on this machine, one for each GPU, or ``workers`` that share the cores; "ray", or the
    address of its cluster, "ray://head:10001", whose nodes all see the ``folder``, or reach its address. ``batch``: a
    worker makes so many rows in one tensor, of those that share models, size and number of steps; their pictures are
    those made singly, to rounding.

    Raises ClipgenError for what a person can mend, in any row, before a model is loaded.
    """
    if not (folder is None or (isinstance(folder, (str, os.PathLike)) and os.fspath(folder).strip())):
        raise ClipgenError(f"folder={folder!r}: has to be a path or an address; leave it out for one in clipgen-runs")
    if not isinstance(zip, bool):
        raise ClipgenError(f"zip={zip!r}: has to be True or False")
    asked = expand_grid(template, settings, table, zip, check_count("max_rows", max_rows))
    title = template if isinstance(template, str) else told(asked[0].prompt)
    place = StudyStorage(folder if folder is not None else Path("clipgen-runs", f"study-{slug(title)}"))
    known = place.names
    rows = list({row.folder: row for row in (Row(one, place.folder, known) for one in asked)}.values())
    made = Study(rows, place, title)
    with suppress(KeyboardInterrupt), closing(made.make(engine, workers, batch)) as going:  # what was made is kept
        for _ in going:  # all is checked
            with watching(rows, progress) as look:
                for _ in going:
                    look()
    return made


def _alike(row: Row) -> str:
    """Rows with the same models stand together, so that a worker loads them once; and then those for one tensor."""
    return repr(batch_key(row.spec))
