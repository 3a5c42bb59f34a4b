"""What a study varies: the arguments of its runs, from lists, placeholders and tables."""

import io
import itertools
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, fields
from typing import Any

from clipgen.errors import ClipgenError
from clipgen.images.reading import Pictorial
from clipgen.runs.inputs import Inputs
from clipgen.runs.settings import Settings
from clipgen.studies.tables import MAX_ROWS, Table, format_value, is_text, parse_value, read_table, unwrap_cell

_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@dataclass(frozen=True)
class GridPoint:
    """The arguments of one run of a study, and those of them that vary."""

    prompt: Any
    settings: dict[str, Any]
    varied: dict[str, Any]

    @property
    def label(self) -> str:
        """``thing=moon, seed=1``; the prompt, if nothing varies."""
        parts = [f"{name}={format_value(value)}" for name, value in self.varied.items()]
        return ", ".join(parts) or format_value(self.prompt)


def expand_grid(
    template: Any, settings: Mapping[str, Any], table: Table = None, zipped: bool = False, max_rows: int = MAX_ROWS
) -> list[GridPoint]:
    """Return the runs of a study, in the order of its axes, the last one fastest.

    An axis is a setting, a placeholder or the template with several values, or the rows of the table.

    Args:
        template: The prompt, with placeholders in braces; None if the table has a column "prompt".
        settings: Values of settings and placeholders.
        table: Rows that set several names at once.
        zipped: Take the axes side by side instead of each value with each.
        max_rows: Largest number of runs.

    Raises:
        ClipgenError: For axes that do not fit, too many runs, and placeholders without a value.
    """
    max_rows = min(max_rows, sys.maxsize - 1)
    constants, axes = _split_axes(({} if template is None else {"prompt": template}) | {**settings}, max_rows)
    if table is not None:
        rows = read_table(table, max_rows)
        if duplicates := sorted(settings.keys() & {name for row in rows for name in row}):
            raise ClipgenError(f"{duplicates[0]}=...: is also in the table; leave one of them out")
        axes.insert(0, rows)
    counts = sorted({len(axis) for axis in axes})
    if 0 in counts:
        raise ClipgenError("study: one of the lists is empty; give it a value, or leave it out")
    if (max(counts, default=1) if zipped else math.prod(map(len, axes))) > max_rows:
        raise ClipgenError(f"study: this would be more than {max_rows:,} rows; vary less, or raise max_rows={max_rows}")
    if zipped and len(counts) > 1:
        raise ClipgenError(f"zip=True: the lists must have the same length, not {', '.join(map(str, counts))}")
    points = []
    for parts in zip(*axes) if zipped and axes else itertools.product(*axes):
        values = {name: value for part in parts for name, value in part.items()}
        points.append(constants | {name: parse_value(name, value) for name, value in values.items()})
    labels = _label_values(points)
    names = dict.fromkeys(name for axis in axes for row in axis for name in row)
    varied = [name for name in names if len({format_value(label.get(name)) for label in labels}) > 1]
    placeholders = {name for point in points for name in _find_placeholders(point)}
    return [
        _fill(point, {name: label[name] for name in varied if name in label}, placeholders)
        for point, label in zip(points, labels, strict=True)
    ]


def _split_axes(arguments: Mapping[str, Any], max_rows: int) -> tuple[dict[str, Any], list[list[dict[str, Any]]]]:
    """Return the arguments with one value, and an axis for each one with several."""
    constants: dict[str, Any] = {}
    axes = []
    for name, value in arguments.items():
        values = _axis_values(name, value, max_rows)
        is_pair = name == "size" and len(values or ()) == 2 and not isinstance(value, (set, frozenset))
        if values is None:
            constants[name] = parse_value(name, value)
        elif is_pair and all(isinstance(side, (int, float)) for side in values):  # one size
            constants[name] = parse_value(name, values)
        else:
            axes.append([{name: one} for one in values])
    return constants, axes


def _axis_values(name: str, value: Any, max_rows: int) -> list[Any] | None:
    """Return the values of an axis, at most ``max_rows`` + 1; None for a single value, such as a picture or latent."""
    if isinstance(value, (str, bytes, io.BytesIO, Mapping)) or not isinstance(value, Iterable):
        return None
    if getattr(value, "ndim", 1) not in ((1, 2) if name == "size" else (1,)):
        return None
    if isinstance(value, (set, frozenset)):  # in an order that is the same in every process
        try:
            value = sorted(value)
        except TypeError:
            value = sorted(value, key=repr)
    return [unwrap_cell(one) for one in itertools.islice(value, max_rows + 1)]


def _label_values(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the points with labels for values other than texts, numbered by content: ``image 1``, ``image 2``."""
    contents: dict[int, str] = {}  # by id, so that each picture is read once
    numbered: dict[tuple[str, str], dict[str, str]] = {}
    labels = []
    for point in points:
        label = dict(point)
        for name, value in point.items():
            if value is None or is_text(value):
                continue
            if id(value) not in contents:
                contents[id(value)] = repr(Inputs().name_values({name: value})[name])
            kind = "image" if isinstance(value, Pictorial) else type(value).__name__
            numbers = numbered.setdefault((name, kind), {})
            label[name] = numbers.setdefault(contents[id(value)], f"{kind} {len(numbers) + 1}")
        labels.append(label)
    return labels


def _find_placeholders(point: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names in the braces of a template. Raises ClipgenError for one without a value, and for no template."""
    if "prompt" not in point:
        near = [name for name in point if name.strip().lower() in ("prompt", "prompts")]
        hint = f'; the column {near[0]!r} must be called "prompt"' if near else ""
        raise ClipgenError(f'study: there is no prompt; write a template, "a {{thing}}", or a column "prompt"{hint}')
    prompt = point["prompt"]
    for brace in _BRACES.finditer(prompt) if isinstance(prompt, str) else ():
        name = brace[1] or ""
        if brace[0] in ("{{", "}}"):
            continue
        if not name.isidentifier():
            raise ClipgenError(
                f"prompt={prompt!r}: placeholders are plain names, such as {{thing}}; what belongs to it follows "
                "it, such as the weight in {thing}:2; a brace is written {{ or }}"
            )
        value = None if name == "prompt" else point.get(name)
        if value is None:
            raise ClipgenError(f"prompt={prompt!r}: nothing fills {{{name}}}; add {name}=[...]")
        if not is_text(value):
            kind = format_value(value)
            raise ClipgenError(f"prompt={prompt!r}: {{{name}}} is filled with words or numbers, not a {kind}")
        yield name


def _fill(point: Mapping[str, Any], varied: dict[str, Any], placeholders: Set[str]) -> GridPoint:
    """Return a point with the placeholders filled in. Settings stay settings: ``seed {seed}`` also sets the seed."""
    prompt = point["prompt"]
    if isinstance(prompt, str):
        texts = {"{{": "{", "}}": "}"} | {f"{{{name}}}": format_value(value) for name, value in point.items()}
        prompt = _BRACES.sub(lambda brace: texts[brace[0]], prompt)
    texts_only = {"prompt"} | placeholders - {field.name for field in fields(Settings)}
    settings = {name: value for name, value in point.items() if name not in texts_only}
    return GridPoint(prompt, settings, varied)
