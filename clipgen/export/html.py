"""A page to send to somebody who has no Python: the film with a timeline, the curve of its scores, its settings.

One file that asks the network for nothing, with a Content-Security-Policy that lets it run ``page.js`` and nothing
else, whatever a prompt contains. Without JavaScript it shows the last frame, the curve and the settings.
"""

import base64
import hashlib
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import fmean
from string import Template
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from clipgen.export.formats import MAX_SETTINGS, Film, Writer

PAGE, CSS, JS = (Path(__file__).with_name(f"page.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
_SETTINGS = re.compile(r'<script type="application/json" id="clipgen">(.*?)</script>', re.DOTALL)
WIDTH, HEIGHT, MARGIN = 600, 130, 10  # of a curve, in its own units
MAX_POINTS = 300  # of a curve
MIN_FALL = 0.05  # of the judge's whole range, in a disagreement


class Html(Writer):
    max_side = 16_383  # its pictures are WebP

    def write(self, film: Film, file: Path, settings: str) -> None:
        pictures, rows, order = {}, {}, []  # each frame once, by its number
        for frame, milliseconds in film.ticks(1000):
            order.append((frame.number, milliseconds))
            if frame.number not in pictures:
                pictures[frame.number], rows[frame.number] = picture_url(film.resize(frame.picture)), frame.scores
        indices = {number: index for index, number in enumerate(pictures)}
        saved = json.loads(settings) if settings else {}
        judge = judge_label(saved.get("judge"))
        labels = {number: _label(number, row, judge) for number, row in rows.items()}
        (points, curve), last = _curve(rows, labels, judge), max(rows)
        page = Template(PAGE).substitute(
            allowed=f"script-src '{hash_source(JS)}'; style-src '{hash_source(CSS)}'",
            notes=settings.replace("<", "\\u003c"),  # no end tag, no comment
            title=escape(str(saved.get("prompt") or "A film by clipgen")),
            css=CSS,
            order=json.dumps([(indices[number], milliseconds) for number, milliseconds in order]),
            loop=json.dumps(film.loop),
            images="\n".join(
                f'<img src="{picture}" alt="{labels[number]}" width="{film.size[0]}" height="{film.size[1]}"'
                f' decoding="sync"{points.get(number, "")}{" hidden" * (number != last)}>'
                for number, picture in pictures.items()
            ),
            count=len(pictures),
            label=labels[last],
            curve=curve,
            table=_table(saved) if saved else "",
            js=JS,
        )
        file.write_text(page, "utf-8", "replace", "\n")

    def read_settings(self, file: Path) -> str | None:
        with file.open(encoding="utf-8-sig", errors="replace") as page:
            head = page.read(MAX_SETTINGS + 1000)  # the settings stand before the pictures
        if not head.lstrip().lower().startswith("<!doctype html"):
            raise ValueError("it does not begin as an HTML page")
        match = _SETTINGS.search(head)
        return match[1] if match else None


def hash_source(source: str) -> str:
    """Return the CSP hash source of a script or a style."""
    return f"sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}"


def to_url(data: bytes, mime: str) -> str:
    """Return bytes as a data: URL; ``mime`` is a type such as image/png."""
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def picture_url(picture: Image.Image) -> str:
    """Return a picture as a data: URL."""
    out = io.BytesIO()
    picture.save(out, "WEBP", quality=85, method=4)
    return to_url(out.getvalue(), "image/webp")


def judge_label(judge: Any) -> str:
    """Return what the scores of a judge are called: "judge", or that they say which picture people prefer."""
    return "preference score" if judge in ("pickscore", "hps-v2.1") else "judge"


def _label(number: int, row: Mapping[str, float], judge: str) -> str:
    """Return the caption of a frame as HTML: ``CLIP · step 60 · CLIP score 0.650 · loss 0.147``."""
    parts = [caption_source(row) if "step" in row else f"frame {number + 1}"]
    for name, value in row.items():
        if name not in ("step", "token_row"):
            parts.append(f"{escape({'clip': 'CLIP score', 'judge': judge}.get(name, name))} {value:.3f}")
    return " · ".join(parts)


def caption_source(row: Mapping[str, float]) -> str:
    """Return the source of a picture of a film for its caption: ``draft · row 7``, or ``CLIP · step 60``."""
    return f"draft · row {row['token_row']:.0f}" if row.get("token_row") else f"CLIP · step {row['step']:.0f}"


def _scale(values: Sequence[float], size: int) -> list[float]:
    """Return values as lengths from ``MARGIN`` to ``size - MARGIN``."""
    low, high = min(values), max(values)
    factor = (size - 2 * MARGIN) / (high - low or 1)
    return [MARGIN + factor * (value - low) for value in values]


class Curves(NamedTuple):
    """The scores of a film as lines of an SVG, each with a scale of its own."""

    points: dict[str, list[tuple[float, float]]]  # of the frames, by "clip" and "judge"
    shapes: str
    captions: list[str]  # of the lines, with their ranges


def draw_curves(rows: Sequence[Mapping[str, float]], judge: str) -> Curves:
    """Return the curve of CLIP, and the judge's if there is one, shaded where they disagree.

    Args:
        rows: The scores of at least one frame, as in ``Journal.scores``, finite for CLIP.
        judge: See ``judge_label``.
    """
    xs, points, captions = _scale([row["step"] for row in rows], WIDTH), {}, []
    disagreements = [(xs[first], xs[last]) for first, last in find_disagreements(rows)]
    shapes = "".join(f'<rect x="{x:.1f}" width="{end - x:.1f}" height="{HEIGHT}"/>\n' for x, end in disagreements)
    for name, label in (("clip", "CLIP score"), ("judge", f"dashed: the {judge},")):
        scores = [row.get(name, math.nan) for row in rows]
        if all(map(math.isfinite, scores)):
            points[name] = list(zip(xs, [HEIGHT - y for y in _scale(scores, HEIGHT)]))
            shapes += f'<polyline class="{name}" points="{_points(points[name])}"/>\n'
            captions.append(f"{label} {min(scores):.3f} to {max(scores):.3f}")
    if disagreements:
        captions[-1] += "; shaded: CLIP's score rises while the dashed line falls"
    return Curves(points, shapes, captions)


def _points(points: Sequence[tuple[float, float]]) -> str:
    """Return points as an SVG has them, at most about ``MAX_POINTS`` of them."""
    visible = [*points[: -1 : len(points) // MAX_POINTS + 1], points[-1]]
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in visible)


def _curve(
    rows: Mapping[int, Mapping[str, float]], labels: Mapping[int, str], judge: str
) -> tuple[dict[int, str], str]:
    """Return each frame's point on the curve of CLIP scores, as attributes, and the figure; empty below two scores."""
    scored = {n: {"step": n, **row} for n, row in rows.items() if math.isfinite(row.get("clip", math.nan))}
    if len(scored) < 2:
        return {}, ""
    curves, steps = draw_curves([*scored.values()], judge), [row["step"] for row in scored.values()]
    points = dict(zip(scored, curves.points["clip"]))
    xs, ys = zip(*points.values())
    for number, row in rows.items():
        if "token_row" in row and row["step"]:
            points[number] = float(np.interp(row["step"], steps, xs)), float(np.interp(row["step"], steps, ys))
    first, *_, last = (labels[number].removeprefix("CLIP · ").partition(" · ")[0] for number in scored)
    caption, *judge_captions = curves.captions
    mark = f'<line y2="{HEIGHT}"/><circle cy="{ys[-1]:.1f}" r="8"/>'
    figure = f"""<figure>
<svg id="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{caption}, from {first} to {last}">
<polygon points="{MARGIN},{HEIGHT} {_points(curves.points["clip"])} {WIDTH - MARGIN},{HEIGHT}"/>
{curves.shapes}<g id="mark" transform="translate({xs[-1]:.1f} 0)">{mark}</g>
</svg>
<figcaption>{" ".join(f"<span>{text}</span>" for text in (first, caption, last, *judge_captions))}</figcaption>
</figure>"""
    return {number: f' data-x="{x:.1f}" data-y="{y:.1f}"' for number, (x, y) in points.items()}, figure


def _table(settings: Mapping[str, Any]) -> str:
    rows = [
        f'<tr><th scope="row">{escape(name)}</th><td>{_format_setting(settings[name])}</td></tr>' for name in settings
    ]
    return "\n".join(["<section>", "<h2>Settings</h2>", "<table>", *rows, "</table>", "</section>"])


def _format_setting(value: Any) -> str:
    """Return a setting as HTML."""
    if isinstance(value, dict):
        return ", ".join(f"{escape(name)} {_format_setting(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ("<br>" if any(isinstance(item, dict) for item in value) else ", ").join(map(_format_setting, value))
    return "–" if value in ("", None) else escape(str(value))


def find_disagreements(rows: Sequence[Mapping[str, float]]) -> list[tuple[int, int]]:
    """Return the first and last frames, as indices, of each stretch in which "clip" rises and "judge" falls.

    Scores are noisy, CLIP's because its cutouts are random. So means over an eighth of the film are compared, and a
    stretch has at least two frames.

    Args:
        rows: The scores of each frame, as in ``Journal.scores``.

    Returns:
        No stretches without a judge, or for fewer than eight frames.
    """
    clip, judge = ([row.get(name, math.nan) for row in rows] for name in ("clip", "judge"))
    if len(rows) < 8 or not all(map(math.isfinite, clip + judge)):
        return []
    count, min_fall = max(2, len(rows) // 8), MIN_FALL * (max(judge) - min(judge))

    def rise(values: Sequence[float], at: int) -> float:
        return fmean(values[at : at + count]) - fmean(values[max(0, at - count) : at])

    frames = [i for i in range(2, len(rows) - 1) if rise(clip, i) > 0 and rise(judge, i) < -min_fall]
    first = [i for i in frames if i - 1 not in frames]
    last = [i for i in frames if i + 1 not in frames]
    return [(a, b) for a, b in zip(first, last) if a < b]
