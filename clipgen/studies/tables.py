"""What a study takes from tables and files, and its own table as a CSV file: cells, and what is meant by them."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields
from datetime import date, time
from decimal import Decimal
from itertools import islice
from numbers import Real
from pathlib import Path, PurePath
from typing import Any, ClassVar

import numpy as np

from clipgen.errors import ClipgenError
from clipgen.runs.settings import Settings
from clipgen.setting import to_python

Table = str | Path | Iterable[Mapping[str, Any]] | Any  # the last: a pandas DataFrame
BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_KINDS = {knob.name: type(knob.default) for knob in fields(Settings) if knob.default is not MISSING}
MAX_ROWS = 10_000  # of a study, unless more are asked for
_NODES = 10**6  # of a YAML file, at most, every alias counted as what it stands for
_BITS = 1000  # of a whole number, at most: larger ones cannot be computed with as floats
# What a spreadsheet takes for a formula (full-width signs, too) or would trim. With a quote before it, it is text.
_UNSAFE = re.compile(r"'*[=+\-@＝＋－＠\s]|.*\s\Z", re.DOTALL)
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F]+)\Z")
_FLOAT = re.compile(r"[-+]?((\d+\.\d*|\.\d+)(e[-+]?\d+)?|\d+e[-+]?\d+|\.inf)\Z|\.nan\Z", re.IGNORECASE | re.ASCII)


def is_text(value: Any) -> bool:
    """Whether a value can stand in a prompt: a word, a number, a date, a path, or a size."""
    if isinstance(value, tuple):
        return all(isinstance(side, int) for side in value)
    return isinstance(value, (str, Real, Decimal, date, time, PurePath))


def format_value(value: Any) -> str:
    """A value as a label has it."""
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return str(value) if value is None or is_text(value) else type(value).__name__


def unwrap_cell(value: Any) -> Any:
    """Return what a cell of a table or an axis holds, without numpy or torch around it; None for an empty one."""
    if isinstance(value, np.datetime64):  # which Python would have as a count of nanoseconds
        return None if np.isnat(value) else str(value)
    value = to_python(value)
    missing = isinstance(value, (float, Decimal, date)) and value != value
    return None if missing or type(value).__name__ == "NAType" else value


def parse_value(name: str, value: Any) -> Any:
    """Return what a setting has by a value as files, tables and arrays have it. A size is written ``128x96``.

    Raises ClipgenError for a whole number that is too large for anything.
    """
    value, kind = unwrap_cell(value), _KINDS.get(name)
    if isinstance(value, int) and value.bit_length() > _BITS:
        raise ClipgenError(f"{name}=...: a whole number of more than {_BITS} bits; write a smaller one")
    if kind is bool and isinstance(value, str):
        return BOOLEANS.get(value.lower(), value)
    if kind is int and isinstance(value, float):
        return to_python(value, whole=True)
    if name == "size" and not isinstance(value, Mapping) and isinstance(value, Iterable):
        sides = value.lower().split("x") if isinstance(value, str) else [unwrap_cell(side) for side in value]
        with_both = [*sides, *sides] if len(sides) == 1 else sides
        try:
            whole = tuple(int(side) for side in with_both)
            return whole if whole == tuple(float(side) for side in with_both) else value
        except (ValueError, TypeError, OverflowError):
            return value
    return value


def read_table(table: Table, most: int = MAX_ROWS) -> list[dict[str, Any]]:
    """The rows of a table: a .csv or .yaml file, dictionaries, or a pandas DataFrame; empty cells ask for nothing.

    Of other iterables the first ``most`` + 1. Raises ClipgenError for what is no table or cannot be read.
    """
    if isinstance(table, (str, Path)):
        found: Any = _csv(Path(table)) if Path(table).suffix.lower() == ".csv" else load_yaml(table)
    else:
        found = table
        if hasattr(found, "to_dict") and getattr(found, "ndim", 0) == 2:
            found = found.to_dict("records")
    found = list(islice(found, most + 1)) if isinstance(found, Iterable) else []
    if not (found and all(isinstance(row, Mapping) for row in found)):
        raise ClipgenError("table=...: has to be rows with names: a .csv, a .yaml list, dictionaries or a DataFrame")
    rows = [{str(name): unwrap_cell(value) for name, value in row.items()} for row in found]
    for name in dict.fromkeys(name for row in rows for name, value in row.items() if value is None):
        # pandas has no empty cell in a column of whole numbers, and makes floats of them.
        filled = [row for row in rows if row.get(name) is not None]
        numbers = [row[name] for row in filled]
        if _KINDS.get(name) is not float and all(isinstance(n, float) and n.is_integer() for n in numbers):
            for row in filled:
                row[name] = int(row[name])
    return [{name: value for name, value in row.items() if not _is_empty(value)} for row in rows]


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value)


def _csv(file: Path) -> Iterable[dict[str, Any]]:
    """Cells are words; those of settings that are numbers become numbers, where they can."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ClipgenError(f"table={str(file)!r}: cannot be read ({error}); save it as CSV in UTF-8") from error
    if any(None in row for row in rows):
        raise ClipgenError(f"table={str(file)!r}: a line has more cells than there are names; put commas in quotes")
    words = [{_unquoted(name): _unquoted(text or "") for name, text in row.items()} for row in rows]
    return [{name: _number(name, text) for name, text in row.items()} for row in words]


def write_csv(lines: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Write a table in which no text is a formula for a spreadsheet; ``read_table`` returns the same table again.

    Raises OSError for a file that cannot be written.
    """
    with file.open("w", newline="", encoding="utf-8", errors="replace") as out:
        writer = csv.writer(out)
        names = list(dict.fromkeys(name for line in lines for name in line))
        writer.writerow(map(_quoted, names))
        writer.writerows([_quoted(line.get(name)) for name in names] for line in lines)


def _quoted(value: Any) -> str:
    """A value as a cell: a number as it is, text with a quote before it where it would be taken for something else."""
    text = "" if value is None else format_value(value)
    return f"'{text}" if not isinstance(value, (Real, Decimal)) and _UNSAFE.match(text) else text


def _unquoted(text: str) -> str:
    return text[1:] if text.startswith("'") and _UNSAFE.match(text, 1) else text.strip()


def parse_values(name: str, line: str) -> list[Any]:
    """The values of a setting in a line: ``8, 16, 32``; with semicolons between them where they have commas."""
    parts = line.split(";" if ";" in line else ",")
    return [parse_value(name, _number(name, part.strip())) for part in parts if part.strip()]


def _number(name: str, text: str) -> Any:
    kind = _KINDS.get(name)
    for reads in (kind, float) if kind in (int, float) else ():  # a whole number may be written 3.0
        with suppress(ValueError):
            return reads(text)
    return text  # a word, a schedule, or wrong: the settings' own check says so


def load_yaml(file: str | Path) -> Any:
    """What a YAML file says, in the words of YAML 1.2: yes, no, on and dates are words, and so is true.

    Raises ClipgenError for one that cannot be read, or that is larger than it looks.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Numbers, nothing (null) and merged keys; all else is a word, which a setting that is true or false reads."""

        yaml_implicit_resolvers: ClassVar = {
            first: [(tag, pattern) for tag, pattern in known if tag.endswith((":null", ":merge"))]
            for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INTEGER, list("-+0123456789"))
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
    try:
        loader = Loader(Path(file).read_text("utf-8"))
        node = loader.get_single_node()
        if node and _count(node, {}) > _NODES:
            raise ValueError(f"with its aliases it has more than {_NODES:,} entries")
        return loader.construct_document(node) if node else None
    except (OSError, ValueError, OverflowError, RecursionError, yaml.YAMLError) as error:
        why = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ClipgenError(f"{file}: cannot be read ({why}); write a YAML file") from error


def _count(node: Any, known: dict[int, int]) -> int:
    """How many entries a YAML node has, all aliases written out. Raises ValueError for one that contains itself."""
    if id(node) not in known:
        known[id(node)] = 0
        inner = node.value if isinstance(node.value, list) else []
        parts = (part for one in inner for part in (one if isinstance(one, tuple) else (one,)))
        known[id(node)] = 1 + sum(_count(part, known) for part in parts)
    if not known[id(node)]:
        raise ValueError("it contains itself")
    return known[id(node)]
