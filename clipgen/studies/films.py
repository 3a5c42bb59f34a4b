"""More than one run: batches of a prompt, and films redrawn frame by frame."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm.auto import tqdm

from clipgen.errors import ClipgenError
from clipgen.images.films import FilmReader
from clipgen.images.reading import Pictorial, to_picture
from clipgen.prompts import slug
from clipgen.runs.finish import finish_batch, resumable
from clipgen.runs.folder import Lock
from clipgen.runs.inputs import Inputs, PromptLike, Value
from clipgen.runs.journal import Journal, warn_unsaved
from clipgen.runs.run import Run
from clipgen.runs.settings import Settings
from clipgen.runs.spec import Losses, RunSpec
from clipgen.setting import check_count, check_number

FILM = "film"  # the start of a redrawn film, and the folder with its frames until all are redrawn


def batch(
    prompt: PromptLike,
    count: int,
    *,
    seed: int = 0,
    batch: int = 1,
    progress: bool = True,
    folder: str | Path = "clipgen-runs",
    losses: Losses = (),
    **settings: Value,
) -> list[Run]:
    """Make several pictures of one prompt, with consecutive seeds. An interrupt ends it early.

    Args:
        prompt: See ``clipgen.Run``.
        count: Number of pictures.
        seed: The first picture's.
        batch: Number of pictures in one tensor, which is faster where the device has room for more; they are equal to
            those made singly, up to rounding.
        progress: Show a progress bar.
        folder, losses, settings: See ``clipgen.Run``.

    Returns:
        The runs that were begun; ``best`` sorts them.

    Raises:
        ClipgenError: For numbers that cannot work.
    """
    batch, count, seed = check_count("batch", batch), check_count("count", count), check_count("seed", seed, low=0)
    runs: list[Run] = []
    while len(runs) < count and all(run.finished or run.diverged for run in runs):
        group: list[Run] = []
        for number in range(len(runs), min(count, len(runs) + batch)):
            like = (runs + group)[0] if runs or group else None
            group.append(Run(prompt, folder=folder, losses=losses, like=like, seed=seed + number, **settings))
        runs += finish_batch(group, progress)
    return runs


def best(runs: Sequence[Run]) -> list[Run]:
    """Return the runs of one prompt, sorted by the score of their pictures: the judge's, or CLIP's without a judge.

    Raises:
        ClipgenError: For no runs.
    """
    runs = [] if isinstance(runs, (Run, str)) or not isinstance(runs, Iterable) else list(runs)
    if not (runs and all(isinstance(run, Run) for run in runs)):
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
    scores = perceptor.embed_image([run.image for run in runs]) @ targets.T @ weights
    return [runs[i] for i in scores.argsort(descending=True).tolist()]


def restyle(
    film: str | Path | Pictorial | Sequence[str | Path | Pictorial],
    prompt: PromptLike,
    *,
    carry: float = 0.5,
    steps: int = 30,
    folder: str | Path = "clipgen-runs",
    progress: bool = True,
    losses: Losses = (),
    **settings: Value,
) -> Journal:
    """Redraw every frame of a film after a prompt.

    Each frame starts from a mix of itself and the redrawn frame before it, for temporal consistency.
    ``clipgen.export.export(journal.frames(), "out.mp4", journal.settings)`` writes the film with the durations of
    its source.

    Args:
        film: A video, GIF, WebP or pictures; see ``images.films.FilmReader``.
        prompt: See ``clipgen.Run``.
        carry: Share of the previous redrawn frame in the start of a frame, from 0 to 1.
        steps: Number of steps per frame.
        folder: See ``clipgen.Run``.
        progress: Show a progress bar.
        losses, settings: See ``clipgen.Run``; ``every`` and ``init`` are the film's own.

    Returns:
        The run folder of the redrawn film.

    Raises:
        ClipgenError: For a film that cannot be read.
        Interrupted: At an interrupt. Its ``journal`` has the frames made so far; ``clipgen resume`` makes the others.
    """
    carry = check_number("carry", carry, 0, 1, "; 0 draws every frame alone")
    if "init" in settings:
        raise ClipgenError("init=...: a frame of a film starts from that of its source; leave init out, or use carry")
    if "every" in settings:
        raise ClipgenError("every=...: of each frame of a film only the last step is kept; leave every out")
    reader = FilmReader(film)
    frames = [frame.convert("RGB") for frame in reader]
    if not frames:
        raise ClipgenError("film: it has no frames; choose another")
    spec = RunSpec.create(prompt, {**settings, "steps": steps, "every": steps, "init": frames[0]}, losses)
    metadata = spec.metadata | {"init": FILM} | ({"durations": reader.durations} if reader.durations else {})
    inputs = {name: value for name, value in spec.inputs.by_name.items() if name != spec.settings.init}
    inputs |= {_frame_name(number): frame for number, frame in enumerate(frames, 1)}
    journal = Journal.create(folder, slug(spec.settings.prompt), metadata)
    facts = {FILM: {"carry": carry, "frames": len(frames)}}
    Journal.create(journal.folder / FILM, "source", metadata | facts, inputs)
    return finish_film(journal, progress, losses)


def finish_film(film: Journal, progress: bool = True, losses: Losses = (), *, trust: bool = False) -> Journal:
    """Redraw the frames that a film lacks; their source is deleted with the last one.

    Args:
        film: The run folder of the film.
        progress: Show a progress bar.
        losses: See ``clipgen.Run``.
        trust: Read files that the film names without a copy.

    Raises:
        ClipgenError: Where the source is incomplete, or names files that are not in it.
        Interrupted: At an interrupt.
    """
    with Lock(film.folder, "this film"), resumable(film):
        saved, inputs = _read_source(film)
        if not trust:
            Inputs(inputs).check_contained([saved | {"init": "auto"}], film.folder, saved.get("weights"))
        frames = {number: to_picture(inputs.pop(_frame_name(number))) for number in range(1, saved[FILM]["frames"] + 1)}
        settings = {field.name: saved.get(field.name, field.default) for field in fields(Settings)}
        del settings["prompt"]
        film.trim(len(frames), {int(row["step"]) for row in film.scores})  # a kill can leave a frame without scores
        todo = sorted(frames.keys() - set(film.steps))
        like: Run | None = None
        with tqdm(total=len(frames), initial=len(frames) - len(todo), disable=not progress, unit="frame") as bar:
            for number in todo:
                start = frames[number]
                if number > 1:
                    previous = film.frame(number - 1).resize(start.size, Image.Resampling.LANCZOS)
                    start = Image.blend(start, previous, saved[FILM]["carry"])
                with tempfile.TemporaryDirectory() as scratch:
                    spec = RunSpec.create(saved["prompt"], {**settings, "init": start}, losses, Inputs(inputs))
                    run = Run(spec, folder=scratch, like=like)
                    *_, frame = run
                    latent = torch.from_numpy(run.journal.latent(frame.step))
                like = like or run
                unsaved_before = film.write_error
                try:
                    film.add(number, frame.image, latent, frame.scores)
                except OSError as error:  # the frame stays in memory
                    if not unsaved_before:
                        warn_unsaved(film, error)
                bar.update()
        if not film.write_error:
            shutil.rmtree(film.folder / FILM)
    return film


def _read_source(film: Journal) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of a film and its inputs, frames included. Raises ClipgenError where one is missing."""
    remedy = "redraw the film from its beginning"
    folders = [path for path in (film.folder / FILM).glob("*") if path.is_dir()]  # not a .DS_Store
    if len(folders) != 1:
        raise ClipgenError(f"{film.folder}: its source is missing; {remedy}")
    if folders[0].resolve().parents[1] != film.folder.resolve():
        raise ClipgenError(f"{folders[0]}: a link leads out of the run folder, and is not followed; delete it")
    source = Journal.open(folders[0])
    facts = source.settings.get(FILM)
    facts = facts if isinstance(facts, dict) else {}
    check_number("carry", facts.get("carry"), 0, 1, remedy=f"; {folders[0]} is damaged: {remedy}")
    count = check_count("frames", facts.get("frames"), remedy=f"; {folders[0]} is damaged: {remedy}")
    inputs = source.inputs()
    if not all(_frame_name(number) in inputs for number in range(1, count + 1)):
        raise ClipgenError(f"{film.folder}: frames of its source are missing; {remedy}")
    return source.settings, inputs


def _frame_name(number: int) -> str:
    return f"film-{number:05d}.png"
