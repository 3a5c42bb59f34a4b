"""A drawing as vectors, sharp at any size; and the film of its making, which browsers play (SMIL).

Strokes are paths, ellipses images of a unit circle, polygons polygons. In a film each mark keeps its element, and
moves in straight lines from frame to frame. Where films are not played, the last frame is shown.
"""

import html
import re
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from pathlib import Path

from clipgen.export.protocol import MAX_SETTINGS, Drawing, Film, Mark, Point, Writer

_HANDLE = 0.5522847  # of a half axis: handles of four Bezier curves that are a circle but for 0.03%
_METADATA = re.compile(r'<metadata id="clipgen">([^<]*)</metadata>')


class Svg(Writer):
    is_animated = False
    takes_drawings = True

    def write(self, film: Film, file: Path, settings: str) -> None:
        frames = list(film.frames)
        drawings: list[Drawing] = [frame.picture for frame in frames]
        total = sum(frame.seconds for frame in frames)
        times = [sum(frame.seconds for frame in frames[:i]) / total for i in range(len(frames))]
        timing = f'dur="{total:.3f}s" ' + ('repeatCount="indefinite"' if film.loop else 'fill="freeze"')
        width, height = drawings[-1].size
        lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">']
        if settings:
            lines.append(f'<metadata id="clipgen">{html.escape(settings, quote=False)}</metadata>')
        lines.append(f'<path d="M0 0H{width}V{height}H0z" fill="#fff"/>')
        marks_over_time = zip(*(drawing.marks for drawing in drawings), strict=True)
        for style, group in groupby(marks_over_time, key=lambda marks: _common_style(marks[-1])):
            lines += [f"<g {style}>", *(_element(marks, [*times, 1.0], timing) for marks in group), "</g>"]
        file.write_text("\n".join([*lines, "</svg>\n"]), "utf-8", "replace", "\n")

    def read_settings(self, file: Path) -> str | None:
        with file.open(encoding="utf-8-sig", errors="replace") as text:
            head = text.read(2 * MAX_SETTINGS)  # the settings stand before the marks
        if not head.lstrip().startswith(("<svg", "<?xml")):
            raise ValueError("it does not begin as an SVG")
        match = _METADATA.search(head)
        return html.unescape(match[1]) if match else None


def _common_style(mark: Mark) -> str:
    return 'fill="none" stroke-linecap="round" stroke-linejoin="round"' if mark.kind == "stroke" else 'stroke="none"'


def _element(marks: Sequence[Mark], times: Sequence[float], timing: str) -> str:
    """Return the element of a mark as it is in the last frame, with an ``animate`` for each attribute that changes."""
    tag, attributes = _describe(marks[-1], len(marks) > 1)
    text = "".join(f' {name}="{value}"' for name, value in attributes.items())
    animations = "".join(_animate(marks, times, timing)) if len(marks) > 1 else ""
    return f"<{tag}{text}>{animations}</{tag}>" if animations else f"<{tag}{text}/>"


def _animate(marks: Sequence[Mark], times: Sequence[float], timing: str) -> Iterator[str]:
    frames = [_describe(mark, True)[1] for mark in marks]
    for name, last in frames[-1].items():
        values = [*(attributes[name] for attributes in frames), last]
        if len(set(values)) == 1:
            continue
        # Where a value stays the same, its first and last moment are enough.
        inner = range(1, len(values) - 1)
        keys = [0, *(i for i in inner if not values[i - 1] == values[i] == values[i + 1]), len(values) - 1]
        key_times, key_values = ";".join(_number(times[i], 4) for i in keys), ";".join(values[i] for i in keys)
        yield f'<animate attributeName="{name}" values="{key_values}" keyTimes="{key_times}" {timing}/>'


def _describe(mark: Mark, moving: bool) -> tuple[str, dict[str, str]]:
    """Return the tag and attributes of a mark. A moving ellipse is four curves: browsers animate no matrix."""
    paint, colour = "stroke" if mark.kind == "stroke" else "fill", "#{:02x}{:02x}{:02x}".format(*mark.colour)
    style = {paint: colour, f"{paint}-opacity": _number(mark.opacity, 3)}
    if mark.kind == "stroke":
        first, *others = mark.points
        return "path", {"d": f"M{_points([first])}C{_points(others)}"} | style | {"stroke-width": _number(mark.width)}
    if mark.kind == "polygon":
        return "polygon", {"points": _points(mark.points)} | style
    (x, y), *ends = mark.points
    (a, b), (c, d) = ((px - x, py - y) for px, py in ends)
    if not moving:
        matrix = f"matrix({' '.join(_number(n, 3) for n in (a, b, c, d, x, y))})"
        return "ellipse", {"rx": "1", "ry": "1", "transform": matrix} | style
    curve = f"M{_points([(x + a, y + b)])}"
    for (px, py), (qx, qy) in pairwise([(a, b), (c, d), (-a, -b), (-c, -d), (a, b)]):
        handles = (x + px + _HANDLE * qx, y + py + _HANDLE * qy), (x + qx + _HANDLE * px, y + qy + _HANDLE * py)
        curve += f"C{_points([*handles, (x + qx, y + qy)])}"
    return "path", {"d": f"{curve}z"} | style


def _number(value: float, digits: int = 2) -> str:
    return f"{round(value, digits):g}" if abs(value) < 1e4 else f"{value:.0f}"


def _points(points: Sequence[Point]) -> str:
    return " ".join(f"{_number(x)} {_number(y)}" for x, y in points)
