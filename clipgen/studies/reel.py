"""A film redrawn: frame after frame, each from a mix of itself and the one before; in parts where several work at it.

A part is a run folder whose ``init`` is "film". Its frames are its inputs, so that whoever finds it can go on with it.
The parts lie in the film's folder until all of it is redrawn.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from clipgen.errors import ClipgenError
from clipgen.images.reading import to_picture
from clipgen.prompts import slug
from clipgen.registry import ENGINES
from clipgen.runs.course import Frame
from clipgen.runs.inputs import Ask, Inputs
from clipgen.runs.interrupts import resumable
from clipgen.runs.journal import Journal
from clipgen.runs.keeper import warn_unsaved
from clipgen.runs.lock import Lock
from clipgen.runs.run import Run
from clipgen.runs.settings import Settings
from clipgen.runs.spec import Losses, RunSpec
from clipgen.studies.local import gpus
from clipgen.studies.protocol import Engine, work
from clipgen.studies.row import RowState

FILM, PARTS = "film", "parts"


def redrawn(
    pictures: Iterable[Image.Image],
    prompt: Ask,
    carry: float,
    settings: Mapping[str, Any],
    losses: Losses = (),
    last: Image.Image | None = None,
    like: Run | None = None,
    given: Mapping[str, Any] | None = None,
) -> Iterator[tuple[Run, Frame]]:
    """The run and the last frame of each picture; ``last``: what was made before the first, ``given``: pictures that
    the settings name. A run's folder is gone with the next one."""
    for frame in pictures:
        picture = frame.convert("RGB")
        if last is not None:
            picture = Image.blend(picture, last.resize(picture.size, Image.Resampling.LANCZOS), carry)
        with tempfile.TemporaryDirectory() as scratch:
            spec = RunSpec.create(prompt, {**settings, "init": picture}, losses, Inputs(given))
            run = Run(spec, folder=scratch, like=like)
            like, made = like or run, [*run][-1]
            yield run, made
        last = made.image


def is_part(folder: Path) -> bool:
    """Whether a folder is a part of a film, not the run of one picture."""
    return FILM in Journal(folder).settings


def go_on(part: Path | Journal, like: Run | None, losses: Losses = ()) -> Iterator[Run]:
    """Redraw the frames that a part lacks; yields the run of each. What the disk has no room for stays in a journal."""
    journal = part if isinstance(part, Journal) else Journal.open(part)
    with Lock(journal.folder, "this film"):
        yield from _redraw(journal, like, losses)


def _redraw(journal: Journal, like: Run | None, losses: Losses) -> Iterator[Run]:
    said, given, done = journal.settings, journal.inputs(), [int(row["step"]) for row in journal.scores]
    journal.keep_until(max(done, default=0), set(done))  # a kill can leave a frame without its scores
    pictures = {number: given.pop(_name(number)) for number in range(said[FILM]["begin"], said[FILM]["end"])}
    numbers = [number for number in pictures if number not in done]
    settings = {knob.name: said[knob.name] for knob in fields(Settings) if knob.name != "prompt"}
    last = journal.frame(done[-1]) if done else None
    left = [to_picture(pictures[number]) for number in numbers]
    again = redrawn(left, said["prompt"], said[FILM]["carry"], settings, losses, last, like, given)
    for number, (run, made) in zip(numbers, again):
        _add(journal, number, made.image, torch.from_numpy(run.journal.latent(made.step)), made.scores)
        yield run


def apart(
    pictures: Sequence[Image.Image],
    prompt: Ask,
    carry: float,
    overlap: int,
    engine: str,
    workers: int | None,
    folder: str | Path,
    progress: bool,
    settings: Mapping[str, Any],
    notes: Mapping[str, Any],
    losses: Losses = (),
) -> Journal:
    """A film redrawn by an engine's workers, each with a part that begins ``overlap`` frames early; or in this process.

    ``engine``: empty for this process. ``notes``: what its folder says of it beside the settings. Raises Interrupted.
    """
    if not pictures:
        raise ClipgenError("film: it has no frames; choose another")
    name, _, _ = engine.partition(":")
    if engine:
        ENGINES.check(name)
    spec = RunSpec.create(prompt, {**settings, "init": pictures[0]}, losses)
    doer: Engine | None = ENGINES[name](workers, len(pictures), gpus([spec]), engine, "") if engine else None
    try:
        film = Journal.create(folder, slug(spec.settings.prompt), spec.notes | dict(notes))
        length = math.ceil(len(pictures) / (doer.workers if doer else 1))
        for first in range(1, len(pictures) + 1, length):
            _part(film, spec, pictures, carry, first, length, overlap)
        return finish_film(film, progress, losses, doer)
    finally:
        if doer:
            doer.close()


def finish_film(film: Journal, progress: bool, losses: Losses = (), doer: Engine | None = None) -> Journal:
    """Redraw what the parts of a film lack, in this process or by an engine's workers; what is made is joined.

    Raises Interrupted, and ClipgenError where a worker failed: what is made until then is in the film, and the parts
    stay, so that it can go on.
    """
    with Lock(film.folder, "this film"), resumable(film):
        parts = sorted(map(Journal.open, (film.folder / PARTS).iterdir()), key=_first)
        count = max(part.settings[FILM]["end"] for part in parts) - 1
        try:
            with tqdm(total=count, disable=not progress, unit="frame") as bar:
                for _ in work(doer, [[part.folder] for part in parts]) if doer else _redraw_all(parts, losses):
                    bar.update(sum(number >= _first(part) for part in parts for number in part.steps) - bar.n)
        finally:
            for part in parts:
                _join(film, part)
            if complete := len(film.steps) == count and not film.trouble:
                shutil.rmtree(film.folder / PARTS)
    if doer and not complete:
        why = next((error for part in parts if (error := RowState.read(part.folder).error)), "a part is not redrawn")
        raise ClipgenError(f"{why}; go on with: clipgen resume {film.folder}")
    return film


def _redraw_all(parts: Sequence[Journal], losses: Losses) -> Iterator[Run]:
    like: Run | None = None
    for part in parts:
        for run in go_on(part, like, losses):
            like = like or run
            yield run


def _name(number: int) -> str:
    return f"film-{number:05d}.png"


def _part(
    film: Journal, spec: RunSpec, pictures: Sequence[Image.Image], carry: float, first: int, length: int, overlap: int
) -> Journal:
    """A folder with everything that a worker needs for the frames from ``first`` on."""
    begin, end = max(1, first - overlap), min(first + length, len(pictures) + 1)
    notes = {**film.settings, FILM: {"carry": carry, "begin": begin, "first": first, "end": end}}
    part = Journal.create(film.folder / PARTS, f"{first:05d}", notes)
    for name, value in spec.inputs.all.items():
        if name != spec.settings.init:
            part.keep_input(name, value)
    for number in range(begin, end):
        part.keep_input(_name(number), pictures[number - 1].convert("RGB"))
    return part


def _first(part: Journal) -> int:
    """The number of the first frame of its own."""
    return part.settings[FILM]["first"]


def _add(journal: Journal, number: int, image: Image.Image, latent: Tensor, scores: dict[str, float]) -> None:
    """Keep a frame; what the disk has no room for is in memory, which is told once."""
    before = journal.trouble
    try:
        journal.add(number, image, latent, scores)
    except OSError as error:
        if not before:
            warn_unsaved(journal, error)


def _join(film: Journal, part: Journal) -> None:
    """Add what a part has made to the film, without the frames that it began early with."""
    scores = {int(row.pop("step")): row for row in part.scores}
    for number in part.steps:
        if number >= _first(part) and number in scores and number not in film.steps:
            _add(film, number, part.frame(number), torch.from_numpy(part.latent(number)), scores[number])
