"""More than one run: batches of a prompt, and films redrawn frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from clipgen.errors import ClipgenError
from clipgen.images.films import FilmReader
from clipgen.images.reading import Pictorial
from clipgen.prompts import slug
from clipgen.runs.inputs import Ask, Value
from clipgen.runs.journal import Journal
from clipgen.runs.run import Run
from clipgen.runs.spec import Losses
from clipgen.runs.together import finish_together
from clipgen.setting import check_count
from clipgen.studies.reel import FILM, apart
from clipgen.studies.study import study


def batch(
    prompt: Ask,
    count: int,
    *,
    seed: int = 0,
    batch: int = 1,
    engine: str = "",
    workers: int | None = None,
    progress: bool = True,
    folder: str | Path = "clipgen-runs",
    losses: Losses = (),
    **settings: Value,
) -> list[Run]:
    """``count`` pictures of one prompt, with seeds from ``seed`` on; ``best`` ranks them.

    ``batch``: so many are made in one tensor, which is faster where the device has room; their pictures are those that
    they would be alone, to rounding. ``engine``: who makes them, as of ``study``, with so many ``workers``; by default
    this process. An interrupt ends it early, with the runs that were begun. Raises ClipgenError for a batch below 1,
    for ``losses`` that would have to leave this process, and for what went wrong in a worker.
    """
    batch = check_count("batch", batch)
    if engine or workers is not None:
        _check_own(losses)
        table, seeds = [{"prompt": prompt}], range(seed, seed + count)
        place = Path(folder, f"batch-{slug(prompt if isinstance(prompt, str) else 'pictures')}")
        same: dict[str, Any] = dict(settings)
        made = study(
            table=table, seed=seeds, folder=place, engine=engine or "local", workers=workers, batch=batch,
            progress=progress, **same,
        )  # fmt: skip
        if failed := next((row for row in made.rows if row.state.error), None):
            raise ClipgenError(f"{failed.label}: {failed.state.error}")
        begun: list[Run] = []
        for row in made.rows:
            if row.state.step:
                begun.append(Run.resume(row.folder, like=begun[0] if begun else None))
        return begun
    runs: list[Run] = []
    while len(runs) < count and (not runs or runs[-1].finished):
        some: list[Run] = []
        for number in range(len(runs), min(count, len(runs) + batch)):
            like = (runs + some)[0] if runs or some else None
            some.append(Run(prompt, folder=folder, losses=losses, like=like, seed=seed + number, **settings))
        runs += finish_together(some, progress)
    return runs


def best(runs: Sequence[Run]) -> list[Run]:
    """The runs of one prompt, the one first whose picture the judge, or without one CLIP, finds nearest to it.

    Raises ClipgenError for no runs.
    """
    if not runs:
        raise ClipgenError("best needs at least one run; give it those of clipgen.batch")
    perceptor = runs[0].models.judge or runs[0].models.perceptors[0][0]
    prompts, pictures = runs[0].prompts, runs[0].spec.inputs.pictures
    targets = torch.cat(
        [
            perceptor.embed_image([pictures[prompt.text]]) if prompt.is_image else perceptor.embed_text([prompt.text])
            for prompt in prompts
        ]
    )
    weights = torch.tensor([prompt.weight for prompt in prompts]).to(targets)
    liked = perceptor.embed_image([run.image for run in runs]) @ targets.T @ weights
    return [runs[i] for i in liked.argsort(descending=True).tolist()]


def restyle(
    film: str | Path | Pictorial | Sequence[str | Path | Pictorial],
    prompt: Ask,
    *,
    carry: float = 0.5,
    steps: int = 30,
    engine: str = "",
    workers: int | None = None,
    overlap: int = 6,
    folder: str | Path = "clipgen-runs",
    progress: bool = True,
    losses: Losses = (),
    **settings: Value,
) -> Journal:
    """Every frame of a film (video, GIF, WebP or pictures) redrawn after a prompt, as a run folder of its own.

    Each frame starts from a mix of itself and, by the share ``carry`` in [0, 1], the result before it, so that the
    style holds still. ``clipgen.export.film.export(journal.frames(), "out.mp4", journal.settings)`` writes it, each
    frame for as long as in the film. ``film``: as of ``images.films.FilmReader``.

    ``engine``: who makes it, as of ``study``; by default this process. Each of its ``workers`` has a part of the film,
    and begins ``overlap`` frames before it, because what is carried along has to settle: of the frame before those a
    share of carry to the power of overlap is left. A worker that is lost is replaced, and its part goes on.

    An interrupt raises ``runs.interrupts.Interrupted``, whose ``journal`` has the frames that are made; the others are
    made by ``clipgen resume``. Raises ClipgenError for a film that cannot be read.
    """
    if not 0 <= carry <= 1:
        raise ClipgenError(f"carry={carry}: has to be from 0 (every frame alone) to 1")
    if overlap < 0:
        raise ClipgenError(f"overlap={overlap}: has to be a whole number of at least 0")
    asked, frames = settings | {"steps": steps, "every": steps}, FilmReader(film)
    notes: dict[str, Any] = {"init": FILM} | ({"durations": frames.durations} if frames.durations else {})
    if engine or workers is not None:
        _check_own(losses)
        engine = engine or "local"
    overlap = overlap if carry else 0
    return apart([*frames], prompt, carry, overlap, engine, workers, folder, progress, asked, notes, losses)


def _check_own(losses: Losses) -> None:
    if losses:
        raise ClipgenError("losses=...: functions of your own stay in this process; leave engine and workers out")
