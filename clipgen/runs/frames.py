"""The frames of a run: written into its folder, compared (the best, early stopping), and exported as films."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipgen.device import copy_to_cpu
from clipgen.errors import ClipgenError
from clipgen.export import check_suffix, export
from clipgen.export.formats import Drawing
from clipgen.generators.catalogue import GENERATORS, entry_of, load_generator
from clipgen.generators.drawings import Vectors
from clipgen.images.sheets import png_bytes
from clipgen.prompts import Prompt, parse
from clipgen.registry import WRITERS
from clipgen.runs.inputs import strip_paths
from clipgen.runs.journal import Journal, is_steering, warn_unsaved
from clipgen.runs.settings import KEEP_CHOICES, Settings

FilmRow = Mapping[str, float]  # a picture of the film: its step and scores, see ``Journal.film``
MAX_PENDING = 3  # files of frames, pictures and states that may wait for the disk
# A state of at most SMALL_STATE bytes is saved with each frame; others, such as half a gigabyte of token logits, at
# most every SAVE_SECONDS and where a run pauses or ends.
SMALL_STATE, SAVE_SECONDS = 2**24, 20.0


@dataclass(frozen=True)
class Frame:
    """The picture of a run after a step, with its scores: what ``stream`` yields."""

    step: int
    image: Image.Image
    # clip and loss: of the latent, before the step's update; judge, if any: of the frame; change, with ``settled``:
    # since the frame before, in 8-bit levels (0 to 255)
    scores: dict[str, float]
    seconds: float = math.nan  # since the loop started, or continued; unknown of a frame from the journal

    def _repr_png_(self) -> bytes:
        return png_bytes(self.image)


class History:
    """The frames of a run up to a step.

    Frames compete while the objective is the same: when the positive prompts change, or one of their spans begins or
    ends, the competition starts again. Negative ones are no part of a score. ``settings``: those that the run began
    with; ``changes``: a list that may grow; both are by default the journal's.
    """

    def __init__(
        self,
        journal: Journal,
        until: float = math.inf,
        changes: Sequence[Mapping[str, Any]] | None = None,
        settings: Settings | None = None,
    ):
        self._journal, self._changes = journal, journal.changes if changes is None else changes
        self._settings = settings or Settings.of(journal.settings)
        self._differences: list[tuple[float, float]] = []  # (step, change since the frame before)
        self._newest: FilmRow | None = None
        self._best: FilmRow | None = None
        self._frames: list[Frame] = []  # the newest and the best, if made by this process
        for row in journal.scores:
            if row["step"] <= until:
                self._add_row(row)

    def add(self, frame: Frame) -> None:
        """Add a new frame. With ``settled`` its scores get the change since the frame before."""
        if self._settings.settled:
            frame.scores["change"] = mean_difference(self.newest.image, frame.image) if self else 255.0
        self._add_row({"step": frame.step} | frame.scores)
        steps = frame.step, self.best_step
        self._frames = [earlier for earlier in (*self._frames, frame) if earlier.step in steps]

    def _add_row(self, row: FilmRow) -> None:
        # Rounded as in the journal, so that a resumed run decides the same.
        newest = self._newest = {name: float(f"{value:.6g}") for name, value in row.items()}
        self._differences.append((row["step"], newest.get("change", 0.0)))
        best = self._best
        is_best = best is None or frame_score(newest) > frame_score(best)
        if is_best or self.best_step <= self._objective_changed_at(int(row["step"]) - 1):
            self._best = newest

    def _objective_changed_at(self, step: int) -> int:
        """Return the last step, up to ``step``, at which a positive prompt changed, or its span began or ended."""
        changed_at, prompts = 0, _positive(self._settings.prompts)
        for change in self._changes:
            if "prompt" in change and change["step"] <= step:
                before, prompts = prompts, _positive(parse(change["prompt"]))
                if prompts != before:
                    changed_at = change["step"]
        edges = [int(edge) for prompt in prompts for edge in prompt.span if edge <= step]
        return max([changed_at, *edges])

    def __bool__(self) -> bool:
        """Whether there are frames."""
        return self._newest is not None

    @property
    def newest(self) -> Frame:
        """The newest frame. Raises ClipgenError before the first."""
        return self._frame(self._newest)

    @property
    def best(self) -> Frame:
        """The frame with the highest score since the objective changed. Raises ClipgenError before the first."""
        return self._frame(self._best)

    @property
    def best_step(self) -> float:
        """The step of the best frame; infinite before the first."""
        return self._best["step"] if self._best else math.inf

    @property
    def should_stop(self) -> bool:
        """Whether no frame was better for ``patience`` steps without a change, or the picture has ``settled``."""
        if self._newest is None:
            return False
        patience, settled, step = self._settings.patience, self._settings.settled, self._newest["step"]
        last_change = max((change["step"] for change in self._changes if is_steering(change)), default=0)
        if patience and step - max(self.best_step, last_change) >= patience:
            return True
        return bool(settled and self._recent_change(step) < settled)

    def _recent_change(self, step: float) -> float:
        """Return the change of the picture in the last tenth of the steps; infinite while the objective changes."""
        steps, edges = self._settings.steps, {0, *self._settings.span_edges}
        first = step - max(1, steps // 10)
        for change in self._changes:
            if change["step"] <= step and is_steering(change):
                edges |= {change["step"], *Settings.of(vars(self._settings) | change).span_edges}
        if any(first < edge < steps for edge in edges):
            return math.inf
        return sum(change for at, change in self._differences if at > first)

    def _frame(self, row: FilmRow | None) -> Frame:
        if row is None:
            raise ClipgenError("this run has no frames yet: iterate over it, or use clipgen.generate")
        step = int(row["step"])
        for frame in self._frames:
            if frame.step == step:
                return frame
        return Frame(step, self._journal.frame(step), {name: value for name, value in row.items() if name != "step"})


def _positive(prompts: Sequence[Prompt]) -> list[Prompt]:
    return [prompt for prompt in prompts if prompt.weight > 0]


class FrameWriter:
    """Writes the frames of a run into its journal. If the disk is full, it warns once; the frames stay in memory.

    ``in_background``: in a thread while the next steps run, for a device that leaves the processor idle.
    """

    def __init__(self, journal: Journal, in_background: bool):
        self._journal, self._has_failed, self._saved_at = journal, False, time.monotonic()
        self._executor = ThreadPoolExecutor(1, "clipgen journal") if in_background else None

    def write(self, write: Callable[..., None], *values: Any) -> None:
        """Call a method of the journal that writes."""
        if self._executor is None:
            self._attempt(write, *values)
            return
        self._finish(MAX_PENDING - 1)
        self._journal.pending.append(self._executor.submit(self._attempt, write, *values))

    def is_state_due(self, tensors: Mapping[str, Tensor]) -> bool:
        """Return whether a state of these tensors is to be saved with the frame: a small one always is."""
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        return size <= SMALL_STATE or time.monotonic() - self._saved_at >= SAVE_SECONDS

    def write_state(self, step: int, tensors: Mapping[str, Tensor], values: dict[str, Any]) -> None:
        """Write what ``Optimization.state`` returned after a step."""
        self._saved_at = time.monotonic()
        wait_for_copies: Callable[[], object] | None = None
        if self._executor:  # the next step overwrites the tensors
            tensors, wait_for_copies = copy_to_cpu(tensors)

        def save() -> None:
            if wait_for_copies:
                wait_for_copies()
            if not self._journal.write_error:  # else frames up to it are missing on the disk
                self._journal.save_state(step, tensors, values)

        self.write(save)

    def close(self) -> None:
        """Write what is pending, and end the thread."""
        if self._executor:
            self._executor.shutdown()
        self._finish(0)

    def _finish(self, remaining: int) -> None:
        """Wait until at most ``remaining`` writes are pending; raise the error of one that failed."""
        while len(self._journal.pending) > remaining:
            self._journal.pending.pop(0).result()

    def _attempt(self, write: Callable[..., None], *values: Any) -> None:
        try:
            write(*values)
        except OSError as error:
            if not self._has_failed:
                warn_unsaved(self._journal, error)
            self._has_failed = True


def mean_difference(image: Image.Image, other: Image.Image) -> float:
    """Return the mean absolute difference of two frames in 8-bit levels (0 to 255); 255 if their sizes differ."""
    if image.size != other.size:
        return 255.0
    return float(np.abs(np.asarray(image, float) - np.asarray(other, float)).mean())


def frame_score(row: FilmRow) -> float:
    """Return the score by which frames compete: the judge's, or without one CLIP's. NaN ranks last."""
    score = row.get("judge", row["clip"])
    return -math.inf if math.isnan(score) else score


def export_run(
    journal: Journal,
    file: str | Path,
    keep: str = "",
    picture: Callable[[int], Image.Image] | None = None,
    until: float = math.inf,
    **options: Any,
) -> Path:
    """Write the film of a run, or its picture.

    A film of pixels begins with the draft, and shows each of the first steps.

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
    saved = [change["keep"] for change in (journal.settings, *journal.changes) if "keep" in change]
    keep = keep or ["last", *saved][-1]
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
    return export(pictures, file, strip_paths(journal.settings_and_changes), scores=rows, **options)


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
    generator = cast(Vectors, load_generator(journal.settings["generator"]))
    latents = (torch.from_numpy(journal.latent(int(row["step"]))) for row in rows)
    return (generator.drawing(generator.unpack(latent, size[::-1])) for latent in latents)
