"""A drawing as vectors, sharp at any size; and the film of its making, which browsers play (SMIL).

Strokes are paths, ellipses the images of a unit circle, polygons polygons. In a film each mark keeps its element, and
moves in straight lines from frame to frame. Where films are not played, the last frame is seen.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from pathlib import Path

from clipgen.export.protocol import NOTES, Film, Writer
from clipgen.images.drawing import Drawing, Mark, Point

_ROUND = 0.5522847  # of a half axis: how far the handles of four curves lie that are a circle but for 0.03%
_METADATA = re.compile(r'<metadata id="clipgen">([^<]*)</metadata>')


class Svg(Writer):
    mime = "image/svg+xml"
    film = False
    vectors = True

    def write(self, film: Film, file: Path, notes: str) -> None:
        shots = list(film.shots)
        drawings: list[Drawing] = [shot.picture for shot in shots]
        last, total = drawings[-1], sum(shot.seconds for shot in shots)
        times = [sum(shot.seconds for shot in shots[:i]) / total for i in range(len(shots))]
        timing = f'dur="{total:.3f}s" ' + ('repeatCount="indefinite"' if film.loop else 'fill="freeze"')
        width, height = last.size
        lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">']
        if notes:
            lines.append(f'<metadata id="clipgen">{html.escape(notes, quote=False)}</metadata>')
        lines.append(f'<path d="M0 0H{width}V{height}H0z" fill="#fff"/>')
        film_of_each = zip(*(drawing.marks for drawing in drawings), strict=True)
        for style, group in groupby(film_of_each, key=lambda marks: _common(marks[-1])):
            lines += [f"<g {style}>", *(_element(marks, [*times, 1.0], timing) for marks in group), "</g>"]
        file.write_text("\n".join([*lines, "</svg>\n"]), "utf-8", "replace", "\n")

    def notes(self, file: Path) -> str | None:
        """The settings stand before the marks, so that no more of the file is read."""
        with file.open(encoding="utf-8-sig", errors="replace") as text:
            head = text.read(2 * NOTES)
        if not head.lstrip().startswith(("<svg", "<?xml")):
            raise ValueError("it does not begin as an SVG")
        found = _METADATA.search(head)
        return html.unescape(found[1]) if found else None


def _common(mark: Mark) -> str:
    """What neighbours say once for all of them."""
    return 'fill="none" stroke-linecap="round" stroke-linejoin="round"' if mark.kind == "stroke" else 'stroke="none"'


def _element(marks: Sequence[Mark], times: Sequence[float], timing: str) -> str:
    """A mark as it is at last, with an ``animate`` for everything about it that changes."""
    name, looks = _look(marks[-1], len(marks) > 1)
    said = "".join(f' {key}="{value}"' for key, value in looks.items())
    told = "".join(_changes(marks, times, timing)) if len(marks) > 1 else ""
    return f"<{name}{said}>{told}</{name}>" if told else f"<{name}{said}/>"


def _changes(marks: Sequence[Mark], times: Sequence[float], timing: str) -> Iterator[str]:
    looks = [_look(mark, True)[1] for mark in marks]
    for key, last in looks[-1].items():
        values = [*(look[key] for look in looks), last]
        if len(set(values)) > 1:
            # Of a value that stays for a while, its first and last moment are enough.
            stays = [set(values[max(0, i - 1) : i + 2]) == {value} for i, value in enumerate(values)]
            kept = [i for i in range(len(values)) if i in (0, len(values) - 1) or not stays[i]]
            moments, told = ";".join(_number(times[i], 4) for i in kept), ";".join(values[i] for i in kept)
            yield f'<animate attributeName="{key}" values="{told}" keyTimes="{moments}" {timing}/>'


def _look(mark: Mark, moving: bool) -> tuple[str, dict[str, str]]:
    """An element's name and attributes. An ellipse that moves is four curves: browsers move no matrix."""
    paint, colour = "stroke" if mark.kind == "stroke" else "fill", "#{:02x}{:02x}{:02x}".format(*mark.colour)
    looks = {paint: colour, f"{paint}-opacity": _number(mark.opacity, 3)}
    if mark.kind == "stroke":
        first, *others = mark.points
        return "path", {"d": f"M{_at(first)}C{_places(others)}"} | looks | {"stroke-width": _number(mark.width)}
    if mark.kind == "polygon":
        return "polygon", {"points": _places(mark.points)} | looks
    (x, y), *ends = mark.points
    (a, b), (c, d) = ((px - x, py - y) for px, py in ends)
    if not moving:
        matrix = f"matrix({' '.join(_number(n, 3) for n in (a, b, c, d, x, y))})"
        return "ellipse", {"rx": "1", "ry": "1", "transform": matrix} | looks
    turns = [(a, b), (c, d), (-a, -b), (-c, -d), (a, b)]
    curve = f"M{_at((x + a, y + b))}"
    for (px, py), (qx, qy) in pairwise(turns):
        out, back = (x + px + _ROUND * qx, y + py + _ROUND * qy), (x + qx + _ROUND * px, y + qy + _ROUND * py)
        curve += f"C{_places([out, back, (x + qx, y + qy)])}"
    return "path", {"d": f"{curve}z"} | looks


def _number(value: float, places: int = 2) -> str:
    """As short as can be."""
    return f"{round(value, places):g}" if abs(value) < 1e4 else f"{value:.0f}"


def _at(point: Point) -> str:
    return f"{_number(point[0])} {_number(point[1])}"


def _places(points: Sequence[Point]) -> str:
    return " ".join(map(_at, points))
