"""What files of runs say, checked where it is read: JSON, settings and changes, arrays. Damage is a ClipgenError."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import numpy as np

from clipgen.errors import ClipgenError
from clipgen.images.masks import file_of
from clipgen.prompts import parse
from clipgen.runs.settings import Settings, scheduled

DEPTH = 8  # of lists and mappings within one another
LARGEST = 2**63  # of numbers


def read_json(text: str | bytes, source: str | Path, remedy: str = "this run cannot be read") -> Any:
    """Return what JSON says. Raises ClipgenError with the file's name for what is none, or nested without reason."""
    try:
        value = json.loads(text)
        if not _is_plain(value, DEPTH):
            raise ValueError(f"nested deeper than {DEPTH}, or with a number that is none")
    except (ValueError, RecursionError) as error:
        raise ClipgenError(f"{source} is damaged ({error}); {remedy}") from error
    return value


def check_saved(saved: Any, source: str | Path) -> dict[str, Any]:
    """Return the settings that a run folder or an exported file has, with its ``changes`` if there are any.

    Types only: what values mean is for ``settings.build``. Raises ClipgenError with the file's name.
    """
    if not isinstance(saved, dict) or "prompt" not in saved:
        raise ClipgenError(f"{source}: its settings are damaged (there is no prompt); this run cannot be read")
    _check_types(saved, source)
    for name, kind in (("losses", (list, int)), ("versions", dict), ("machine", dict), ("changes", list)):
        if name in saved and not isinstance(saved[name], kind):
            raise ClipgenError(f"{source}: {name} is damaged ({saved[name]!r:.80}); this run cannot be read")
    check_changes(saved.get("changes", []), source)
    return saved


def check_changes(changes: list[Any], source: str | Path) -> list[dict[str, Any]]:
    """Return what was changed on the way of a run. Raises ClipgenError with the file's name for anything else."""
    for change in changes:
        step = change.get("step") if isinstance(change, dict) else None
        if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < LARGEST:
            raise ClipgenError(
                f"{source}: what was changed on the way is damaged ({change!r:.80}); delete it, or that line"
            )
        _check_types(change, source)
    return changes


def read_array(source: Path | bytes) -> np.ndarray:
    """Return the numbers of an .npy file. Raises ValueError for anything else; takes no more memory than its size."""
    try:
        if isinstance(source, bytes):  # what could not be written yet
            return np.load(io.BytesIO(source), allow_pickle=False)
        mapped = np.load(source, mmap_mode="r", allow_pickle=False)  # no more than the file has
        array = np.array(mapped) if isinstance(mapped, np.ndarray) else np.zeros(0)
    except Exception as error:  # a header can fail in every way that Python's literals can
        raise ValueError(" ".join(str(error).split())[:200] or type(error).__name__) from error
    if not array.size or array.ndim > 4 or array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
        raise ValueError(f"numbers of {array.dtype} in {array.shape} are none of a picture")
    return array


def base_names(saved: Mapping[str, Any], like: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Return settings, or what is told of them, with files by their base names: exports are for others.

    Args:
        saved: Any mapping; strings anywhere in it are looked at.
        like: The settings that name the files, by default ``saved`` and its ``changes``.
    """
    names = {name for one in like or (saved, *saved.get("changes", [])) for name in _files_of(one)}
    if not names:
        return dict(saved)
    # In a prompt some characters of a name have a backslash before them, or not.
    raw = ("".join(rf"\\?{re.escape(c)}" if c in "|:@[" else re.escape(c) for c in name) for name in names)
    pattern = re.compile("|".join(sorted(raw, key=len, reverse=True)))

    def shorten(value: Any) -> Any:
        if isinstance(value, str):
            return pattern.sub(lambda match: re.split(r"[/\\](?![|:@\[])", match[0])[-1], value)
        if isinstance(value, Mapping):
            return {name: shorten(one) for name, one in value.items()}
        return [shorten(one) for one in value] if isinstance(value, (list, tuple)) else value

    return shorten(saved)


def _files_of(saved: Mapping[str, Any]) -> Iterator[str]:
    """Yield the paths of files, with folders in them, that settings or a change name."""
    texts = {name: value for name, value in saved.items() if isinstance(value, str)}
    prompts = parse(texts.get("prompt", "x"), texts.get("negative", ""))
    names = [prompt.text for prompt in prompts if prompt.is_image]
    names += [file_of(where) or "" for where in (texts.get("mask", ""), *(one.where for one in prompts))]
    names += [texts.get("init", ""), *(part.partition("/")[2] for part in texts.get("perceptor", "").split("|"))]
    names += [texts.get("generator", "")]
    for name in names:
        name = name.strip().rstrip("/\\")
        if re.search(r"[/\\]", name) and "://" not in name and not name.startswith("hf-hub:"):
            yield name


def _check_types(saved: Mapping[str, Any], source: str | Path) -> None:
    for knob in fields(Settings):
        if knob.name in saved and not _fits(knob, saved[knob.name]):
            raise ClipgenError(f"{source}: {knob.name}={saved[knob.name]!r:.80} is damaged; this run cannot be read")


def _fits(knob: Field, value: Any) -> bool:
    """Return whether a value is of a type that a setting has in a journal."""
    if knob.default is None:  # the size
        pair = isinstance(value, list) and len(value) == 2 and all(type(side) is int for side in value)
        return value is None or pair or isinstance(value, str)
    if knob.default is MISSING or isinstance(knob.default, (str, bool)):
        return isinstance(value, str if knob.default is MISSING else type(knob.default))
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number or (isinstance(value, str) and scheduled(knob))


def _is_plain(value: Any, depth: int) -> bool:
    if isinstance(value, (list, dict)):
        return depth > 0 and all(
            _is_plain(one, depth - 1) for one in (value.values() if isinstance(value, dict) else value)
        )
    return not isinstance(value, (int, float)) or (
        math.isfinite(value) if isinstance(value, float) else abs(value) <= LARGEST
    )
