"""Values in tables and files: cells, CSV and YAML."""

import csv
import io
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
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_TYPES = {field.name: type(field.default) for field in fields(Settings) if field.default is not MISSING}
MAX_ROWS = 10_000  # of a study, by default
_MAX_NODES = 10**6  # of a YAML file, with each alias counted as what it stands for
_MAX_BITS = 1000  # of a whole number: larger ones overflow a float
# What a spreadsheet would compute as a formula (also with full-width signs) or trim; a quote before it makes it text.
_UNSAFE = re.compile(r"'*[=+\-@＝＋－＠\s]|.*\s\Z", re.DOTALL)
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F]+)\Z")
_FLOAT = re.compile(r"[-+]?((\d+\.\d*|\.\d+)(e[-+]?\d+)?|\d+e[-+]?\d+|\.inf)\Z|\.nan\Z", re.IGNORECASE | re.ASCII)


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
        return _BOOLEANS.get(value.lower(), value)
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
    """Return the rows of a table, at most ``max_rows`` + 1, without empty cells.

    Raises ClipgenError for what is not a table or cannot be read.
    """
    if isinstance(table, (str, Path)):
        lines: Any = _read_csv(Path(table)) if Path(table).suffix.lower() == ".csv" else load_yaml(table)
    elif hasattr(table, "to_dict") and getattr(table, "ndim", 0) == 2:
        lines = table.to_dict("records")
    else:
        lines = table
    lines = list(islice(lines, max_rows + 1)) if isinstance(lines, Iterable) else []
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
        first = text.partition("\n")[0]
        delimiter = next((each for each in ",;\t" if each in first), ",")
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    except (OSError, UnicodeDecodeError) as error:
        raise ClipgenError(f"{label}: cannot be read ({error}); save it as CSV in UTF-8") from error
    try:
        names = [_unquote(name) for name in reader.fieldnames or ()]
        rows = list(reader)
    except csv.Error as error:
        line = reader.reader.line_num
        raise ClipgenError(f"{label}: cannot be read at line {line} ({error}); close each quote") from error
    if duplicates := [name for name in names if name and names.count(name) > 1]:
        raise ClipgenError(
            f"{label}: its first line has {duplicates[0]!r} twice; rename or delete one of these columns"
        )
    if any(row.get("") for row in rows):
        raise ClipgenError(f"{label}: a line has a cell in a column without a name; name it in the first line")
    if any(None in row for row in rows):
        special = {",": "commas", ";": "semicolons"}.get(delimiter, "tabs")
        raise ClipgenError(f"{label}: a line has more cells than there are names; put {special} in quotes")
    texts = [{_unquote(name): _unquote(text or "") for name, text in row.items()} for row in rows]
    return [{name: parse_number(_TYPES.get(name), text) for name, text in row.items()} for row in texts]


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


def parse_number(kind: type | None, text: str) -> Any:
    """Return the number of a setting of a type, or a text that is none, such as a schedule: settings check these."""
    for parse in (kind, float) if kind in (int, float) else ():  # a whole number may be written 3.0
        with suppress(ValueError):
            return parse(text)
    return text


def load_yaml(file: str | Path) -> Any:
    """Return the content of a YAML file, in which yes, no, on, true and dates are words.

    Raises ClipgenError for one that cannot be read, or has too many entries once its aliases are followed.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Reads numbers, null and merged keys; anything else is a word, also what a setting reads as True or False."""

        yaml_implicit_resolvers: ClassVar = {
            first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

        def compose_mapping_node(self, anchor: Any) -> Any:
            node, names = super().compose_mapping_node(anchor), set()
            for key, _ in node.value:
                name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
                if name in names:
                    raise ValueError(f"line {key.start_mark.line + 1} has {key.value!r} a second time; delete one")
                names |= {name} - {None}
            return node

    Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INTEGER, list("-+0123456789"))
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
    try:
        loader = Loader(Path(file).read_text("utf-8"))
        node = loader.get_single_node()
        if node and _count_nodes(node, {}) > _MAX_NODES:
            raise ValueError(f"with its aliases it has more than {_MAX_NODES:,} entries")
        return loader.construct_document(node) if node else None
    except (OSError, ValueError, OverflowError, RecursionError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ClipgenError(f"{file}: cannot be read ({reason}); write a YAML file") from error


def read_study(source: Path) -> dict[str, Any]:
    """Return the arguments of ``clipgen.study`` from a YAML file. Raises ClipgenError for one that has none."""
    content = load_yaml(source)
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise ClipgenError(f"{source}: must be names with values, such as 'prompt: a {{thing}}', 'thing: [cat, dog]'")
    arguments = {name: value for name, value in content.items() if name != "progress"}
    if arguments.get("folder", "") is None:
        raise ClipgenError(f"{source}: folder has no value; write a path or an address, or leave it out")
    if isinstance(arguments.get("folder"), (int, float)):
        arguments["folder"] = str(arguments["folder"])
    if isinstance(word := arguments.get("zip"), str):
        arguments["zip"] = _BOOLEANS.get(word.lower(), word)
    return {"template": arguments.pop("prompt", None)} | arguments


def _count_nodes(node: Any, counts: dict[int, int]) -> int:
    """Return the number of entries of a YAML node, with all aliases followed. Raises ValueError for a circle."""
    if id(node) not in counts:
        counts[id(node)] = 0
        entries = node.value if isinstance(node.value, list) else []
        nodes = (node for entry in entries for node in (entry if isinstance(entry, tuple) else (entry,)))
        counts[id(node)] = 1 + sum(_count_nodes(inner, counts) for inner in nodes)
    if not counts[id(node)]:
        raise ValueError("it contains itself")
    return counts[id(node)]
