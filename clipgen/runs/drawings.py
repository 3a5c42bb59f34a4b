"""What is written of a run, frame by frame: its pictures, or for a format of vectors its drawings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import cast

import torch
from PIL import Image

from clipgen.errors import ClipgenError
from clipgen.export.film import check_suffix
from clipgen.generators.catalogue import GENERATORS, entry_of, load_generator
from clipgen.generators.protocol import Vector
from clipgen.images.drawing import Drawing
from clipgen.registry import WRITERS
from clipgen.runs.journal import Journal


def check_output(file: str | Path, generator: str | None) -> None:
    """Raise ClipgenError for an unknown suffix, and for a file of vectors of a generator that draws none.

    ``generator``: empty for that of everybody, None where it is not known yet.
    """
    if not WRITERS[check_suffix(file)].vectors or generator is None or (generator and entry_of(generator).vectors):
        return
    able = " or ".join(repr(name) for name, entry in GENERATORS.items() if entry.vectors)
    what = f"generator={generator!r} makes" if generator else "this is made of"
    raise ClipgenError(f"output={str(file)!r}: {what} pixels, no vectors; choose .png, or generator={able}")


def frames(journal: Journal, file: str | Path, steps: Sequence[int] | None = None) -> Iterable[Image.Image | Drawing]:
    """The frames of a run, by default all, as a file of this suffix takes them, all as large as the last.

    Raises ClipgenError at once where that format takes drawings, and the run has none or keeps a part of a picture.
    """
    kept = journal.steps if steps is None else steps
    if not WRITERS[check_suffix(file)].vectors:
        return _pictures(journal, kept)
    check_output(file, journal.settings.get("generator", ""))
    if any(change.get("mask") for change in (journal.settings, *journal.changes)):
        raise ClipgenError(f"output={str(file)!r}: what its mask kept of a picture is no drawing; choose .png")
    return _drawings(journal, kept)


def _pictures(journal: Journal, steps: Sequence[int]) -> Iterator[Image.Image]:
    """Frames as large as the last one, to which the picture may have grown."""
    size = _largest(journal, steps)
    for step in steps:
        yield journal.frame(step).resize(size, Image.Resampling.LANCZOS)


def _drawings(journal: Journal, steps: Sequence[int]) -> Iterator[Drawing]:
    generator = cast(Vector, load_generator(journal.settings["generator"]))
    width, height = _largest(journal, steps)
    for step in steps:
        yield generator.drawing(generator.unpack(torch.from_numpy(journal.latent(step)), (height, width)))


def _largest(journal: Journal, steps: Sequence[int]) -> tuple[int, int]:
    return journal.frame(steps[-1]).size if steps else (0, 0)
