"""The loop: a latent follows the gradient of the CLIP score, one frame after another."""

from __future__ import annotations

import platform
import queue
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import clipgen
from clipgen import device as devices
from clipgen.camera import Camera
from clipgen.cutouts import check_augment
from clipgen.errors import ClipgenError
from clipgen.export import export, png_bytes, settings_of
from clipgen.generators import Generator, load_generator
from clipgen.images import to_image
from clipgen.inputs import Inputs, Pictorial
from clipgen.journal import Journal
from clipgen.optimisation import Loss, Optimisation, colours
from clipgen.perceptors import Perceptor, load_perceptors
from clipgen.prompts import Prompt, parse, slug
from clipgen.settings import Settings, build

# What makes a run what it is; anything else can be changed while it goes on.
FIXED = ("generator", "perceptor", "relax", "size", "init", "seed", "steps", "every", "optimizer", "quality", "device")


@dataclass(frozen=True)
class Frame:
    """A moment of a run: what ``stream`` yields."""

    step: int
    image: Image.Image
    scores: dict[str, float]  # clip: cosine to the prompts; loss
    seconds: float  # since the loop began, or went on

    def _repr_png_(self) -> bytes:
        return png_bytes(self.image)


class Run:
    """One generation, as an iterator of frames that keeps everything it shows in its journal.

    ``Run("a cat:2 | dog:-0.5", steps=200, seed=1)``; the keyword arguments are the fields of Settings, and
    ``folder`` is where run folders are made. A prompt may also be a picture, or a list of pictures and prompts;
    ``init`` and ``mask`` may be pictures, and ``init`` token numbers (h, w). ``losses``: functions
    ``(image, latent, step) -> loss`` that are added. ``like``: a run with the same models, which are shared then.
    Nothing is computed before the first frame is asked for. Raises ClipgenError for what a person can mend.
    """

    def __init__(
        self,
        prompt: str | Pictorial | Sequence[str | Pictorial],
        *,
        folder: str | Path = "clipgen-runs",
        losses: Sequence[Loss] = (),
        like: Run | None = None,
        **knobs: Any,
    ):
        inputs = Inputs()
        knobs = inputs.named(knobs | {"prompt": prompt})
        self._begin(build(knobs.pop("prompt"), knobs), inputs, losses, like)
        self._record(folder)

    @classmethod
    def resume(cls, folder: str | Path, losses: Sequence[Loss] = (), like: Run | None = None) -> Run:
        """Go on with an interrupted run from its last saved step; its frames are those that it would have had."""
        run = cls.__new__(cls)
        journal = Journal.open(folder)
        run._begin(_saved(journal.settings, folder, len(losses)), Inputs(journal.inputs()), losses, like)
        run.journal = journal
        run._state = journal.load_state()
        run.step = run._state[0] if run._state else 0
        run._changes = journal.changes
        s = run.settings
        journal.keep_until(run.step, {1, s.steps, *range(s.every, s.steps, s.every)})
        return run

    @classmethod
    def replay(
        cls, source: str | Path, *, folder: str | Path = "clipgen-runs", losses: Sequence[Loss] = (),
        like: Run | None = None,
    ) -> Run:  # fmt: skip
        """Make a run again, from its folder or from a PNG, GIF or WebP that it exported; steering included."""
        run, old = cls.__new__(cls), Path(source)
        journal = Journal.open(old) if old.is_dir() else None
        saved = journal.settings if journal else settings_of(old)
        run._begin(_saved(saved, source, len(losses)), Inputs(journal.inputs() if journal else {}), losses, like)
        changes = journal.changes if journal else saved.get("changes", [])
        for change in changes if isinstance(changes, list) else [None]:
            if not isinstance(change, dict) or not isinstance(change.get("step"), int):
                raise ClipgenError(f"{source}: what was changed on the way is damaged; this run cannot be replayed")
            asked = asdict(run.settings) | _without(change, "step")
            build(asked.pop("prompt"), asked)
        run._record(folder)
        run._changes = changes
        for change in changes:
            run.journal.change(change["step"], _without(change, "step"))
        return run

    def branch(self, step: int, *, folder: str | Path = "clipgen-runs", **knobs: Any) -> Run:
        """A new run that starts from the frame of ``step``, with the settings of this one and other ``knobs``."""
        if step not in self.journal.steps:
            raise ClipgenError(f"step={step}: there is no such frame; there are {self.journal.steps}")
        run, inputs = Run.__new__(Run), Inputs(self._inputs.all)
        asked = asdict(self.settings) | {"near": 0.0} | knobs | {"init": self.journal.tokens(step)}
        asked = inputs.named(asked)
        run._begin(build(asked.pop("prompt"), asked), inputs, self.losses, self)
        run._record(folder)
        return run

    def _record(self, folder: str | Path) -> None:
        """Make the run folder."""
        notes = asdict(self.settings) | {"losses": len(self.losses)} | _versions(self.device)
        self.journal = Journal.create(folder, slug(self.settings.prompt), notes)
        for name, value in self._inputs.all.items():
            self.journal.keep_input(name, value)

    settings: Settings
    generator: Generator
    perceptors: list[tuple[Perceptor, float]]
    _unsaved = False

    def _begin(self, settings: Settings, inputs: Inputs, losses: Sequence[Loss], like: Run | None = None) -> None:
        """Everything that can fail for a reason that a person can mend, before anything is written."""
        self.losses = tuple(losses)
        self.device = devices.pick(settings.device)
        self._inputs = inputs
        _check_words(settings)
        models = ("generator", "relax", "perceptor", "device")
        if like and any(getattr(like.settings, name) != getattr(settings, name) for name in models):
            like = None
        self.generator = like.generator if like else load_generator(settings.generator, self.device, settings.relax)
        side = self.generator.size
        if settings.quality != "normal":  # half the pixels' worth of patience, or what a GPU can bear
            side = {"draft": side // 2 if self.device.type == "cpu" else side,
                    "best": side if self.device.type == "cpu" else 3 * side // 2}[settings.quality]  # fmt: skip
        width, height = settings.size or (side, side)
        self.generator.check_size((width, height))
        self.perceptors = like.perceptors if like else load_perceptors(settings.perceptor, self.device)
        # The collage is made of emoji and judged best by the CLIP that was trained on them.
        auto = "collage" if self.perceptors[0][0].name == "mini" else "random"
        self.settings = replace(settings, size=(width, height), init=auto if settings.init == "auto" else settings.init)
        self._inputs.load(self.settings, (height, width))
        self._check_tokens()
        self.step = 0
        self._state: tuple[int, dict[str, Tensor], dict] | None = None
        self._changes: list[dict] = []
        self._asked: queue.SimpleQueue[dict] = queue.SimpleQueue()
        self._newest: Frame | None = None
        self._stopped = threading.Event()
        self._going = threading.Event()
        self._going.set()
        self._frames: Iterator[Frame] | None = None

    # --- control, from any thread ---------------------------------------------------------------------

    def pause(self) -> None:
        """Hold before the next step."""
        self._going.clear()

    def unpause(self) -> None:
        """Go on after ``pause``."""
        self._going.set()

    def stop(self) -> None:
        """End after the current step; everything made so far is kept, and ``Run.resume`` goes on from it."""
        self._stopped.set()
        self._going.set()

    def change(self, **knobs: Any) -> None:
        """Change settings from the next step on: the prompt, lr, near, mask, cutouts...

        Each change is in the journal, so that a replay gives the same film. Raises ClipgenError for what cannot be
        changed and for values that cannot work; the run goes on as it was.
        """
        if fixed := sorted(set(knobs) & set(FIXED)):
            raise ClipgenError(f"{fixed[0]}=...: cannot be changed while a run goes on; start another, or branch")
        before = set(self._inputs.all)
        knobs = self._inputs.named(knobs)
        asked = asdict(self.settings) | knobs
        wanted = build(asked.pop("prompt"), asked)
        _check_words(wanted)
        width, height = self.settings.size  # type: ignore[misc]
        self._inputs.load(wanted, (height, width))
        for name in self._inputs.all.keys() - before:
            self.journal.keep_input(name, self._inputs.all[name])
        self._asked.put(knobs)

    @property
    def prompts(self) -> list[Prompt]:
        """The prompts as they are now."""
        return parse(self.settings.prompt)

    @property
    def finished(self) -> bool:
        """Whether every step was made."""
        return self.step >= self.settings.steps

    # --- results --------------------------------------------------------------------------------------

    @property
    def image(self) -> Image.Image:
        """The newest frame."""
        if self._newest:
            return self._newest.image
        if not self.journal.steps:
            raise ClipgenError("this run has no frames yet: iterate over it, or use clipgen.generate")
        return self.journal.frame(self.journal.steps[-1])

    @property
    def score(self) -> float:
        """The CLIP score of the newest frame."""
        return self._newest.scores["clip"] if self._newest else self.journal.scores[-1]["clip"]

    def export(self, file: str | Path, **options: Any) -> Path:
        """Write the film, or the picture, by suffix: .gif .mp4 .webp .png. See ``clipgen.export.export``."""
        return export(self.journal.frames(), file, self.journal.history, **options)

    def _repr_png_(self) -> bytes | None:
        return png_bytes(self.image) if self._newest or self.journal.steps else None

    def _check_tokens(self) -> None:
        tokens = self._inputs.tokens.get(self.settings.init)
        width, height = self.settings.size  # type: ignore[misc]
        shape = height // self.generator.factor, width // self.generator.factor
        codes = len(self.generator.net.codebook)
        if tokens is not None and (tokens.shape != shape or tokens.min() < 0 or tokens.max() >= codes):
            raise ClipgenError(
                f"init: tokens of shape {tokens.shape} from {tokens.min()} to {tokens.max()} were given; "
                f"{self.generator.name} at this size needs {shape}, from 0 to {codes - 1}"
            )

    # --- the loop -------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Frame]:
        if self._frames is None:
            self._frames = self._loop()
        return self._frames

    def _loop(self) -> Iterator[Frame]:
        self._work = work = Optimisation(
            self.settings, self.generator, self.perceptors, self._inputs, self.losses, self.device
        )
        if self._state:
            step, tensors, notes = self._state
            self._change([change for change in self._changes if change["step"] < step])
            work.restore(tensors, notes)
        began = time.monotonic()
        while self.step < self.settings.steps and not self._stopped.is_set():
            self._going.wait()
            self._steer()
            loss, score = work.advance(self.step)
            self.step += 1
            if work.stuck:
                self.stop()
            s = self.settings
            last = self.step == s.steps or self._stopped.is_set()
            if last or self.step == 1 or self.step % s.every == 0:
                picture, tokens = work.picture(mean=self.step > 1)  # the very first frame shows where it starts
                frame = Frame(self.step, to_image(picture[0]), {"clip": score, "loss": loss}, time.monotonic() - began)
                if self.step < s.steps:
                    work.move_camera(picture, self.step)
                self._keep(frame, tokens)
                yield frame

    def _steer(self) -> None:
        """Apply what was asked for since the last step, or, going on or replaying, what was asked for then."""
        due = [change for change in self._changes if change["step"] == self.step]
        self._changes = [change for change in self._changes if change["step"] > self.step]
        while not self._asked.empty():
            knobs = self._asked.get()
            with suppress(OSError):  # a full disk: said once, when frames cannot be kept
                self.journal.change(self.step, knobs)
            due.append(knobs)
        self._change(due)

    def _change(self, changes: list[dict]) -> None:
        for knobs in changes:
            self.settings = replace(self.settings, **_without(knobs, "step"))
            self._work.follow(self.settings)

    def _keep(self, frame: Frame, tokens: Tensor) -> None:
        self._newest = frame
        try:
            self.journal.add(frame.step, frame.image, tokens, frame.scores)
            self.journal.save_state(self.step, *self._work.state())
        except OSError as error:
            if not self._unsaved:
                warnings.warn(
                    f"{self.journal.folder}: frames cannot be saved any more ({error.strerror}); the run goes on, and "
                    "its last picture is in run.image",
                    stacklevel=2,
                )
            self._unsaved = True


def stream(prompt: Any, **knobs: Any) -> Iterator[Frame]:
    """Frames of a new run, as they are made. Arguments as for Run."""
    return iter(Run(prompt, **knobs))


def generate(prompt: Any, *, progress: bool = True, **knobs: Any) -> Run:
    """Make a picture with a progress bar; returns the Run. Arguments as for Run, and those of ``finish``."""
    return finish(Run(prompt, **knobs), progress)


def finish(run: Run, progress: bool = True) -> Run:
    """Let a run go on to its end, with a progress bar.

    An interrupt (Ctrl-C, a notebook's stop button) ends it after the current step, with everything kept: ``finished``
    is False then, and ``Run.resume(run.journal.folder)`` goes on. A second one stops at once.
    """
    from tqdm.auto import tqdm

    bar = tqdm(total=run.settings.steps, initial=run.step, disable=not progress, unit="step", dynamic_ncols=True)
    with bar, _interruptible(run):
        for frame in run:
            bar.update(frame.step - bar.n)
            bar.set_postfix(clip=f"{frame.scores['clip']:.3f}")
    return run


@contextmanager
def _interruptible(run: Run) -> Iterator[None]:
    """The first interrupt asks the run to stop, a second one is an ordinary KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def asked(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, before)
        run.stop()

    before = signal.signal(signal.SIGINT, asked)
    try:
        yield
    except KeyboardInterrupt:
        run.stop()
    finally:
        signal.signal(signal.SIGINT, before)


def _check_words(settings: Settings) -> None:
    """Raise ClipgenError for a camera, a palette or augmentations that cannot be understood."""
    Camera.parse(settings.camera)
    colours(settings.palette)
    check_augment([part.strip() for part in settings.augment.split(",") if part.strip()])


def _without(values: dict, *keys: str) -> dict:
    return {key: value for key, value in values.items() if key not in keys}


def _saved(settings: dict, source: str | Path, losses: int) -> Settings:
    """Settings as a journal or an exported file has them."""
    known = {knob.name for knob in fields(Settings)}
    values = {key: value for key, value in settings.items() if key in known}
    if "prompt" not in values:
        raise ClipgenError(f"{source}: its settings are damaged (there is no prompt); this run cannot be read")
    if settings.get("losses", 0) != losses:
        raise ClipgenError(
            f"{source}: this run followed {settings.get('losses', 0)} losses of its own, and {losses} are given; "
            "pass the same functions as losses=[...]"
        )
    if isinstance(values.get("size"), list):
        values["size"] = tuple(values["size"])
    return build(values.pop("prompt"), values)


def _versions(device: torch.device) -> dict:
    return {
        "versions": {"clipgen": clipgen.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": {"device": str(device), "platform": platform.platform(), "threads": torch.get_num_threads()},
    }
