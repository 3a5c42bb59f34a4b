"""The loop: a latent follows the gradient of the CLIP score, one frame after another."""

from __future__ import annotations

import io
import math
import platform
import queue
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageColor
from torch import Tensor
from torch.nn import functional as F

import clipgen
from clipgen import device as devices
from clipgen import masks, objectives, starts
from clipgen.camera import Camera
from clipgen.cutouts import check_augment
from clipgen.errors import ClipgenError
from clipgen.export import enlarge, export, settings_of
from clipgen.generators import Generator, load_generator
from clipgen.guidance import Guidance
from clipgen.images import to_image, to_tensor
from clipgen.inputs import Inputs, Pictorial
from clipgen.journal import Journal
from clipgen.mini.collage import collage
from clipgen.perceptors import Perceptor, load_perceptors
from clipgen.prompts import parse, slug, strengths
from clipgen.settings import Settings, build, optimizer

Loss = Callable[[Tensor, Tensor, int], Tensor]  # (image (1, 3, H, W), latent, step) to a scalar
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
        return _png(self.image)


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
    def resume(cls, folder: str | Path, losses: Sequence[Loss] = ()) -> Run:
        """Go on with an interrupted run from its last saved step; its frames are those that it would have had."""
        run = cls.__new__(cls)
        journal = Journal.open(folder)
        run._begin(_saved(journal.settings, folder), Inputs(journal.inputs()), losses)
        run.journal = journal
        run._state = journal.load_state()
        run.step = run._state[0] if run._state else 0
        run._changes = journal.changes
        s = run.settings
        journal.keep_until(run.step, {1, s.steps, *range(s.every, s.steps, s.every)})
        return run

    @classmethod
    def replay(cls, source: str | Path, *, folder: str | Path = "clipgen-runs", losses: Sequence[Loss] = ()) -> Run:
        """Make a run again, from its folder or from a PNG, GIF or WebP that it exported; steering included."""
        run, old = cls.__new__(cls), Path(source)
        journal = Journal.open(old) if old.is_dir() else None
        saved = journal.settings if journal else settings_of(old)
        run._begin(_saved(saved, source), Inputs(journal.inputs() if journal else {}), losses)
        changes = journal.changes if journal else saved.get("changes", [])
        for change in changes if isinstance(changes, list) else [None]:
            if not isinstance(change, dict) or not isinstance(change.get("step"), int):
                raise ClipgenError(f"{source}: what was changed on the way is damaged; this run cannot be replayed")
            build(run.settings.prompt, asdict(run.settings) | _without(change, "step", "prompt"))
        run._record(folder)
        run._changes = changes
        for change in changes:
            run.journal.change(change["step"], _without(change, "step"))
        return run

    def branch(self, step: int, *, folder: str | Path = "clipgen-runs", **knobs: Any) -> Run:
        """A new run that starts from the frame of ``step``, with the settings of this one and other ``knobs``."""
        if step not in self.journal.steps:
            raise ClipgenError(f"step={step}: there is no such frame; there are {self.journal.steps}")
        asked = asdict(self.settings) | {"near": 0.0} | knobs | {"init": self.journal.tokens(step)}
        return Run(asked.pop("prompt"), folder=folder, losses=self.losses, like=self, **asked)

    def _record(self, folder: str | Path) -> None:
        """Make the run folder."""
        notes = asdict(self.settings) | _versions(self.device)
        self.journal = Journal.create(folder, slug(self.settings.prompt), notes)
        for name, value in self._inputs.all.items():
            self.journal.keep_input(name, value)

    settings: Settings
    generator: Generator
    perceptors: list[tuple[Perceptor, float]]

    def _begin(self, settings: Settings, inputs: Inputs, losses: Sequence[Loss], like: Run | None = None) -> None:
        """Everything that can fail for a reason that a person can mend, before anything is written."""
        self.losses = tuple(losses)
        self.device = devices.pick(settings.device)
        self._inputs = inputs
        self.prompts = parse(settings.prompt)
        check_augment([part.strip() for part in settings.augment.split(",") if part.strip()])
        self._camera = Camera.parse(settings.camera)
        self._palette = _colours(settings.palette)
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
        self._size = height, width
        self._inputs.load(self.settings, self._size)
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
        knobs = self._inputs.named(knobs)
        asked = asdict(self.settings) | knobs
        wanted = build(asked.pop("prompt"), asked)
        Camera.parse(wanted.camera), _colours(wanted.palette)
        check_augment([part.strip() for part in wanted.augment.split(",") if part.strip()])
        for name, value in self._inputs.load(wanted, self._size).items():
            self.journal.keep_input(name, value)
        self._asked.put(knobs)

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
        settings = self.journal.settings | ({"changes": c} if (c := self.journal.changes) else {})
        return export(self.journal.frames(), file, settings, **options)

    def _repr_png_(self) -> bytes | None:
        return _png(self.image) if self._newest or self.journal.steps else None

    def _check_tokens(self) -> None:
        tokens = self._inputs.tokens.get(self.settings.init)
        shape, codes = tuple(side // self.generator.factor for side in self._size), len(self.generator.net.codebook)
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
        self._start()
        began = time.monotonic()
        while self.step < self.settings.steps and not self._stopped.is_set():
            self._going.wait()
            self._steer()
            loss, score = self._advance()
            self.step += 1
            s = self.settings
            due = self.step == 1 or self.step % s.every == 0 or self.step == s.steps
            if due or self._stopped.is_set():
                with torch.no_grad():
                    # The very first frame shows where it starts, and not a mean.
                    shown = self._shown if self.step > 1 else self._latent.detach()
                    picture = self._masked(self.generator.decode(shown))
                frame = Frame(self.step, to_image(picture[0]), {"clip": score, "loss": loss}, time.monotonic() - began)
                if self._camera and self.step < s.steps:
                    self._move(self._camera.move(picture, self.step))
                self._keep(frame, self.generator.tokens(shown)[0])
                yield frame

    def _start(self) -> None:
        """The first latent, what to stay near to, and the optimiser; or all of it from the saved state."""
        s, (height, width) = self.settings, self._size
        self._rng = torch.Generator().manual_seed(s.seed)
        self._passes, self._slower, self._trouble = s.passes, 1.0, 0
        latent = self.generator.random(1, height, width, self._rng)
        goal = None
        if s.init in self._inputs.tokens:
            tokens = torch.from_numpy(self._inputs.tokens[s.init].astype(np.int64))[None]
            latent = self.generator.place(tokens.to(self.device))
        elif s.init in self._inputs.pictures:
            goal = to_tensor(self._inputs.pictures[s.init], (width, height), s.fit).to(self.device)
            latent = self.generator.encode(goal)
        elif (picture := starts.start(s.init, self._size, self._rng)) is not None:
            latent = self.generator.encode(picture.to(self.device))
        self._goal = goal
        self._base = goal if goal is not None else self.generator.decode(latent).detach()
        self._follow()
        self._latent, self._shown = latent.clone().requires_grad_(), latent.clone()
        kind = optimizer(s.optimizer)
        # 0.99: the prompt's views change with every step, and a long memory of their gradients lags behind.
        options: dict[str, Any] = {"betas": (0.9, 0.99)} if s.optimizer in ("Adam", "AdamW") else {}
        self._optimizer = kind([self._latent], lr=s.lr, **options)  # type: ignore[call-arg]
        if self._state:
            self._restore(*self._state)

    def _follow(self) -> None:
        """Whatever depends on settings that can be changed."""
        s = self.settings
        self.prompts = parse(s.prompt)
        self._guidance = Guidance(self.prompts, self.perceptors, self._size, self._inputs.pictures, self.device)
        self._mask = masks.load(s.mask, self._size, self._inputs.pictures).to(self.device) if s.mask else None
        self._camera, self._palette = Camera.parse(s.camera), _colours(s.palette)
        self._anchors = self._draw_anchors() if s.near else []

    def _draw_anchors(self) -> list[tuple[list[int], Tensor, Tensor]]:
        """What to stay near to: (prompts that it stands for, picture, latent)."""
        if self._goal is not None:
            goals = [(list(range(len(self.prompts))), self._goal)]
        elif self.settings.init == "collage":
            # A story has a collage for each of its spans.
            spans = dict.fromkeys(p.span for p in self.prompts if p.weight > 0 and not p.is_image)
            groups = [[i for i, p in enumerate(self.prompts) if p.span == span and not p.is_image] for span in spans]
            mini = self.perceptors[0][0]
            goals = [(which, collage(mini, [self.prompts[i] for i in which], self._size)) for which in groups]
        else:
            return []
        goals = [(which, picture.to(self.device)) for which, picture in goals]
        return [(w, p, self.generator.expected(self.generator.encode(p))) for w, p in goals]

    def _steer(self) -> None:
        """Apply what was asked for since the last step, or, going on or replaying, what was asked for then."""
        due = [change for change in self._changes if change["step"] == self.step]
        self._changes = [change for change in self._changes if change["step"] > self.step]
        while not self._asked.empty():
            knobs = self._asked.get()
            with suppress(OSError):  # a full disk: said once, when frames cannot be kept
                self.journal.change(self.step, knobs)
            due.append(knobs)
        for knobs in due:
            self.settings = replace(self.settings, **_without(knobs, "step"))
            self._follow()

    def _masked(self, image: Tensor) -> Tensor:
        return image if self._mask is None else masks.blend(image, self._base, self._mask)

    def _advance(self) -> tuple[float, float]:
        """One step; returns (loss, CLIP score)."""
        s, progress = self.settings, self.step / self.settings.steps
        fall = {"cosine": 0.5 * (1 + math.cos(math.pi * progress)), "linear": 1 - progress, "constant": 1.0}[s.schedule]
        self._optimizer.param_groups[0]["lr"] = s.lr * self.generator.pace * (0.1 + 0.9 * fall) * self._slower
        self._optimizer.zero_grad()
        image = self._masked(self.generator.relaxed(self._latent, progress, self._rng))
        leaf = image.detach().requires_grad_()
        loss, score = self._look(self._guidance.follow(leaf, self.step, s, self._rng), leaf)
        extra = self._extra(leaf, progress)
        if extra is not None:
            extra.backward()
            loss += float(extra.detach())
        if image.requires_grad and leaf.grad is not None:
            image.backward(leaf.grad)
        gradient = self._latent.grad
        if not math.isfinite(loss) or (gradient is not None and not gradient.isfinite().all()):
            self._stumble()
            return loss, score
        self._trouble = 0
        if gradient is not None:
            self._optimizer.step()
        self.generator.constrain(self._latent)
        self._shown.lerp_(self._latent.detach(), 1 - s.ema)
        return loss, score

    def _look(self, look: Callable[[int], tuple[float, float]], leaf: Tensor) -> tuple[float, float]:
        """CLIP's gradient on the image, in as many passes as the memory asks for."""
        while True:
            try:
                return look(self._passes)
            except RuntimeError as error:
                short = isinstance(error, torch.cuda.OutOfMemoryError) or "alloc" in str(error).lower()
                if not short:
                    raise
                if self._passes >= self.settings.cutouts:
                    raise ClipgenError(
                        "out of memory with one cutout at a time; lower size, or choose a smaller perceptor"
                    ) from error
            leaf.grad = None
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            if self._passes == self.settings.passes:
                warnings.warn("memory is short: the cutouts go through CLIP in several passes now", stacklevel=2)
            self._passes = min(2 * self._passes, self.settings.cutouts)

    def _extra(self, image: Tensor, progress: float) -> Tensor | None:
        """All that is asked of the picture beside its likeness to the prompts."""
        s, terms = self.settings, []
        for name, regulariser in objectives.REGULARISERS.items():
            if weight := getattr(s, name):
                terms.append(weight * regulariser(image))
        if self._palette is not None:
            terms.append(s.palette_weight * objectives.palette(image, self._palette.to(self.device)))
        near = s.near * (1 - s.near_fade * progress)
        if near and self._anchors:
            much = strengths(self.prompts, self.step)
            shares = [sum(max(0.0, much[i]) for i in which) for which, *_ in self._anchors]
            for share, (_, picture, latent) in zip(shares, self._anchors, strict=True):
                if share:
                    terms.append(near * share / sum(shares) * self._away(image, picture, latent))
        terms += [loss(image, self._latent, self.step) for loss in self.losses]
        return torch.stack([term.reshape(()) for term in terms]).sum() if terms else None

    def _away(self, image: Tensor, picture: Tensor, latent: Tensor) -> Tensor:
        if self.settings.near_space == "latent":
            return objectives.distance(self.generator.expected(self._latent), latent) / self.generator.unit**2
        if self.settings.near_space == "pixels":
            return 10 * objectives.distance(image, picture)
        perceptor = self.perceptors[0][0]
        seen, wanted = (
            perceptor.encode_image(F.interpolate(x, (perceptor.size,) * 2, mode="bilinear", antialias=True))
            for x in (image, picture)
        )
        return objectives.spherical_distance(seen, wanted.detach()).mean()

    def _stumble(self) -> None:
        """A loss that is no number: skip the step, go slower, and give up the third time in a row."""
        self._trouble += 1
        self._slower /= 2
        if self._trouble == 3:
            warnings.warn("the loss was not finite three times in a row; stopped at the last good frame", stacklevel=2)
            self.stop()
        else:
            warnings.warn("the loss is not finite: this step is skipped, and the learning rate halved", stacklevel=2)

    def _move(self, picture: Tensor) -> None:
        """Let the film go on from a moved picture."""
        latent = self.generator.encode(picture)
        self._latent.data.copy_(latent)
        self._shown = latent.clone()

    # --- what is kept ---------------------------------------------------------------------------------

    def _keep(self, frame: Frame, tokens: Tensor) -> None:
        self._newest = frame
        state = self._optimizer.state_dict()["state"].get(0, {})
        tensors = {"latent": self._latent, "shown": self._shown, "base": self._base, "rng": self._rng.get_state()}
        tensors |= {f"optimizer.{k}": v for k, v in state.items() if isinstance(v, Tensor)}
        notes: dict[str, Any] = {"passes": self._passes, "slower": self._slower, "trouble": self._trouble}
        notes["optimizer"] = {k: v for k, v in state.items() if isinstance(v, (int, float))}
        try:
            self.journal.add(frame.step, frame.image, tokens, frame.scores)
            self.journal.save_state(self.step, tensors, notes)
        except OSError as error:
            if not self._unsaved:
                warnings.warn(
                    f"{self.journal.folder}: frames cannot be saved any more ({error.strerror}); the run goes on, and "
                    "its last picture is in run.image",
                    stacklevel=2,
                )
            self._unsaved = True

    _unsaved = False

    def _restore(self, step: int, tensors: dict[str, Tensor], notes: dict) -> None:
        self._rng.set_state(tensors.pop("rng"))
        self._latent.data.copy_(tensors.pop("latent"))
        self._shown, self._base = (tensors.pop(key).to(self.device) for key in ("shown", "base"))
        self._passes, self._slower, self._trouble = notes["passes"], notes["slower"], notes["trouble"]
        state = {key.removeprefix("optimizer."): value for key, value in tensors.items()} | notes["optimizer"]
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": {0: state} if state else {}, "param_groups": groups})
        past = [change for change in self._changes if change["step"] < step]
        for change in past:
            self.settings = replace(self.settings, **_without(change, "step"))
        if past:
            self._follow()


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


def _without(values: dict, *keys: str) -> dict:
    return {key: value for key, value in values.items() if key not in keys}


def _saved(settings: dict, source: str | Path) -> Settings:
    """Settings as a journal or an exported file has them."""
    known = {knob.name for knob in fields(Settings)}
    values = {key: value for key, value in settings.items() if key in known}
    if "prompt" not in values:
        raise ClipgenError(f"{source}: its settings are damaged (there is no prompt); this run cannot be read")
    if isinstance(values.get("size"), list):
        values["size"] = tuple(values["size"])
    return build(values.pop("prompt"), values)


def _colours(text: str) -> Tensor | None:
    """'navy, #ffcc00' to (K, 3) in [0, 1]."""
    try:
        rows = [ImageColor.getrgb(part.strip())[:3] for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ClipgenError(f"palette={text!r}: {error}; write colours as 'navy, #ffcc00'") from error
    return torch.tensor(rows) / 255 if rows else None


def _versions(device: torch.device) -> dict:
    return {
        "versions": {"clipgen": clipgen.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": {"device": str(device), "platform": platform.platform(), "threads": torch.get_num_threads()},
    }


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    enlarge(image).save(out, "PNG")
    return out.getvalue()
