"""The loop: a latent follows the gradient of the CLIP score, one frame after another."""

from __future__ import annotations

import io
import math
import platform
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

import clipgen
from clipgen import device as devices
from clipgen import objectives
from clipgen.cutouts import cutouts
from clipgen.errors import ClipgenError
from clipgen.export import enlarge, export
from clipgen.generators import load_generator
from clipgen.images import to_image, to_tensor
from clipgen.journal import Journal
from clipgen.mini.collage import collage
from clipgen.perceptors import embed, load_perceptors
from clipgen.prompts import parse, slug


def _knob(default, text: str):
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Settings:
    """Every knob of a run, under the one name that it has here, on the command line and in the journal."""

    prompt: str
    steps: int = _knob(120, "optimisation steps")
    seed: int = _knob(0, "same seed, same machine: same picture")
    size: tuple[int, int] | None = _knob(None, "width and height in pixels; by default what the generator draws best")
    generator: str = _knob("mini-vqgan", "the decoder whose latent is optimised")
    perceptor: str = _knob("mini", "the CLIP that scores the picture; several as 'a | b:0.5'")
    relax: str = _knob("straight-through", "how tokens get a gradient: straight-through, or gumbel (dVAE, GumbelVQ)")
    init: str = _knob(
        "auto", "where to start: random (codes), collage (of known drawings; auto with the mini CLIP) or an image file"
    )
    near: float = _knob(1.0, "how strongly the picture is drawn to the collage or the image it started from")
    cutouts: int = _knob(16, "views that CLIP is shown at every step")
    lr: float = _knob(0.15, "learning rate, in deviations of the codebook a step")
    tv: float = _knob(0.0, "weight of the total variation: smoother pictures")
    ema: float = _knob(0.8, "how much of the average latent each step keeps: the average is what is shown")
    every: int = _knob(3, "steps from frame to frame")
    device: str = _knob("auto", "auto, cpu, cuda or mps")

    def check(self) -> None:
        """Raise ClipgenError for the first value that cannot work."""
        parse(self.prompt)
        for name in ("steps", "cutouts", "every"):
            if getattr(self, name) < 1:
                raise ClipgenError(f"{name}={getattr(self, name)}: has to be a whole number of at least 1")
        for name in ("near", "tv"):
            if not (0 <= getattr(self, name) < math.inf):
                raise ClipgenError(f"{name}={getattr(self, name)}: has to be a number from 0 up")
        if not 0 < self.lr < math.inf:
            raise ClipgenError(f"lr={self.lr}: has to be a number above 0; {Settings.lr} is the default")
        if not 0 <= self.ema < 1:
            raise ClipgenError(f"ema={self.ema}: has to be from 0 up to below 1; 0 shows the latent itself")
        if self.init not in ("auto", "random", "collage") and not Path(self.init).is_file():
            raise ClipgenError(f"init={self.init!r}: no such file; use auto, random, collage or the path of an image")


@dataclass(frozen=True)
class Frame:
    """A moment of a run: what ``stream`` yields."""

    step: int
    image: Image.Image
    scores: dict[str, float]  # clip: cosine to the prompts, loss, seconds since the start
    seconds: float

    def _repr_png_(self) -> bytes:
        return _png(self.image)


class Run:
    """One generation, as an iterator of frames that keeps everything it shows in its journal.

    ``Run("a cat:2 | dog:-0.5", steps=200, seed=1)``; the keyword arguments are the fields of Settings, and
    ``folder`` is where run folders are made. Nothing is computed before the first frame is asked for. Raises
    ClipgenError for what a person can mend.
    """

    def __init__(self, prompt: str, *, folder: str | Path = "clipgen-runs", **knobs):
        unknown = set(knobs) - {f.name for f in fields(Settings)}
        if unknown:
            known = ", ".join(f.name for f in fields(Settings))
            raise ClipgenError(f"{sorted(unknown)[0]}=...: there is no such setting; there are {known}")
        settings = Settings(prompt, **knobs)
        settings.check()
        self.device = devices.pick(settings.device)
        self.prompts = parse(prompt)
        self.generator = load_generator(settings.generator, self.device, settings.relax)
        width, height = settings.size or (self.generator.size, self.generator.size)
        self.generator.check_size((width, height))
        self.perceptors = load_perceptors(settings.perceptor, self.device)
        # The collage is made of emoji and judged best by the CLIP that was trained on them.
        auto = "collage" if self.perceptors[0][0].name == "mini" else "random"
        init = auto if settings.init == "auto" else settings.init
        self.settings = replace(settings, size=(width, height), init=init)
        self.journal = Journal.create(folder, slug(prompt), asdict(self.settings) | _versions(self.device))
        self.step = 0
        self._stopped = threading.Event()
        self._going = threading.Event()
        self._going.set()
        self._frames: Iterator[Frame] | None = None

    # --- control, from any thread ---------------------------------------------------------------------

    def pause(self) -> None:
        """Hold before the next step."""
        self._going.clear()

    def resume(self) -> None:
        """Go on after ``pause``."""
        self._going.set()

    def stop(self) -> None:
        """End after the current step; everything made so far is kept."""
        self._stopped.set()
        self._going.set()

    @property
    def finished(self) -> bool:
        """Whether every step was made."""
        return self.step >= self.settings.steps

    # --- results --------------------------------------------------------------------------------------

    @property
    def image(self) -> Image.Image:
        """The newest frame."""
        steps = self.journal.steps
        if not steps:
            raise ClipgenError("this run has no frames yet: iterate over it, or use clipgen.generate")
        return self.journal.frame(steps[-1])

    def export(self, file: str | Path, fps: float = 15, hold: float = 2.0) -> Path:
        """Write the film, or the picture, by suffix: .gif .mp4 .webp .png. See ``clipgen.export.export``."""
        return export(self.journal.frames(), file, self.journal.settings, fps, hold)

    def _repr_png_(self) -> bytes | None:
        return _png(self.image) if self.journal.steps else None

    # --- the loop -------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Frame]:
        if self._frames is None:
            self._frames = self._loop()
        return self._frames

    def _start(self, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """The first latent, and the latent to stay near to."""
        width, height = self.settings.size  # type: ignore[misc]
        latent = self.generator.random(1, height, width, rng)
        if self.settings.init == "random":
            return latent, None
        if self.settings.init == "collage":
            picture = collage(self.perceptors[0][0], self.prompts, (height, width)).to(self.device)
        else:
            picture = to_tensor(self.settings.init, (width, height)).to(self.device)
            latent = self.generator.encode(picture)
        return latent, self.generator.expected(self.generator.encode(picture))

    def _loop(self) -> Iterator[Frame]:
        s, rng = self.settings, torch.Generator().manual_seed(self.settings.seed)
        texts = [p.text for p in self.prompts]
        views = [(perceptor, share, embed(perceptor, texts)) for perceptor, share in self.perceptors]
        weights = torch.tensor([p.weight for p in self.prompts], device=self.device)
        latent, anchor = self._start(rng)
        shown = latent.clone()
        latent.requires_grad_()
        optimiser = torch.optim.Adam([latent], betas=(0.9, 0.99))
        began = time.monotonic()
        while self.step < s.steps and not self._stopped.is_set():
            self._going.wait()
            progress = self.step / s.steps
            fading = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress))
            optimiser.param_groups[0]["lr"] = s.lr * self.generator.pace * fading
            image = self.generator.relaxed(latent, progress, rng)
            loss, score = torch.zeros((), device=self.device), 0.0
            for perceptor, share, targets in views:
                seen = perceptor.encode_image(cutouts(image, s.cutouts, perceptor.size, rng))
                loss = loss + share * objectives.follow(seen, targets, weights)
                score += share * objectives.clip_score(seen, targets, weights)
            if s.tv:
                loss = loss + s.tv * objectives.total_variation(image)
            if anchor is not None and s.near:
                away = objectives.distance(self.generator.expected(latent), anchor)
                loss = loss + s.near * away / self.generator.unit**2
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            self.generator.constrain(latent)
            shown.lerp_(latent.detach(), 1 - s.ema)
            self.step += 1
            if self.step == 1 or self.step % s.every == 0 or self.step == s.steps or self._stopped.is_set():
                with torch.no_grad():
                    picture = to_image(self.generator.decode(shown if self.step > 1 else latent)[0])
                scores = {"clip": score, "loss": float(loss.detach())}
                self.journal.add(self.step, picture, scores)
                yield Frame(self.step, picture, scores, time.monotonic() - began)


def stream(prompt: str, **knobs) -> Iterator[Frame]:
    """Frames of a new run, as they are made. Arguments as for Run."""
    return iter(Run(prompt, **knobs))


def generate(prompt: str, *, progress: bool = True, **knobs) -> Run:
    """Make a picture with a progress bar; returns the Run. Arguments as for Run.

    An interrupt (Ctrl-C, a notebook's stop button) ends the run after what it has kept; the run is returned
    with ``finished`` False.
    """
    from tqdm.auto import tqdm

    run = Run(prompt, **knobs)
    with tqdm(total=run.settings.steps, disable=not progress, unit="step", dynamic_ncols=True) as bar:
        try:
            for frame in run:
                bar.update(frame.step - bar.n)
                bar.set_postfix(clip=f"{frame.scores['clip']:.3f}")
        except KeyboardInterrupt:
            run.stop()
    return run


def _versions(device: torch.device) -> dict:
    return {
        "versions": {"clipgen": clipgen.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": {"device": str(device), "platform": platform.platform(), "threads": torch.get_num_threads()},
    }


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    enlarge(image).save(out, "PNG")
    return out.getvalue()
