"""Reading the files of runs, which somebody else may have written: JSON, settings, changes, arrays."""

import csv
import io
import json
import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import numpy as np

from clipgen.errors import ClipgenError
from clipgen.images.masks import find_mask_file
from clipgen.prompts import parse, parse_weighted
from clipgen.runs.settings import Settings, scheduled

FORMAT = 2  # of run folders since version 0.4
UNCHANGEABLE = {"fit"}  # settings that could be changed in version 0.4, without an effect
REMOVED = {"window": 1}  # settings of version 0.4 that are gone, with the value that changes nothing
WEIGHTS = {".bin", ".ckpt", ".pkl", ".pt", ".pth", ".safetensors"}
_ADDRESS = re.compile(
    r"(\w+://)(?:[^/@\s|]*@)?([^\s|?]*)(?:\?[^\s|]*?)?(?=(?::[-+\d.]+){0,2}(?:@[\d-]+)?(?:[\s|\[]|$))"
)
MAX_DEPTH = 8  # of lists and mappings within one another
MAX_NUMBER = 2**63


def read_json(text: str | bytes, source: str | Path, remedy: str = "this run cannot be read") -> Any:
    """Parse JSON. Raises ClipgenError, with the file's name, if it is malformed, deeply nested or has huge numbers."""
    try:
        value = json.loads(text)
        if not _is_plain(value, MAX_DEPTH):
            raise ValueError(f"nested deeper than {MAX_DEPTH}, or with a number that is not finite")
    except (ValueError, RecursionError) as error:
        raise ClipgenError(f"{source} is damaged ({error}); {remedy}") from error
    return value


def nearest_run(name: str) -> str:
    """Return which run of the current folder somebody may mean: the newest with a name in its own, or the newest."""
    runs = sorted(path.parent.as_posix() for path in Path("clipgen-runs").glob("*/settings.json"))
    named = [run for run in runs if name and name in run]
    if named:
        return f"did you mean {named[-1]}?"
    return f"the newest one here is {runs[-1]}" if runs else "choose one of clipgen-runs"


def check_version(saved: Any, source: str | Path) -> None:
    """Raise ClipgenError for settings of another format, or of a version before 0.4."""
    saved = saved if isinstance(saved, dict) else {}
    versions, number = saved.get("versions"), saved.get("format")
    version = str(versions.get("clipgen", ""))[:20] if isinstance(versions, dict) else ""
    if number != FORMAT or re.match(r"0\.[0-3]\b", version):
        raise ClipgenError(
            f"{source}: written by another version of clipgen ({version or 'unknown'}, format {number!r:.20}; here "
            f"format {FORMAT}, of 0.4 and later); use that version"
        )


def check_saved(saved: Any, source: str | Path) -> dict[str, Any]:
    """Return the settings in a run folder or an exported file, with the ``changes`` if there are any.

    Checks versions and types only; ``settings.build`` checks values. Raises ClipgenError with the file's name.
    """
    if not isinstance(saved, dict) or "prompt" not in saved:
        raise ClipgenError(f"{source}: its settings are damaged (there is no prompt); this run cannot be read")
    if "format" in saved:
        check_version(saved, source)
    _check_types(saved, source)
    for name, kind in (("losses", list), ("versions", dict), ("machine", dict), ("changes", list)):
        if name in saved and not isinstance(saved[name], kind):
            raise ClipgenError(f"{source}: {name} is damaged ({saved[name]!r:.80}); this run cannot be read")
    check_changes(saved.get("changes", []), source)
    return saved


def check_changes(changes: list[Any], source: str | Path) -> list[dict[str, Any]]:
    """Return the changes of a run. Raises ClipgenError, with the file's name, if they are malformed."""
    for change in changes:
        step = change.get("step") if isinstance(change, dict) else None
        if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < MAX_NUMBER:
            raise ClipgenError(f"{source}: its changes are damaged ({change!r:.80}); delete it, or that line")
        _check_types(change, source)
    return changes


def drop_removed(saved: Mapping[str, Any], source: str | Path, unused: Collection[str] = ()) -> dict[str, Any]:
    """Return saved settings without removed and unused ones. Raises ClipgenError if a removed one made a difference."""
    for name, neutral in REMOVED.items():
        if saved.get(name, neutral) != neutral:
            raise ClipgenError(
                f"{source}: this run has {name}={saved[name]}, a setting that was removed; use clipgen 0.4, or set "
                f"{name} to {neutral} in its settings.json and changes.jsonl: the pictures will then differ"
            )
    return {name: value for name, value in saved.items() if name not in {*REMOVED, *unused}}


def format_rows(rows: Sequence[Mapping[str, float]]) -> bytes:
    """Return a table of scores as CSV; a missing score is an empty cell."""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, [*dict.fromkeys(name for row in rows for name in row)])
    writer.writeheader()
    for row in rows:
        writer.writerow({name: int(value) if name == "step" else f"{value:.6g}" for name, value in row.items()})
    return out.getvalue().encode()


def parse_rows(text: str, file: Path) -> list[dict[str, float]]:
    """Return the complete rows of a table of scores: up to 0.4 a kill could leave half of one at the end.

    Raises ClipgenError, with the name of the file, for a damaged table.
    """
    whole = text[: max(text.rfind("\n"), text.rfind("\r")) + 1].replace("\0", "")
    try:
        names, *lines = csv.reader(io.StringIO(whole, newline="")) if whole else [[]]
    except csv.Error as error:
        raise ClipgenError(f"{file}: this file is damaged ({error}); delete it") from error
    rows = []
    for cells in lines:
        if len(cells) != len(names):  # up to 0.4 a new score moved those after step and clip
            cells = cells[:2]
        with suppress(ValueError):
            row = {name: float(cell) for name, cell in zip(names, cells) if cell}
            if row.keys() >= {"step", "clip"} and math.isfinite(row["step"]):
                rows.append(row)
    return sorted(rows, key=lambda row: row["step"])


def read_array(source: Path | bytes) -> np.ndarray:
    """Read an .npy file, or its content; takes no more memory than its size. Raises ValueError for anything else."""
    try:
        if isinstance(source, bytes):  # a file that had no room on the disk
            return np.load(io.BytesIO(source), allow_pickle=False)
        mapped = np.load(source, mmap_mode="r", allow_pickle=False)  # a header may claim more than the file has
        array = np.array(mapped) if isinstance(mapped, np.ndarray) else np.zeros(0)
    except Exception as error:  # a header can fail in every way that Python's literals can
        raise ValueError(" ".join(str(error).split())[:200] or type(error).__name__) from error
    if not array.size or array.ndim > 4 or array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
        raise ValueError(f"an array of {array.dtype} of shape {array.shape} is neither a picture nor a latent")
    return array


def named_files(options: Mapping[str, Any]) -> list[str]:
    """Return the files and addresses that prompts and ``mask`` name in settings or a change of them."""
    prompts = parse(options.get("prompt", "x"), options.get("negative", ""))
    masks = [find_mask_file(where) for where in (options.get("mask", ""), *(prompt.where for prompt in prompts))]
    return [prompt.text for prompt in prompts if prompt.is_image] + [file for file in masks if file]


def named_weights(options: Mapping[str, Any]) -> list[str]:
    """Return the files of weights that ``generator``, ``perceptor`` and ``judge`` name, without published models."""
    clips = "|".join(str(options.get(name, "")) for name in ("perceptor", "judge"))
    tags = (name if name.startswith("local-dir:") else name.partition("/")[2] for name, _ in parse_weighted(clips))
    names = [name for name in (options.get("generator", ""), *tags) if not name.startswith("hf-hub:")]
    return [name for name in names if Path(name).suffix in WEIGHTS or re.search(r"[/\\]", name)]


def identify_weights(options: Mapping[str, Any]) -> dict[str, str]:
    """Return size and time of each file of weights that settings name, used to recognise the file as unchanged."""
    files: dict[str, str] = {}
    for name in named_weights(options):
        with suppress(OSError):
            status = os.stat(name)
            files[name] = f"{status.st_size} bytes, {status.st_mtime_ns}"
    return files


def strip_paths(saved: Mapping[str, Any], named_in: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Return settings, or facts about them, with base names instead of paths: exports are for other people.

    Args:
        saved: Any mapping; strings anywhere in it are replaced.
        named_in: The settings that name the files, by default ``saved`` and its ``changes``.
    """
    paths = {path for settings in named_in or (saved, *saved.get("changes", [])) for path in _named_paths(settings)}
    # In a prompt some characters of a path may have a backslash before them.
    patterns = ("".join(rf"\\?{re.escape(c)}" if c in "|:@[" else re.escape(c) for c in path) for path in paths)
    pattern = re.compile("|".join(sorted(patterns, key=len, reverse=True)) or "(?!)")

    def shorten(value: Any) -> Any:
        if isinstance(value, str):
            value = _ADDRESS.sub(r"\1\2", value)  # without name, password and query, which may be secrets
            return pattern.sub(lambda match: re.split(r"[/\\](?![|:@\[])", match[0])[-1], value)
        if isinstance(value, Mapping):
            return {name: shorten(item) for name, item in value.items()}
        return [shorten(item) for item in value] if isinstance(value, (list, tuple)) else value

    return shorten({name: value for name, value in saved.items() if name != "weights"})


def _named_paths(saved: Mapping[str, Any]) -> list[str]:
    """Return the paths of files, with folders in them, that settings or a change name."""
    texts = {name: value for name, value in saved.items() if isinstance(value, str)}
    names = [*named_files(texts), texts.get("init", ""), *named_weights(texts)]
    names = [name.removeprefix("local-dir:").strip().rstrip("/\\") for name in names]
    paths = [name for name in names if re.search(r"[/\\]", name)]
    return [path for path in paths if "://" not in path and not path.startswith("hf-hub:")]


def _check_types(saved: Mapping[str, Any], source: str | Path) -> None:
    for field in fields(Settings):
        if field.name in saved and not _has_type(field, saved[field.name]):
            raise ClipgenError(f"{source}: {field.name}={saved[field.name]!r:.80} is damaged; this run cannot be read")


def _has_type(field: Field, value: Any) -> bool:
    """Return whether a value is of a type that a setting has in a journal."""
    if field.default is None:  # the size
        pair = isinstance(value, list) and len(value) == 2 and all(type(side) is int for side in value)
        return value is None or pair or isinstance(value, str)
    if field.default is MISSING or isinstance(field.default, (str, bool)):
        return isinstance(value, str if field.default is MISSING else type(field.default))
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number or (isinstance(value, str) and scheduled(field))


def _is_plain(value: Any, depth: int) -> bool:
    if isinstance(value, (list, dict)):
        items = value.values() if isinstance(value, dict) else value
        return depth > 0 and all(_is_plain(item, depth - 1) for item in items)
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, int) or abs(value) <= MAX_NUMBER
