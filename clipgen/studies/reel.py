"""A film redrawn: frame after frame, each from a mix of itself and the one before; in parts where several work at it.

A part is a run folder whose ``init`` is "film". Its frames are its inputs, so that whoever finds it can go on with it.
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
from tqdm.auto import tqdm

from clipgen.errors import ClipgenError
from clipgen.images.reading import to_picture
from clipgen.registry import ENGINES
from clipgen.runs.course import Frame
from clipgen.runs.inputs import Ask, Inputs
from clipgen.runs.journal import Journal
from clipgen.runs.lock import Lock
from clipgen.runs.plan import Losses, Plan
from clipgen.runs.prompts import slug
from clipgen.runs.run import Run
from clipgen.runs.settings import Settings
from clipgen.studies.local import gpus
from clipgen.studies.protocol import Engine, work
from clipgen.studies.row import State

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
            plan = Plan.of(prompt, {**settings, "init": picture}, losses, Inputs(given))
            run = Run(plan, folder=scratch, like=like)
            like, made = like or run, [*run][-1]
            yield run, made
        last = made.image


def is_part(folder: Path) -> bool:
    """Whether a folder is a part of a film, not the run of one picture."""
    return FILM in Journal(folder).settings


def go_on(folder: Path, like: Run | None) -> Iterator[Run]:
    """Redraw the frames that a part lacks; yields the run of each."""
    journal = Journal.open(folder)
    with Lock(journal.folder, "this film"):
        yield from _redraw(journal, like)


def _redraw(journal: Journal, like: Run | None) -> Iterator[Run]:
    said, given, done = journal.settings, journal.inputs(), [int(row["step"]) for row in journal.scores]
    journal.keep_until(max(done, default=0), set(done))  # a kill can leave a frame without its scores
    pictures = {number: given.pop(_name(number)) for number in range(said[FILM]["begin"], said[FILM]["end"])}
    numbers = [number for number in pictures if number not in done]
    settings = {knob.name: said[knob.name] for knob in fields(Settings) if knob.name != "prompt"}
    last = journal.frame(done[-1]) if done else None
    left = [to_picture(pictures[number]) for number in numbers]
    again = redrawn(left, said["prompt"], said[FILM]["carry"], settings, last=last, like=like, given=given)
    for number, (run, made) in zip(numbers, again):
        journal.add(number, made.image, torch.from_numpy(run.journal.latent(made.step)), made.scores)
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
) -> Journal:
    """A film redrawn by an engine's workers, each with a part that begins ``overlap`` frames early.

    ``notes``: what its folder says of it beside the settings.
    """
    if not pictures:
        raise ClipgenError("film: it has no frames; choose another")
    name, _, _ = engine.partition(":")
    ENGINES.check(name)
    plan = Plan.of(prompt, {**settings, "init": pictures[0]})
    doer: Engine = ENGINES[name](workers, len(pictures), gpus([plan]), engine, "")
    try:
        film = Journal.create(folder, slug(plan.settings.prompt), plan.notes | dict(notes))
        length = math.ceil(len(pictures) / doer.workers)
        firsts = range(1, len(pictures) + 1, length)
        parts = [_part(film, plan, pictures, carry, first, length, overlap) for first in firsts]
        try:
            with tqdm(total=len(pictures), disable=not progress, unit="frame") as bar:
                for _ in work(doer, [[part.folder] for part in parts]):
                    bar.update(sum(_made(part, first) for part, first in zip(parts, firsts)) - bar.n)
        finally:
            for part, first in zip(parts, firsts):
                _join(film, part, first)
            unmade = [state for part in parts if not (state := State.read(part.folder)).done]
            failed = unmade[0].error or "a part of the film could not be written; is the disk full?" if unmade else ""
            shutil.rmtree(film.folder / PARTS, ignore_errors=True)
        if failed:
            raise ClipgenError(failed)
    finally:
        doer.close()
    return film


def _name(number: int) -> str:
    return f"film-{number:05d}.png"


def _part(
    film: Journal, plan: Plan, pictures: Sequence[Image.Image], carry: float, first: int, length: int, overlap: int
) -> Journal:
    """A folder with everything that a worker needs for the frames from ``first`` on."""
    begin, end = max(1, first - overlap), min(first + length, len(pictures) + 1)
    notes = {**film.settings, FILM: {"carry": carry, "begin": begin, "end": end}}
    part = Journal.create(film.folder / PARTS, f"{first:05d}", notes)
    for name, value in plan.inputs.all.items():
        if name != plan.settings.init:
            part.keep_input(name, value)
    for number in range(begin, end):
        part.keep_input(_name(number), pictures[number - 1].convert("RGB"))
    return part


def _made(part: Journal, first: int) -> int:
    """How many frames of its own a part has."""
    return sum(number >= first for number in part.steps)


def _join(film: Journal, part: Journal, first: int) -> None:
    """Add what a part has made to the film, without the frames that it began early with."""
    scores = {int(row.pop("step")): row for row in part.scores}
    for number in part.steps:
        if number >= first and number in scores:
            film.add(number, part.frame(number), torch.from_numpy(part.latent(number)), scores[number])
