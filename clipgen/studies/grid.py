"""What a study varies: the arguments of its runs, from lists, placeholders and tables (CSV, YAML, data frames)."""

import csv
import io
import itertools
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields
from datetime import date, time
from decimal import Decimal
from numbers import Real
from pathlib import Path, PurePath
from typing import Any, ClassVar

import numpy as np

from clipgen.errors import ClipgenError
from clipgen.images.reading import Pictorial
from clipgen.runs.settings import Settings
from clipgen.setting import to_python

Table = str | Path | Iterable[Mapping[str, Any]] | Any  # the last: a pandas DataFrame
BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_TYPES = {field.name: type(field.default) for field in fields(Settings) if field.default is not MISSING}
MAX_ROWS = 10_000  # of a study, by default
_MAX_BITS = 1000  # of a whole number: larger ones overflow a float
# What a spreadsheet would compute as a formula (also with full-width signs) or trim; a quote before it makes it text.
_UNSAFE = re.compile(r"'*[=+\-@＝＋－＠\s]|.*\s\Z", re.DOTALL)
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F]+)\Z")
_FLOAT = re.compile(r"[-+]?((\d+\.\d*|\.\d+)(e[-+]?\d+)?|\d+e[-+]?\d+|\.inf)\Z|\.nan\Z", re.IGNORECASE | re.ASCII)
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
    axis_rows = [axis[0] for axis in axes] + [row for axis in axes for row in axis]
    names = dict.fromkeys(name for row in axis_rows for name in row)
    labels = _label_values(points)
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
        if values is None or (is_pair and all(isinstance(side, (int, float)) for side in values)):
            constants[name] = parse_value(name, value if values is None else values)
        else:
            axes.append([{name: one} for one in values])
    return constants, axes


def _axis_values(name: str, value: Any, max_rows: int) -> list[Any] | None:
    """Return the values of an axis, at most one too many; None for a single value, such as a picture or a latent."""
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
    """Return the points with labels for values other than texts, in their order: ``image 1``, ``image 2``."""
    numbered: dict[tuple[str, str], dict[int, str]] = {}
    labels = []
    for point in points:
        label = dict(point)
        for name, value in point.items():
            if value is not None and not is_text(value):
                kind = "image" if isinstance(value, Pictorial) else type(value).__name__
                numbers = numbered.setdefault((name, kind), {})
                label[name] = numbers.setdefault(id(value), f"{kind} {len(numbers) + 1}")
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


# --- values in tables and files --------------------------------------------------------------------------


def is_text(value: Any) -> bool:
    """Return whether a value can stand in a prompt: a word, a number, a date, a path, or a size."""
    if isinstance(value, tuple):
        return all(isinstance(side, int) for side in value)
    return isinstance(value, (str, Real, Decimal, date, time, PurePath))


def format_value(value: Any) -> str:
    """Return the text of a value in labels and prompts."""
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return str(value) if value is None or is_text(value) else type(value).__name__


def unwrap_cell(value: Any) -> Any:
    """Return the Python value of a cell of a table or an axis; None for an empty one."""
    if isinstance(value, np.datetime64):  # which Python would have as a count of nanoseconds
        return None if np.isnat(value) else str(value)
    value = to_python(value)
    missing = isinstance(value, (float, Decimal, date)) and value != value
    return None if missing or type(value).__name__ == "NAType" else value


def parse_value(name: str, value: Any) -> Any:
    """Convert a value from a file, table or array to the type of a setting. A size is written ``128x96``.

    Raises ClipgenError for a whole number that is too large.
    """
    value, kind = unwrap_cell(value), _TYPES.get(name)
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise ClipgenError(f"{name}=...: a whole number of more than {_MAX_BITS} bits; write a smaller one")
    if kind is bool and isinstance(value, str):
        return BOOLEANS.get(value.lower(), value)
    if kind is int and isinstance(value, float):
        return to_python(value, whole=True)
    if name == "size" and not isinstance(value, Mapping) and isinstance(value, Iterable):
        sides = value.lower().split("x") if isinstance(value, str) else [unwrap_cell(side) for side in value]
        sides = sides * 2 if len(sides) == 1 else sides
        with suppress(ValueError, TypeError, OverflowError):  # the settings' own check names what is wrong
            size = tuple(int(side) for side in sides)
            return size if size == tuple(float(side) for side in sides) else value
    return value


def read_table(table: Table, max_rows: int = MAX_ROWS) -> list[dict[str, Any]]:
    """Return the rows of a table, at most one too many, without empty cells.

    Raises ClipgenError for what is not a table or cannot be read.
    """
    if isinstance(table, (str, Path)):
        lines: Any = _read_csv(Path(table)) if Path(table).suffix.lower() == ".csv" else load_yaml(table)
    elif hasattr(table, "to_dict") and getattr(table, "ndim", 0) == 2:
        lines = table.to_dict("records")
    else:
        lines = table
    lines = list(itertools.islice(lines, max_rows + 1)) if isinstance(lines, Iterable) else []
    if not (lines and all(isinstance(line, Mapping) for line in lines)):
        raise ClipgenError("table=...: must be rows with names: a .csv, a .yaml list, dictionaries or a DataFrame")
    rows = [{str(name): unwrap_cell(value) for name, value in line.items()} for line in lines]
    for name in dict.fromkeys(name for row in rows for name, value in row.items() if value is None):
        # pandas has no empty cell in a column of whole numbers, and makes floats of them.
        filled = [row for row in rows if row.get(name) is not None]
        are_whole = all(isinstance(row[name], float) and row[name].is_integer() for row in filled)
        for row in filled if are_whole and _TYPES.get(name) is not float else ():
            row[name] = int(row[name])
    for row in rows:
        for name in [name for name, value in row.items() if value is None or (isinstance(value, str) and not value)]:
            del row[name]
    return rows


def _read_csv(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a CSV file; cells of settings that are numbers become numbers, where they can."""
    label = f"table={str(file)!r}"
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ClipgenError(f"{label}: cannot be read ({error}); save it as CSV in UTF-8") from error
    delimiter = next((each for each in ",;\t" if each in text.partition("\n")[0]), ",")
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names, rows = [_unquote(name) for name in reader.fieldnames or ()], list(reader)
    except csv.Error as error:
        line = reader.reader.line_num
        raise ClipgenError(f"{label}: cannot be read at line {line} ({error}); close each quote") from error
    if duplicates := [name for name in names if name and names.count(name) > 1]:
        raise ClipgenError(f"{label}: its first line has {duplicates[0]!r} twice; rename or delete one column")
    if any(row.get("") for row in rows):
        raise ClipgenError(f"{label}: a line has a cell in a column without a name; name it in the first line")
    if any(None in row for row in rows):
        special = {",": "commas", ";": "semicolons"}.get(delimiter, "tabs")
        raise ClipgenError(f"{label}: a line has more cells than there are names; put {special} in quotes")
    texts = [{_unquote(name): _unquote(text or "") for name, text in row.items()} for row in rows]
    return [{name: _parse_number(name, text) for name, text in row.items()} for row in texts]


def write_csv(lines: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Write a table in which no text is a formula for a spreadsheet; ``read_table`` returns the same table again.

    Raises OSError for a file that cannot be written.
    """
    with file.open("w", newline="", encoding="utf-8", errors="replace") as out:
        writer = csv.writer(out)
        names = list(dict.fromkeys(name for line in lines for name in line))
        writer.writerow(map(_quote, names))
        writer.writerows([_quote(line.get(name)) for name in names] for line in lines)


def _quote(value: Any) -> str:
    """Return the text of a cell, with a quote before text that a spreadsheet would change."""
    text = "" if value is None else format_value(value)
    return f"'{text}" if not isinstance(value, (Real, Decimal)) and _UNSAFE.match(text) else text


def _unquote(text: str) -> str:
    return text[1:] if text.startswith("'") and _UNSAFE.match(text, 1) else text.strip()


def _parse_number(name: str, text: str) -> Any:
    """Return the number of a setting that is one; other texts are checked with the settings, or are schedules."""
    kind = _TYPES.get(name)
    for parse in (kind, float) if kind in (int, float) else ():  # a whole number may be written 3.0
        with suppress(ValueError):
            return parse(text)
    return text


def load_yaml(file: str | Path) -> Any:
    """Return the content of a YAML file, in which yes, no, on, true and dates are words.

    Raises ClipgenError for one that cannot be read.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Reads numbers and null; anything else is a word, also what a setting reads as True or False."""

        yaml_implicit_resolvers: ClassVar = {
            first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith(":null")]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INTEGER, list("-+0123456789"))
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
    try:
        return yaml.load(Path(file).read_text("utf-8"), Loader)
    except (OSError, ValueError, OverflowError, RecursionError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ClipgenError(f"{file}: cannot be read ({reason}); write a YAML file") from error
