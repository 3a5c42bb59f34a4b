"""What a study asks for: each with each of some lists, lists side by side, or a table, as arguments of single runs."""

from __future__ import annotations

import itertools
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from clipgen.errors import ClipgenError
from clipgen.studies.tables import MAX_ROWS, Table, format_value, is_text, parse_value, read_table, unwrap_cell

_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@dataclass(frozen=True)
class GridPoint:
    """One run of a study: the arguments of ``clipgen.Run``, and what makes it another one than its neighbours."""

    prompt: Any
    settings: dict[str, Any]
    varied: dict[str, Any]

    @property
    def label(self) -> str:
        """``thing=moon, seed=1``; the prompt, if nothing varies."""
        return ", ".join(f"{name}={format_value(value)}" for name, value in self.varied.items()) or format_value(
            self.prompt
        )


def expand_grid(
    template: Any,
    settings: Mapping[str, Any],
    table: Table | None = None,
    together: bool = False,
    max_rows: int = MAX_ROWS,
) -> list[GridPoint]:
    """Every run of a study, in the order of its axes, the last one fastest; none twice.

    An axis is everything with several values among the settings, the placeholders and the template (a list, a range, a
    set, an array, a Series, a generator), and the rows of a ``table``, which set several names at once; ``together``:
    the axes go side by side, as with ``zip``. Raises ClipgenError for axes that do not fit together, for more than
    ``max_rows`` runs and for placeholders that nothing fills.
    """
    max_rows = min(max_rows, sys.maxsize - 1)
    constant: dict[str, Any] = {}
    axes: list[list[dict[str, Any]]] = []
    for name, value in (({} if template is None else {"prompt": template}) | {**settings}).items():
        several = _values(name, value, max_rows)
        if several is None or _is_one_size(name, value, several):
            constant[name] = parse_value(name, value if several is None else several)
        else:
            axes.append([{name: one} for one in several])
    if table is not None:
        rows = read_table(table, max_rows)
        if twice := sorted(settings.keys() & {name for row in rows for name in row}):
            raise ClipgenError(f"{twice[0]}=...: is in the table, too; leave one of them out")
        axes.insert(0, rows)
    for axis in axes:
        if not axis:
            raise ClipgenError("study: one of the lists is empty; give it a value, or leave it out")
    counts = {len(axis) for axis in axes}
    if (max(counts, default=1) if together else math.prod(map(len, axes))) > max_rows:
        raise ClipgenError(f"study: this would be more than {max_rows:,} rows; vary less, or raise max_rows={max_rows}")
    if together and len(counts) > 1:
        raise ClipgenError(
            f"zip=True: the lists have to be of one length; here are {', '.join(map(str, sorted(counts)))}"
        )
    picks = zip(*axes) if together and axes else itertools.product(*axes)
    points = [constant | {name: parse_value(name, v) for part in pick for name, v in part.items()} for pick in picks]
    names = [name for axis in axes for name in axis[0]] + [name for axis in axes for row in axis for name in row]
    varied = [
        n for n in dict.fromkeys(names) if any(format_value(p.get(n)) != format_value(points[0].get(n)) for p in points)
    ]
    holders = {name for point in points for name in _placeholders(point)}
    asked = (_asked(point, [name for name in varied if name in point], holders) for point in points)
    return list({_key(one): one for one in asked}.values())


def _values(name: str, value: Any, most: int) -> list[Any] | None:
    """Return the values of an axis, ``most`` + 1 of them at most; None for what is one value.

    A mapping is one, and an array of two or more dimensions, which is a picture or a latent, but for sizes.
    """
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        return None
    if getattr(value, "ndim", 1) not in ((1, 2) if name == "size" else (1,)):
        return None
    if isinstance(value, (set, frozenset)):  # in an order that is the same in every process
        try:
            value = sorted(value)
        except TypeError:
            value = sorted(value, key=repr)
    return [unwrap_cell(one) for one in itertools.islice(value, most + 1)]


def _is_one_size(name: str, value: Any, several: Sequence[Any]) -> bool:
    pair = name == "size" and len(several) == 2 and not isinstance(value, (set, frozenset))
    return pair and all(isinstance(side, (int, float)) for side in several)


def _key(one: GridPoint) -> str:
    """What tells runs apart: words and numbers by what they say, all else by which it is."""
    settings = {"prompt": one.prompt} | one.settings
    return repr([(name, v if is_text(v) or v is None else id(v)) for name, v in sorted(settings.items())])


def _placeholders(point: Mapping[str, Any]) -> set[str]:
    """The names that a template has in braces. Raises ClipgenError for what is no plain name, and for no template."""
    if "prompt" not in point:
        raise ClipgenError('study: there is no prompt; write a template such as "a {thing}", or a column "prompt"')
    prompt = point["prompt"]
    names = set()
    for brace in _BRACES.finditer(prompt) if isinstance(prompt, str) else ():
        name = brace[1] or ""
        if not name.isidentifier() and brace[0] not in ("{{", "}}"):
            raise ClipgenError(
                f"prompt={prompt!r}: placeholders are plain names, such as {{thing}}; what belongs to it stands behind "
                "it, as the weight in {thing}:2; a brace is written {{ or }}"
            )
        names |= {name} - {""}
    for name in sorted(names):
        value = None if name == "prompt" else point.get(name)
        if value is None:
            raise ClipgenError(f"prompt={prompt!r}: nothing fills {{{name}}}; add {name}=[...]")
        if not is_text(value):
            raise ClipgenError(
                f"prompt={prompt!r}: {{{name}}} is filled with words or numbers, not a {format_value(value)}"
            )
    return names


def _asked(point: Mapping[str, Any], varied: Sequence[str], holders: Set[str]) -> GridPoint:
    """The placeholders filled in; what is left are settings."""
    prompt = point["prompt"]
    if isinstance(prompt, str):
        words = {"{{": "{", "}}": "}"} | {f"{{{name}}}": format_value(value) for name, value in point.items()}
        prompt = _BRACES.sub(lambda brace: words[brace[0]], prompt)
    settings = {name: value for name, value in point.items() if name not in holders and name != "prompt"}
    return GridPoint(prompt, settings, {name: point[name] for name in varied})
