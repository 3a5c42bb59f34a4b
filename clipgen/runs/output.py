"""Writing a run as a picture or a film: its frames, or for a vector format its drawings."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image

from clipgen.errors import ClipgenError
from clipgen.export import check_suffix, export
from clipgen.export.formats import Drawing
from clipgen.generators.catalogue import GENERATORS, entry_of, load_generator
from clipgen.generators.drawings import Vectors
from clipgen.registry import WRITERS
from clipgen.runs.history import FilmRow, History
from clipgen.runs.inputs import strip_paths
from clipgen.runs.journal import Journal
from clipgen.runs.settings import KEEP_CHOICES


def export_run(
    journal: Journal,
    file: str | Path,
    keep: str = "",
    picture: Callable[[int], Image.Image] | None = None,
    until: float = math.inf,
    **options: Any,
) -> Path:
    """Write the film of a run, or its picture. A film of pixels begins with the draft and shows the first steps singly.

    Args:
        journal: The run's.
        file: Its suffix is the format.
        keep: "last": all frames, "best": those up to the best; by default as the run's setting.
        picture: Returns what to show of a step, by default its frame.
        until: The last step that is shown.
        options: See ``clipgen.export.export``.

    Raises:
        ClipgenError: Another ``keep``, or what ``export`` refuses.
    """
    settings = [change["keep"] for change in (journal.settings, *journal.changes) if "keep" in change]
    keep = keep or ["last", *settings][-1]
    if keep not in KEEP_CHOICES:
        raise ClipgenError(f"keep={keep!r}: choose one of: {', '.join(KEEP_CHOICES)}")
    last = History(journal, until).best_step if keep == "best" else until
    writer = WRITERS[check_suffix(file)]
    rows = [row for row in journal.film if row["step"] <= last]
    if picture or writer.takes_drawings or not writer.is_animated:
        rows = [row for row in rows if "token_row" not in row]  # the frames
    if not (writer.is_animated or options.get("animate")):
        rows = rows[-1:]
    pictures = (picture(int(row["step"])) for row in rows) if picture else export_frames(journal, file, rows)
    return export(pictures, file, strip_paths(journal.history), scores=rows, **options)


def check_output(file: str | Path, generator: str | None) -> None:
    """Raise ClipgenError for an unknown suffix, and for a vector format of a generator without vectors.

    ``generator``: empty for the default, None if it is not known yet.
    """
    writer = WRITERS[check_suffix(file)]
    if not writer.takes_drawings or generator is None or (generator and entry_of(generator).is_vector):
        return
    names = " or ".join(repr(name) for name, entry in GENERATORS.items() if entry.is_vector)
    what = f"generator={generator!r} makes" if generator else "this is made of"
    raise ClipgenError(f"output={str(file)!r}: {what} pixels, no vectors; choose .png, or generator={names}")


def export_frames(journal: Journal, file: str | Path, rows: Sequence[FilmRow]) -> Iterable[Image.Image | Drawing]:
    """Return the pictures of some rows of ``journal.film`` as the format of a file takes them, at the last one's size.

    Raises ClipgenError at once for a vector format where the run has no drawings, or a mask covers some of them.
    """
    size = journal.picture(rows[-1]).size if rows else (0, 0)
    if not WRITERS[check_suffix(file)].takes_drawings:
        return (journal.picture(row).resize(size, Image.Resampling.LANCZOS) for row in rows)
    check_output(file, journal.settings.get("generator", ""))
    if any(change.get("mask") for change in (journal.settings, *journal.changes)):
        raise ClipgenError(f"output={str(file)!r}: a run with a mask contains pixels, not only vectors; choose .png")
    return _drawings(journal, [int(row["step"]) for row in rows], size)


def _drawings(journal: Journal, steps: Sequence[int], size: tuple[int, int]) -> Iterator[Drawing]:
    generator = cast(Vectors, load_generator(journal.settings["generator"]))
    for step in steps:
        yield generator.drawing(generator.unpack(torch.from_numpy(journal.latent(step)), size[::-1]))
