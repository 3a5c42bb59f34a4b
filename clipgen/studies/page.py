"""A study as one page: its rows as a grid to filter, each opening its film, its settings and its curve.

One file that asks the network for nothing, under a Content-Security-Policy as a film's page is; a film's page, as
``clipgen.export.html`` writes it, is what a row opens. Without JavaScript the pictures and scores are there.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
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
FRAMES, SIDE = 30, 384  # of a film, at most, evenly over it, and pixels of a thumbnail: a page holds many


def check_file(file: str | Path) -> Path:
    """A file that a study can be written to; raises ClipgenError for another."""
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
    """Write the page of some rows. Raises OSError for a place that cannot be written."""
    sizes = [picture.size for row in rows[:1] if (picture := row.image)]
    css = CSS.replace("$aspect", " / ".join(map(str, sizes[0])) if sizes else "1")
    scripts = " ".join(f"'{film_page.hashed(source)}'" for source in (JS, film_page.JS))
    styles = " ".join(f"'{film_page.hashed(source)}'" for source in (css, film_page.CSS))
    names = dict.fromkeys(name for row in rows for name in row.scores if name != "loss")
    records = [_told(row, {name: value for name, value in row.record.items() if name != "folder"}) for row in rows]
    filled = dict(
        allowed=f"script-src {scripts}; style-src {styles}",
        records=_inert(records),
        title=escape(title),
        css=css,
        filters="\n".join(
            _filter(name, [_told(row, {name: format_value(row.varied.get(name))})[name] for row in rows])
            for name in varied
        ),
        orders="".join(f'<option value="{escape(name)}">{escape(_score(name))}, best first</option>' for name in names),
        count=f"{len(rows)}",
        js=JS,
    )
    # Each part is filled once: what a prompt has of a template is its own.
    before, after = (Template(part).substitute(filled) for part in PAGE.split("$rows"))
    with file.open("w", encoding="utf-8", errors="replace", newline="\n") as out:
        out.write(before)
        out.writelines(map(_item, rows))
        out.write(after)


def _told(row: Row, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What is format_value of a row, with files by their base names."""
    return base_names(json.loads(json.dumps(facts, default=format_value)), [asdict(row.spec.settings)])


def _inert(value: object) -> str:
    """JSON that stands in a script without ending it."""
    return json.dumps(value, default=format_value).replace("<", "\\u003c")


def _score(name: str) -> str:
    return "CLIP score" if name == "clip" else name


def _filter(name: str, values: Sequence[str]) -> str:
    options = "".join(f'<option value="{escape(value)}">{escape(value)}</option>' for value in dict.fromkeys(values))
    choice = f'<select data-name="{escape(name)}" autocomplete="off"><option value="">all</option>{options}</select>'
    return f"<label>{escape(name)} {choice}</label>"


def _item(row: Row) -> str:
    """One row: its picture, which opens its film; what it varies, its scores, or what went wrong."""
    state, scores = row.state, {name: value for name, value in row.scores.items() if name != "loss"}
    finite = {name: value for name, value in scores.items() if math.isfinite(value)}
    varied = {name: format_value(value) for name, value in row.varied.items()}
    shown = _told(row, {"varied": varied, "label": row.label, "error": state.error})
    facts, label, error = {"varied": shown["varied"], "scores": finite}, escape(shown["label"]), escape(shown["error"])
    said = " · ".join([f"{_score(name)} {value:.3f}" for name, value in scores.items()] + [f"{state.seconds:.1f} s"])
    lines = f'<span>{label}</span><span class="faint">{escape(said)}</span>'
    if error:
        lines += f'<span class="error">{error}</span>'
    item = f'<li data-row="{escape(json.dumps(facts))}">'
    if not (image := row.image):
        return f'{item}<div class="row"><span class="none"></span>{lines}</div></li>\n'
    thumbnail = enlarge(image)
    thumbnail.thumbnail((SIDE, SIDE))
    picture = f'<img src="{film_page.data_url(thumbnail)}" alt="{label}">'
    film = f'<script type="application/json">{_inert(_film(row))}</script>'
    return f'{item}<button class="row" type="button">{picture}{lines}</button>{film}</li>\n'


def _film(row: Row) -> str:
    """The page of a row's film, with FRAMES of its frames at most."""
    scores = {int(line["step"]): line for line in row.journal.scores}
    steps = list(_thinned(row.journal.steps))
    with tempfile.TemporaryDirectory() as scratch:
        frames = map(row.journal.frame, steps)
        page = export(
            frames,
            Path(scratch) / "film.html",
            base_names(row.journal.history),
            scores=[scores.get(step, {}) for step in steps],
        )
        return page.read_text("utf-8")


def _thinned(steps: Sequence[int]) -> Iterator[int]:
    count = min(FRAMES, len(steps))
    return (steps[round(i * (len(steps) - 1) / max(1, count - 1))] for i in range(count))
