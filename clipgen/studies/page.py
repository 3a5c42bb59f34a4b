"""What a study shows: its sheet; its progress, a bar and in a notebook the sheet as it fills; an HTML page.

The page is a grid of rows to filter and order. It asks the network for nothing, under a Content-Security-Policy as a
film's page. Without JavaScript the pictures and scores are there.
"""

import io
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

from clipgen.errors import ClipgenError
from clipgen.export import check_writable
from clipgen.export.html import hash_source, picture_url
from clipgen.images.sheets import contact_sheet, enlarge, grid
from clipgen.runs.inputs import strip_paths
from clipgen.studies.row import Row, RowState
from clipgen.studies.tables import format_value

PAGE, CSS, JS = (Path(__file__).with_name(f"page.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
SUFFIXES = (".html", ".png", ".csv")
THUMBNAIL = 384  # pixels of a picture: a page holds many
TILES, SHEET = 96, 1200  # pictures of a live grid, pixels of its longer side


def draw_sheet(rows: Sequence[Row], varied: Sequence[str], across: str = "", down: str = "") -> Image.Image:
    """Return the last frames of some rows in a grid, see ``Study.sheet``."""
    for name in filter(None, (across, down)):
        if name not in varied:
            raise ClipgenError(f"{name!r} does not vary in this study; there is {', '.join(varied) or 'none'}")
    across = across or next((name for name in reversed(varied) if name != down), "")
    others = [down] if down else [name for name in varied if name != across]
    columns = list(dict.fromkeys(_axis_label(row, [across]) for row in rows))
    grid_rows = list(dict.fromkeys(_axis_label(row, others) for row in rows))
    begun = [row for row in rows if row.journal.steps]
    if not begun:
        raise ClipgenError("sheet: no row has a frame yet; see the errors in the study's table, or start it again")
    if len(columns) * len(grid_rows) > 2 * len(rows):  # of zip=True or a table: most cells would be empty
        images = [image for row in begun if (image := row.image)]
        return contact_sheet(images, min(4, len(begun)), [row.label for row in begun])
    cells: dict[tuple[str, str], list[Row]] = {}
    for row in begun:
        cells.setdefault((_axis_label(row, others), _axis_label(row, [across])), []).append(row)
    best = {cell: max(candidates, key=_judge_or_clip).image for cell, candidates in cells.items()}
    return grid([[best.get((row, column)) for column in columns] for row in grid_rows], columns, grid_rows)


def _axis_label(row: Row, names: Sequence[str]) -> str:
    return ", ".join(f"{name}={format_value(row.varied[name])}" for name in names if name in row.varied)


def _judge_or_clip(row: Row) -> float:
    score = row.scores.get("judge", row.scores.get("clip", math.nan))
    return score if math.isfinite(score) else -math.inf


def check_file(file: str | Path) -> Path:
    """Return the path of a file that a study can be written to. Raises ClipgenError for another."""
    file = Path(file)
    if file.suffix.lower() not in SUFFIXES:
        raise ClipgenError(f"output={str(file)!r}: the suffix decides what is written; use {', '.join(SUFFIXES)}")
    check_writable(file)
    return file


def write_page(rows: Sequence[Row], varied: Sequence[str], title: str, file: Path) -> None:
    """Write the page of some rows. Raises OSError for a file that cannot be written."""
    size = next((image.size for row in rows if (image := row.image)), (1, 1))
    css = CSS.replace("$aspect", f"{size[0]} / {size[1]}")
    scores = dict.fromkeys(name for row in rows for name in row.scores if name != "loss")
    records = [{name: value for name, value in row.to_record().items() if name != "folder"} for row in rows]
    texts = dict(
        csp=f"script-src '{hash_source(JS)}'; style-src '{hash_source(css)}'",
        records=json.dumps([_shorten(row, record) for row, record in zip(rows, records)]).replace("<", "\\u003c"),
        title=escape(title),
        css=css,
        filters="\n".join(_filter_html(name, rows) for name in varied),
        orders="".join(f'<option value="{escape(n)}">{escape(_score_name(n))}, best first</option>' for n in scores),
        count=f"{len(rows)}",
        js=JS,
    )
    # Each part is filled once, so that a prompt may have a $name in it.
    before, after = (Template(part).substitute(texts) for part in PAGE.split("$rows"))
    with file.open("w", encoding="utf-8", errors="replace", newline="\n") as out:
        out.write(before)
        out.writelines(map(_row_html, rows))
        out.write(after)


def _shorten(row: Row, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as JSON has them, with files by their base names."""
    return strip_paths(json.loads(json.dumps(values, default=format_value)), [asdict(row.spec.settings)])


def _score_name(name: str) -> str:
    return "CLIP score" if name == "clip" else name


def _filter_html(name: str, rows: Sequence[Row]) -> str:
    texts = dict.fromkeys(_shorten(row, {name: format_value(row.varied.get(name))})[name] for row in rows)
    options = "".join(f'<option value="{escape(text)}">{escape(text)}</option>' for text in texts)
    choice = f'<select data-name="{escape(name)}" autocomplete="off"><option value="">all</option>{options}</select>'
    return f"<label>{escape(name)} {choice}</label>"


def _row_html(row: Row) -> str:
    """Return the picture of a row with what it varies, its scores and its error."""
    state, scores = row.state, {name: value for name, value in row.scores.items() if name != "loss"}
    varied = {name: format_value(value) for name, value in row.varied.items()}
    texts = _shorten(row, {"varied": varied, "label": row.label, "error": state.error})
    finite = {name: value for name, value in scores.items() if math.isfinite(value)}
    facts, label = json.dumps({"varied": texts["varied"], "scores": finite}), escape(texts["label"])
    numbers = [f"{_score_name(name)} {value:.3f}" for name, value in scores.items()] + [f"{state.seconds:.1f} s"]
    lines = f'<span>{label}</span><span class="faint">{escape(" · ".join(numbers))}</span>'
    if state.error:
        lines += f'<span class="error">{escape(texts["error"])}</span>'
    picture = '<span class="none"></span>'
    if image := row.image:
        thumbnail = enlarge(image)
        thumbnail.thumbnail((THUMBNAIL, THUMBNAIL))
        picture = f'<img src="{picture_url(thumbnail)}" alt="{label}">'
    return f'<li data-row="{escape(facts)}">{picture}{lines}</li>\n'


@contextmanager
def show_progress(rows: Sequence[Row], varied: Sequence[str], progress: bool) -> Iterator[Callable[[], None]]:
    """Yield a function that shows how far a study is.

    It acts at most once per second, and for at most 5% of the time: to read 1,000 rows takes a while.
    """
    if not progress:
        yield lambda: None
        return
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    live_grid = LiveGrid(rows, varied) if hasattr(shell, "kernel") else None
    total, before = sum(row.spec.settings.steps for row in rows), count_steps(rows, [row.state for row in rows])
    with tqdm(total=total, initial=before, unit="step", dynamic_ncols=True) as bar:
        next_time = 0.0

        def update(is_last: bool = False) -> None:
            nonlocal next_time
            if (began := time.monotonic()) < next_time and not is_last:
                return
            states = [row.state for row in rows]
            failed = sum(bool(state.error) for state in states)
            bar.update(max(0, count_steps(rows, states) - bar.n))
            bar.set_postfix(rows=f"{sum(state.done for state in states)}/{len(rows)}", failed=failed, refresh=False)
            if live_grid:
                live_grid.update(states)
            next_time = began + max(1, 20 * (time.monotonic() - began))

        try:
            yield update
        finally:
            update(is_last=True)


def count_steps(rows: Sequence[Row], states: Sequence[RowState]) -> int:
    """Return the number of steps that are completed or skipped: all those of a failed row."""
    pairs = zip(rows, states, strict=True)
    return sum(row.spec.settings.steps if state.done or state.error else state.step for row, state in pairs)


class LiveGrid:
    """The sheet of a study's newest frames in a notebook, of its first ``TILES`` rows."""

    def __init__(self, rows: Sequence[Row], varied: Sequence[str]):
        import ipywidgets as widgets
        from IPython.display import display

        self._rows, self._varied, self._displayed = rows[:TILES], varied, list[RowState]()
        self.image = widgets.Image(format="jpeg", layout={"display": "none"})
        self.image.add_class("clipgen-grid")
        display(self.image)

    def update(self, states: list[RowState]) -> None:
        """Show the newest frames if the states of the rows have changed."""
        if states == self._displayed:
            return
        self._displayed, out = states, io.BytesIO()
        with suppress(ClipgenError):  # no frames yet, none with a score, or too large ones
            sheet = draw_sheet(self._rows, self._varied)
            sheet.thumbnail((SHEET, SHEET))
            sheet.save(out, "JPEG", quality=85)
            self.image.value, self.image.layout.display = out.getvalue(), ""
