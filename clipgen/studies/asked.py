"""What a study asks for: each with each of some lists, lists side by side, or a table, as arguments of single runs."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from string import Formatter
from typing import Any

from clipgen.errors import ClipgenError
from clipgen.runs.settings import Settings

Table = str | Path | Sequence[Mapping[str, Any]] | Any  # the last: a pandas DataFrame
_USUAL = {knob.name: knob.default for knob in fields(Settings) if knob.default is not MISSING}


@dataclass(frozen=True)
class Asked:
    """One run of a study: the arguments of ``clipgen.Run``, and what makes it another one than its neighbours."""

    prompt: Any
    settings: dict[str, Any]
    varied: dict[str, Any]

    @property
    def label(self) -> str:
        """``thing=moon, seed=1``; the prompt, if nothing varies."""
        return ", ".join(f"{name}={told(value)}" for name, value in self.varied.items()) or told(self.prompt)


def told(value: Any) -> str:
    """A value as a label has it."""
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return str(value) if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__


def expand(
    template: Any, settings: Mapping[str, Any], table: Table | None = None, together: bool = False
) -> list[Asked]:
    """Every run of a study, in the order of its axes, the last one fastest; none twice.

    An axis is each list (or range, or tuple) among the settings, the placeholders and the template, and the rows of a
    ``table``, which set several names at once; ``together``: the axes go side by side, as with ``zip``. Raises
    ClipgenError for axes that do not fit together and for placeholders that nothing fills.
    """
    constant = {name: _meant(name, value) for name, value in settings.items() if not _varies(name, value)}
    axes = [[{name: one} for one in value] for name, value in settings.items() if _varies(name, value)]
    if _varies("prompt", template):
        axes.insert(0, [{"prompt": one} for one in template])
    elif template is not None:
        constant["prompt"] = template
    if table is not None:
        rows = read(table)
        if twice := sorted(settings.keys() & {name for row in rows for name in row}):
            raise ClipgenError(f"{twice[0]}=...: is in the table, too; leave one of them out")
        axes.insert(0, rows)
    for axis in axes:
        if not axis:
            raise ClipgenError("study: one of the lists is empty; give it a value, or leave it out")
    if together and len(counts := {len(axis) for axis in axes}) > 1:
        raise ClipgenError(
            f"zip=True: the lists have to be of one length; here are {', '.join(map(str, sorted(counts)))}"
        )
    picks = zip(*axes) if together and axes else itertools.product(*axes)
    points = [constant | {name: _meant(name, v) for part in pick for name, v in part.items()} for pick in picks]
    names = [name for axis in axes for name in axis[0]] + [name for axis in axes for row in axis for name in row]
    varied = [n for n in dict.fromkeys(names) if any(told(p.get(n)) != told(points[0].get(n)) for p in points)]
    holders = {name for point in points for name in _placeholders(point)}
    asked = (_asked(point, [name for name in varied if name in point], holders) for point in points)
    return list({repr((one.prompt, sorted(one.settings.items()))): one for one in asked}.values())


def _varies(name: str, value: Any) -> bool:
    whole = name == "size" and len(value) == 2 and all(isinstance(side, int) for side in value) if _listed(value) else 0
    return _listed(value) and not whole


def _listed(value: Any) -> bool:
    return isinstance(value, (list, tuple, range))


def _placeholders(point: Mapping[str, Any]) -> set[str]:
    """The names that a template has in braces. Raises ClipgenError for what is no plain name, and for no template."""
    if "prompt" not in point:
        raise ClipgenError('study: there is no prompt; write a template such as "a {thing}", or a column "prompt"')
    prompt = point["prompt"]
    try:
        names = (
            {name for _, name, _, _ in Formatter().parse(prompt) if name is not None}
            if isinstance(prompt, str)
            else set()
        )
    except ValueError:
        names = {""}
    if not all(name.isidentifier() for name in names):
        raise ClipgenError(
            f"prompt={prompt!r}: placeholders are plain names, such as {{thing}}; a brace is written {{{{ or }}}}"
        )
    if missing := sorted(names - point.keys()):
        raise ClipgenError(f"prompt={prompt!r}: nothing fills {{{missing[0]}}}; add {missing[0]}=[...]")
    return names


def _asked(point: Mapping[str, Any], varied: Sequence[str], holders: Set[str]) -> Asked:
    """The placeholders filled in; what is left are settings."""
    prompt = point["prompt"]
    if isinstance(prompt, str):
        prompt = prompt.format_map({name: told(value) for name, value in point.items()})
    settings = {name: value for name, value in point.items() if name not in holders and name != "prompt"}
    return Asked(prompt, settings, {name: point[name] for name in varied})


def read(table: Table) -> list[dict[str, Any]]:
    """The rows of a table: a .csv or .yaml file, dictionaries, or a pandas DataFrame; empty cells ask for nothing.

    Raises ClipgenError for what is no table or cannot be read.
    """
    if isinstance(table, (str, Path)):
        found: Any = _csv(Path(table)) if Path(table).suffix.lower() == ".csv" else load_yaml(table)
    else:
        found = table.to_dict("records") if hasattr(table, "to_dict") else table
    if not (isinstance(found, Sequence) and found and all(isinstance(row, Mapping) for row in found)):
        raise ClipgenError("table=...: has to be rows with names: a .csv, a .yaml list, dictionaries or a DataFrame")
    rows = [{str(name): _plain(value) for name, value in row.items()} for row in found]
    return [{name: value for name, value in row.items() if value not in (None, "")} for row in rows]


def _plain(value: Any) -> Any:
    """A cell without numpy around it; None for pandas' NaN."""
    value = value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value
    return None if isinstance(value, float) and value != value else value


def _csv(file: Path) -> Iterable[dict[str, Any]]:
    """Cells are words; those of settings that are numbers become numbers, where they can."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ClipgenError(f"table={str(file)!r}: cannot be read ({error}); save it as CSV in UTF-8") from error
    if any(None in row for row in rows):
        raise ClipgenError(f"table={str(file)!r}: a line has more cells than there are names; put commas in quotes")
    return [{name.strip(): _number(name.strip(), (cell or "").strip()) for name, cell in row.items()} for row in rows]


def values(name: str, line: str) -> list[Any]:
    """The values of a setting in a line: ``8, 16, 32``; with semicolons between them where they have commas."""
    parts = line.split(";" if ";" in line else ",")
    return [_meant(name, _number(name, part.strip())) for part in parts if part.strip()]


def _number(name: str, cell: str) -> Any:
    kind = type(_USUAL.get(name, ""))
    if kind is bool:
        return {"true": True, "false": False}.get(cell.lower(), cell)
    if kind not in (int, float):
        return cell
    try:
        return kind(cell)
    except ValueError:
        return cell  # a schedule, or wrong: the settings' own check says so


def _meant(name: str, value: Any) -> Any:
    """A size is written ``128x96`` in files."""
    if name == "size" and isinstance(value, (str, list)):
        sides = value.lower().split("x") if isinstance(value, str) else value
        with_both = [*sides, *sides] if len(sides) == 1 else sides
        try:
            return tuple(int(side) for side in with_both)
        except ValueError:
            return value
    return value


def load_yaml(file: str | Path) -> Any:
    """What a YAML file says. Raises ClipgenError for one that cannot be read."""
    import yaml

    try:
        return yaml.safe_load(Path(file).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        why = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ClipgenError(f"{file}: cannot be read ({why}); write a YAML file") from error
