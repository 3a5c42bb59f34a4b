"""The table of a run's scores (``scores.csv``): a row for each frame, of ``step``, ``clip`` and what else scored it."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from clipgen.errors import ClipgenError


def append_row(file: Path, row: Mapping[str, float]) -> bool:
    """Append a row to a new table, or one that ends with a whole row and has all its columns.

    Returns:
        Whether it was appended; else the table has to be written anew.
    """
    with suppress(OSError), file.open("a+b") as out:
        out.seek(0)
        names = next(csv.reader([out.readline().decode(errors="replace")]), [])
        if names:
            out.seek(-1, os.SEEK_END)
            if row.keys() - set(names) or out.read() != b"\n":
                return False
        out.write(_line(names, row).encode() if names else format_rows([row]))
        out.flush()
        return True
    return False


def format_rows(rows: Sequence[Mapping[str, float]]) -> bytes:
    """Return the content of a table; a score that a row lacks is a gap in it."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return "".join([_line(names, dict(zip(names, names))), *(_line(names, row) for row in rows)]).encode()


def parse_rows(text: str, file: Path) -> list[dict[str, float]]:
    """Return the rows of a table that were written whole: a kill, or a full disk, can leave half of one at the end.

    Args:
        text: the content of the table.
        file: where it is, for the error.

    Raises ClipgenError for a table that is damaged.
    """
    whole = text[: max(text.rfind("\n"), text.rfind("\r")) + 1].replace("\0", "")
    try:
        names, *lines = csv.reader(io.StringIO(whole, newline="")) if whole else [[]]
    except csv.Error as error:
        raise ClipgenError(f"{file}: this file is damaged ({error}); delete it") from error
    rows = []
    for cells in lines:
        if len(cells) != len(names):  # a score that appeared later moved those after step and clip until 0.4
            cells = cells[:2]
        with suppress(ValueError):
            row = {name: float(cell) for name, cell in zip(names, cells) if cell}
            if row.keys() >= {"step", "clip"} and math.isfinite(row["step"]):
                rows.append(row)
    return sorted(rows, key=lambda row: row["step"])


def _line(names: Iterable[str], row: Mapping[str, float | str]) -> str:
    out = io.StringIO(newline="")
    csv.writer(out).writerow([_cell(name, row.get(name, "")) for name in names])
    return out.getvalue()


def _cell(name: str, value: float | str) -> str:
    return value if isinstance(value, str) else str(int(value)) if name == "step" else f"{value:.6g}"
