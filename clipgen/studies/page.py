"""A study as one HTML page: a grid of rows to filter, each of which opens the page of its film.

It asks the network for nothing, under a Content-Security-Policy as a film's page. Without JavaScript the pictures and
scores are there.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from clipgen.errors import ClipgenError
from clipgen.export import html as film_page
from clipgen.export.film import export
from clipgen.images.sheets import enlarge
from clipgen.runs.saved import base_names
from clipgen.studies.row import Row
from clipgen.studies.tables import format_value

PAGE, CSS, JS = (Path(__file__).with_name(f"page.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
SUFFIXES = (".html", ".png", ".csv")
FRAMES, SIDE = 30, 384  # largest number of frames of a film, pixels of a thumbnail: a page holds many


def check_file(file: str | Path) -> Path:
    """Return the path of a file that a study can be written to. Raises ClipgenError for another."""
    file = Path(file)
    if file.suffix.lower() not in SUFFIXES:
        raise ClipgenError(f"output={str(file)!r}: the suffix decides what is written; use {', '.join(SUFFIXES)}")
    try:
        if file.is_dir():
            raise IsADirectoryError(0, "is a folder")
        tempfile.TemporaryFile(dir=file.parent).close()
    except OSError as error:
        raise ClipgenError(
            f"output={str(file)!r}: cannot be written ({error.strerror}); choose a file in a folder that can be written"
        ) from error
    return file


def write_page(rows: Sequence[Row], varied: Sequence[str], title: str, file: Path) -> None:
    """Write the page of some rows. Raises OSError for a file that cannot be written."""
    size = next((image.size for row in rows[:1] if (image := row.image)), (1, 1))
    css = CSS.replace("$aspect", f"{size[0]} / {size[1]}")
    scripts = " ".join(f"'{film_page.hashed(source)}'" for source in (JS, film_page.JS))
    styles = " ".join(f"'{film_page.hashed(source)}'" for source in (css, film_page.CSS))
    scores = dict.fromkeys(name for row in rows for name in row.scores if name != "loss")
    records = [{name: value for name, value in row.record.items() if name != "folder"} for row in rows]
    texts = dict(
        allowed=f"script-src {scripts}; style-src {styles}",
        records=_script_json([_shorten(row, record) for row, record in zip(rows, records)]),
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
    return base_names(json.loads(json.dumps(values, default=format_value)), [asdict(row.spec.settings)])


def _script_json(value: object) -> str:
    """Return JSON that stands in a script without ending it."""
    return json.dumps(value, default=format_value).replace("<", "\\u003c")


def _score_name(name: str) -> str:
    return "CLIP score" if name == "clip" else name


def _filter_html(name: str, rows: Sequence[Row]) -> str:
    texts = dict.fromkeys(_shorten(row, {name: format_value(row.varied.get(name))})[name] for row in rows)
    options = "".join(f'<option value="{escape(text)}">{escape(text)}</option>' for text in texts)
    choice = f'<select data-name="{escape(name)}" autocomplete="off"><option value="">all</option>{options}</select>'
    return f"<label>{escape(name)} {choice}</label>"


def _row_html(row: Row) -> str:
    """Return the picture of a row, which opens its film, with what it varies, its scores and its error."""
    state, scores = row.state, {name: value for name, value in row.scores.items() if name != "loss"}
    varied = {name: format_value(value) for name, value in row.varied.items()}
    texts = _shorten(row, {"varied": varied, "label": row.label, "error": state.error})
    finite = {name: value for name, value in scores.items() if math.isfinite(value)}
    facts, label = json.dumps({"varied": texts["varied"], "scores": finite}), escape(texts["label"])
    numbers = [f"{_score_name(name)} {value:.3f}" for name, value in scores.items()] + [f"{state.seconds:.1f} s"]
    lines = f'<span>{label}</span><span class="faint">{escape(" · ".join(numbers))}</span>'
    if state.error:
        lines += f'<span class="error">{escape(texts["error"])}</span>'
    item = f'<li data-row="{escape(facts)}">'
    if not (image := row.image):
        return f'{item}<div class="row"><span class="none"></span>{lines}</div></li>\n'
    thumbnail = enlarge(image)
    thumbnail.thumbnail((SIDE, SIDE))
    picture = f'<img src="{film_page.data_url(thumbnail)}" alt="{label}">'
    film = f'<script type="application/json">{_script_json(_film_html(row))}</script>'
    return f'{item}<button class="row" type="button">{picture}{lines}</button>{film}</li>\n'


def _film_html(row: Row) -> str:
    """Return the page of a row's film, with some of its frames."""
    steps = row.journal.steps
    count = min(FRAMES, len(steps))
    steps = [steps[round(i * (len(steps) - 1) / max(1, count - 1))] for i in range(count)]
    scores = {int(line["step"]): line for line in row.journal.scores}
    rows = [scores.get(step, {}) for step in steps]
    with tempfile.TemporaryDirectory() as folder:
        frames, file = map(row.journal.frame, steps), Path(folder, "film.html")
        return export(frames, file, base_names(row.journal.history), scores=rows).read_text("utf-8")
