"""How a run went: its frames, which of them is best, and whether it is worth going on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipgen.errors import ClipgenError
from clipgen.export.film import check_suffix, export
from clipgen.images.camera import Camera
from clipgen.images.sheets import png_bytes
from clipgen.prompts import parse
from clipgen.registry import WRITERS
from clipgen.runs.drawings import frames
from clipgen.runs.journal import Journal, is_steering
from clipgen.runs.saved import base_names
from clipgen.runs.schedules import parse_growth, parse_schedule
from clipgen.runs.settings import KEPT, Settings, scheduled


@dataclass(frozen=True)
class Frame:
    """A moment of a run: what ``stream`` yields."""

    step: int
    image: Image.Image
    scores: dict[str, float]  # clip: cosine of the views to the prompts; loss; judge: of the frame, if there is one;
    # with ``settled`` the change since the frame before, in levels of 255
    seconds: float = math.nan  # since the loop began, or went on; of a frame from the journal it is not known

    def _repr_png_(self) -> bytes:
        return png_bytes(self.image)


class Course:
    """The frames of a run so far, in its journal or at hand; ``until``: those of later steps do not count.

    Frames compete while the same is asked for: when the prompts are changed, or one of their spans begins or ends, what
    was best before is no measure any more. ``changes``: of a run that goes on, and so may grow; else the journal's.
    """

    def __init__(self, journal: Journal, until: float = math.inf, changes: Sequence[Mapping[str, Any]] | None = None):
        self._journal, self._changes = journal, journal.changes if changes is None else changes
        self._settings = journal.settings
        self._moves: list[tuple[float, float]] = []  # of frames that tell it: their step, and their change
        self._last: Mapping[str, float] | None = None  # the rows of the newest frame and of the best one
        self._best: Mapping[str, float] | None = None
        self._at_hand: list[Frame] = []  # these two, as far as they were made here
        for row in journal.scores:
            if row["step"] <= until:
                self._count(row)

    def add(self, frame: Frame) -> None:
        """A frame more. With ``settled`` its scores also tell its change since the one before."""
        if self._settings.get("settled"):
            frame.scores["change"] = _change(self.newest.image, frame.image) if self else 255.0
        self._count({"step": frame.step} | frame.scores)
        self._at_hand = [one for one in (*self._at_hand, frame) if one.step in (frame.step, self.best_step)]

    def _count(self, row: Mapping[str, float]) -> None:
        # Numbers as the journal has them, so that a resumed run decides the same.
        self._last = {name: float(f"{value:.6g}") for name, value in row.items()}
        self._moves.append((row["step"], self._last.get("change", 0.0)))
        past = self._best is None or self._best["step"] <= self._since(int(row["step"]) - 1)
        if past or liked(self._last) > liked(self._best or {}):
            self._best = self._last

    def _since(self, step: int) -> int:
        """The step before which something else was asked for than at ``step``."""
        said = [(change["step"], change["prompt"]) for change in self._changes if "prompt" in change]
        begun, prompt = [(0, self._settings["prompt"]), *((at, prompt) for at, prompt in said if at <= step)][-1]
        edges = [int(edge) for one in parse(prompt) for edge in one.span if edge <= step]
        return max([begun, *edges])

    def __bool__(self) -> bool:
        """Whether there are frames."""
        return self._last is not None

    @property
    def newest(self) -> Frame:
        """The newest frame. Raises ClipgenError before the first."""
        return self._frame(self._last)

    @property
    def best(self) -> Frame:
        """The frame that the judge likes best, or without one CLIP, since what is asked for is the same.

        Raises ClipgenError before the first.
        """
        return self._frame(self._best)

    @property
    def best_step(self) -> float:
        """Its step; none is beyond it before the first."""
        return self._best["step"] if self._best else math.inf

    @property
    def over(self) -> bool:
        """Whether for ``patience`` steps no frame was better than the best before, or the picture has ``settled``."""
        if self._last is None:
            return False
        patience, limit, step = *map(self._settings.get, ("patience", "settled")), self._last["step"]
        return bool((patience and step - self.best_step >= patience) or (limit and self._moved(step) < limit))

    def _moved(self, step: float) -> float:
        """How far the picture has moved in a tenth of the steps; no measure while something is new, or will be."""
        steps = self._settings["steps"]
        begin = step - max(1, steps // 10)
        changes = [change for change in self._changes if change["step"] <= step and is_steering(change)]
        new = {0, *(change["step"] for change in changes)}.union(*map(_edges, [self._settings, *changes]))
        if any(begin < edge < steps for edge in new):
            return math.inf
        return sum(change for at, change in self._moves if at > begin)

    def _frame(self, row: Mapping[str, float] | None) -> Frame:
        if row is None:
            raise ClipgenError("this run has no frames yet: iterate over it, or use clipgen.generate")
        step, scores = int(row["step"]), {name: value for name, value in row.items() if name != "step"}
        kept = (frame for frame in self._at_hand if frame.step == step)
        return next(kept, None) or Frame(step, self._journal.frame(step), scores)


def _edges(asked: Mapping[str, Any]) -> set[int]:
    """Return the steps at which something begins or ends to hold: spans of prompts, numbers, sizes and the camera.

    Args:
        asked: some settings, as a journal has them, or a change of them.
    """
    prompts = parse(asked.get("prompt", "the same"), asked.get("negative", ""))
    spans: list[tuple[int, float]] = [prompt.span for prompt in prompts]
    spans += [(first, last) for *_, first, last in Camera.parse(asked.get("camera", "")).moves]
    for knob in fields(Settings):
        if isinstance(value := asked.get(knob.name), str) and scheduled(knob):
            spans += parse_schedule(knob.name, value).spans
    begins = parse_growth(size).begins if isinstance(size := asked.get("size"), str) else ()
    return {*begins, *(int(edge) for span in spans for edge in span if edge < math.inf)}


def _change(one: Image.Image, other: Image.Image) -> float:
    """The mean difference of two frames in levels of 255; the most there is if they are not of one size."""
    same = one.size == other.size
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).mean()) if same else 255.0


def liked(row: Mapping[str, float]) -> float:
    """How much a frame is liked: by the judge, or without one by CLIP; least, what is no number."""
    score = row.get("judge", row["clip"])
    return -math.inf if math.isnan(score) else score


def write(
    journal: Journal,
    file: str | Path,
    keep: str = "",
    picture: Callable[[int], Image.Image] | None = None,
    **options: Any,
) -> Path:
    """Write the film of a run, or its picture; ``options``: of ``clipgen.export.film.export``.

    ``keep``: all frames ("last"), or those up to the "best"; by default as the run has it. ``picture``: what is shown
    of a step, by default its frame. Raises ClipgenError for another ``keep``.
    """
    asked = [change["keep"] for change in (journal.settings, *journal.changes) if "keep" in change]
    keep = keep or ["last", *asked][-1]
    if keep not in KEPT:
        raise ClipgenError(f"keep={keep!r}: choose one of: {', '.join(KEPT)}")
    last = Course(journal).best_step if keep == "best" else math.inf
    rows, steps = {row["step"]: row for row in journal.scores}, [step for step in journal.steps if step <= last]
    if not (WRITERS[check_suffix(file)].film or options.get("animate")):
        steps = steps[-1:]
    scores = [rows.get(step, {}) for step in steps]
    made = map(picture, steps) if picture else frames(journal, file, steps)
    return export(made, file, base_names(journal.history), scores=scores, **options)
