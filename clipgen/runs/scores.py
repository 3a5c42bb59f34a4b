"""The table of a run's scores, ``scores.csv``: a row for each frame, with ``step``, ``clip`` and other scores."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from clipgen.errors import ClipgenError


def append_row(file: Path, row: Mapping[str, float]) -> bool:
    """Append a row to a new table, or to one that has all its columns and ends with a whole row.

    Returns:
        Whether it was appended; otherwise the table has to be written anew.
    """
    with suppress(OSError), file.open("a+b") as out:
        out.seek(0)
        names = next(csv.reader([out.readline().decode(errors="replace")]), [])
        if names:
            out.seek(-1, os.SEEK_END)
            if row.keys() - set(names) or out.read() != b"\n":
                return False
        out.write(format_rows([row], names))
        out.flush()
        return True
    return False


def format_rows(rows: Sequence[Mapping[str, float]], header: Sequence[str] = ()) -> bytes:
    """Return rows as CSV, below a header unless a table has one already; a missing score is an empty cell."""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, header or [*dict.fromkeys(name for row in rows for name in row)])
    if not header:
        writer.writeheader()
    for row in rows:
        writer.writerow({name: int(value) if name == "step" else f"{value:.6g}" for name, value in row.items()})
    return out.getvalue().encode()


def parse_rows(text: str, file: Path) -> list[dict[str, float]]:
    """Return the complete rows of a table: a kill, or a full disk, can leave half of one at the end.

    Raises ClipgenError, with the name of the file, for a damaged table.
    """
    whole = text[: max(text.rfind("\n"), text.rfind("\r")) + 1].replace("\0", "")
    try:
        names, *lines = csv.reader(io.StringIO(whole, newline="")) if whole else [[]]
    except csv.Error as error:
        raise ClipgenError(f"{file}: this file is damaged ({error}); delete it") from error
    rows = []
    for cells in lines:
        if len(cells) != len(names):  # up to 0.4 a new score moved those after step and clip
            cells = cells[:2]
        with suppress(ValueError):
            row = {name: float(cell) for name, cell in zip(names, cells) if cell}
            if row.keys() >= {"step", "clip"} and math.isfinite(row["step"]):
                rows.append(row)
    return sorted(rows, key=lambda row: row["step"])
