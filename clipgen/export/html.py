"""A page to send to somebody who has no Python: the film with a timeline, the curve of its score, its settings.

One file that asks the network for nothing, with a Content-Security-Policy that lets it run ``page.js`` and nothing
else, whatever a prompt says. Without JavaScript it shows the last frame, the curve and the settings.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image

from clipgen.export.parting import parted
from clipgen.export.protocol import NOTES, Film, Writer

PAGE, CSS, JS = (Path(__file__).with_name(f"page.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
WIDTH, HEIGHT, EDGE = 600, 130, 10  # of the curve, in its own units


class Html(Writer):
    mime = "text/html"
    streams = True
    longest = 16_383  # its pictures are WebP

    def write(self, film: Film, file: Path, notes: str) -> None:
        pictures, rows, play = {}, {}, []  # each frame once, by its number
        for shot, milliseconds in film.ticks(1000):
            play.append((shot.number, milliseconds))
            if shot.number not in pictures:
                pictures[shot.number], rows[shot.number] = data_url(film.sized(shot.picture)), shot.scores
        places = {number: place for place, number in enumerate(pictures)}
        labels = {number: _label(number, row) for number, row in rows.items()}
        (spots, curve), last = _curve(rows, labels), max(rows)
        settings = json.loads(notes) if notes else {}
        page = Template(PAGE).substitute(
            allowed=f"script-src '{hashed(JS)}'; style-src '{hashed(CSS)}'",
            notes=notes.replace("<", "\\u003c"),  # no end tag, no comment
            title=escape(str(settings.get("prompt") or "A film by clipgen")),
            css=CSS,
            order=json.dumps([(places[number], milliseconds) for number, milliseconds in play]),
            loop=json.dumps(film.loop),
            images="\n".join(
                f'<img src="{picture}" alt="{labels[number]}" width="{film.size[0]}" height="{film.size[1]}"'
                f' decoding="sync"{spots.get(number, "")}{" hidden" * (number != last)}>'
                for number, picture in pictures.items()
            ),
            count=len(pictures),
            label=labels[last],
            curve=curve,
            table=_table(settings) if settings else "",
            js=JS,
        )
        file.write_text(page, "utf-8", "replace", "\n")

    def notes(self, file: Path) -> str | None:
        """The settings stand before the pictures, so that no more of the file is read."""
        with file.open(encoding="utf-8-sig", errors="replace") as page:
            head = page.read(NOTES + 1000)
        if not head.lstrip().lower().startswith("<!doctype html"):
            raise ValueError("it does not begin as an HTML page")
        reader = _Notes()
        reader.feed(head)
        return reader.found


class _Notes(HTMLParser):
    """Finds the text of ``<script id="clipgen">``."""

    found, _inside = "", False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag == "script" and ("id", "clipgen") in attrs and not self.found

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        self.found += data * self._inside


def hashed(source: str) -> str:
    """How a Content-Security-Policy names a script or a style."""
    return f"sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}"


def data_url(picture: Image.Image) -> str:
    """A picture as an address that holds it."""
    out = io.BytesIO()
    picture.save(out, "WEBP", quality=85, method=4)
    return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}"


def _label(number: int, row: Mapping[str, float]) -> str:
    """What is said of a frame, as HTML: ``step 60 · CLIP score 0.650 · loss 0.147``."""
    said = [f"step {row['step']:.0f}" if "step" in row else f"frame {number + 1}"]
    names = {name: "CLIP score" if name == "clip" else escape(name) for name in row if name != "step"}
    return " · ".join(said + [f"{shown} {row[name]:.3f}" for name, shown in names.items()])


def _curve(rows: Mapping[int, Mapping[str, float]], labels: Mapping[int, str]) -> tuple[dict[int, str], str]:
    """Where each frame is on the curve of CLIP scores over steps, as attributes; and the figure, its last one marked.

    There is none of fewer than two scores. A judge's curve is dashed, and has a scale of its own; where CLIP's score
    rises and the judge's falls it is shaded.
    """
    known = {
        n: (row.get("step", n), row["clip"]) for n, row in rows.items() if math.isfinite(row.get("clip", math.nan))
    }
    if len(known) < 2:
        return {}, ""
    (first, last), (low, high) = ((min(values), max(values)) for values in zip(*known.values()))
    wide, tall = (WIDTH - 2 * EDGE) / (last - first or 1), (HEIGHT - 2 * EDGE) / (high - low or 1)
    spots = [(EDGE + wide * (step - first), HEIGHT - EDGE - tall * (score - low)) for step, score in known.values()]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    judge, said = _judge([rows[n] for n in known], [x for x, _ in spots])
    begin, *_, end = (labels[number].partition(" · ")[0] for number in known)
    right, top = spots[-1]
    told = f"CLIP score {low:.3f} to {high:.3f}"
    figure = f"""<figure>
<svg id="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{told}, from {begin} to {end}">
{judge}<polygon points="{EDGE},{HEIGHT} {line} {WIDTH - EDGE},{HEIGHT}"/>
<polyline points="{line}"/>
<g id="mark" transform="translate({right:.1f} 0)"><line y2="{HEIGHT}"/><circle cy="{top:.1f}" r="8"/></g>
</svg>
<figcaption><span>{begin}</span> <span>{told}</span> <span>{end}</span>{said}</figcaption>
</figure>"""
    return {number: f' data-x="{x:.1f}" data-y="{y:.1f}"' for number, (x, y) in zip(known, spots)}, figure


def _judge(rows: Sequence[Mapping[str, float]], places: Sequence[float]) -> tuple[str, str]:
    """The judge's curve over these places, with the stretches in which it parts from CLIP's; and what is said of it."""
    scores = [row.get("judge", math.nan) for row in rows]
    if not all(map(math.isfinite, scores)):
        return "", ""
    low, high = min(scores), max(scores)
    tall = (HEIGHT - 2 * EDGE) / (high - low or 1)
    line = " ".join(f"{x:.1f},{HEIGHT - EDGE - tall * (score - low):.1f}" for x, score in zip(places, scores))
    apart = [(places[a], places[b] - places[a]) for a, b in parted(rows)]
    shades = "".join(f'<rect x="{x:.1f}" width="{wide:.1f}" height="{HEIGHT}"/>\n' for x, wide in apart)
    told = f"dashed: the judge, {low:.3f} to {high:.3f}"
    told += "; shaded: CLIP likes it more and more, the judge less and less" if apart else ""
    return f'{shades}<polyline class="judge" points="{line}"/>\n', f" <span>{told}</span>"


def _table(settings: Mapping[str, Any]) -> str:
    rows = [f'<tr><th scope="row">{escape(name)}</th><td>{_told(settings[name])}</td></tr>' for name in settings]
    return "\n".join(["<section>", "<h2>Settings</h2>", "<table>", *rows, "</table>", "</section>"])


def _told(value: Any) -> str:
    """A setting as people read it, as HTML."""
    if isinstance(value, dict):
        return ", ".join(f"{escape(name)} {_told(one)}" for name, one in value.items())
    if isinstance(value, list):
        return ("<br>" if any(isinstance(one, dict) for one in value) else ", ").join(map(_told, value))
    return "–" if value in ("", None) else escape(str(value))
