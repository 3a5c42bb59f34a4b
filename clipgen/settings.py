"""Every knob of a run, under the one name that it has in Python, on the command line and in the journal."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from clipgen.errors import ClipgenError
from clipgen.prompts import parse


def _knob(default: Any, text: str, low: float = -math.inf, high: float = math.inf, choices: tuple[str, ...] = ()):
    """A setting with its help, its bounds (both included) and its choices."""
    return field(default=default, metadata={"help": text, "low": low, "high": high, "choices": choices})


@dataclass(frozen=True)
class Settings:
    """What a run is asked for. Raises ClipgenError, when ``check`` is called, for what cannot work."""

    prompt: str
    quality: str = _knob("normal", "draft, normal or best: steps, cutouts, size", choices=("draft", "normal", "best"))
    steps: int = _knob(120, "optimisation steps", 1, 10**6)
    seed: int = _knob(0, "same seed, same machine: same picture", 0, 2**63 - 1)
    size: tuple[int, int] | None = _knob(None, "width and height in pixels; by default what the generator draws best")
    generator: str = _knob("mini-vqgan", "the decoder whose latent is optimised")
    perceptor: str = _knob("mini", "the CLIP that scores the picture; several as 'a | b:0.5'")
    relax: str = _knob("straight-through", "how tokens get a gradient: straight-through, or gumbel (dVAE, GumbelVQ)")
    init: str = _knob(
        "auto",
        "where to start: random (codes), collage (of known drawings; auto with the mini CLIP), dalle (a transformer's "
        "best of 16), dalle-mini, dalle-mega, noise, perlin, gradient, a colour, an image, a run folder (its last "
        "frame), tokens as .npy",
    )
    fit: str = _knob("crop", "how pictures are brought to size", choices=("crop", "letterbox", "stretch"))
    near: float = _knob(1.0, "how strongly the picture is drawn to the collage, drawing or image it started from", 0)
    near_space: str = _knob("latent", "where nearness is measured", choices=("latent", "pixels", "clip"))
    near_fade: float = _knob(0.0, "0: as strong to the end; 1: fading to nothing by the end", 0, 1)
    mask: str = _knob("", "paint only there: top, bottom, left, right, x,y,w,h, not ..., or an image (white: paint)")
    distance: str = _knob("spherical", "how CLIP's embeddings are compared", choices=("spherical", "cosine"))
    tv: float = _knob(0.0, "weight of the total variation: smoother pictures", 0)
    saturation: float = _knob(0.0, "weight of more colour")
    symmetry: float = _knob(0.0, "weight of left-right symmetry", 0)
    sharpness: float = _knob(0.0, "weight of more contrast in the small")
    palette: str = _knob("", "colours to keep to: 'navy, #ffcc00, white'")
    palette_weight: float = _knob(1.0, "how strongly the palette is kept to", 0)
    cutouts: int = _knob(16, "views that CLIP is shown at every step", 1, 10**4)
    cut_min: float = _knob(0.65, "smallest side of a view, as a share of the shorter side", 0.05, 2)
    cut_max: float = _knob(1.05, "largest side of a view", 0.05, 2)
    augment: str = _knob("flip,affine,noise", "of flip, affine, perspective, colour, noise, erase, blur")
    passes: int = _knob(1, "cutouts go through CLIP in so many parts: less memory, same picture", 1, 10**4)
    optimizer: str = _knob("Adam", "a class of torch.optim")
    lr: float = _knob(0.15, "learning rate, in deviations of the codebook a step", 1e-12)
    schedule: str = _knob(
        "auto", "how the learning rate falls (auto: constant with a camera, else cosine)",
        choices=("auto", "cosine", "linear", "constant"),
    )  # fmt: skip
    ema: float = _knob(0.8, "how much of the average latent each step keeps: the average is what is shown", 0, 0.99999)
    camera: str = _knob("", "moves from frame to frame: 'zoom=1.02, x=0.01, angle=1@50-100'")
    every: int = _knob(3, "steps from frame to frame", 1, 10**6)
    device: str = _knob("auto", "auto, cpu, cuda or mps")

    def check(self) -> None:
        """Raise ClipgenError for the first value that cannot work, whatever the models."""
        for knob in fields(self):
            value, rules = getattr(self, knob.name), knob.metadata
            if not rules:
                continue
            kind = type(knob.default)
            if knob.name != "size" and not isinstance(value, (int, float) if kind is float else kind):
                raise ClipgenError(f"{knob.name}={value!r}: has to be a {kind.__name__}, such as {knob.default!r}")
            if rules["choices"] and value not in rules["choices"]:
                raise ClipgenError(f"{knob.name}={value!r}: choose one of: {', '.join(rules['choices'])}")
            if kind in (int, float) and not (math.isfinite(value) and rules["low"] <= value <= rules["high"]):
                high = "up" if rules["high"] == math.inf else f"to {rules['high']:,}"
                range_ = "finite" if rules["low"] == -math.inf else f"a number from {rules['low']:g} {high}"
                raise ClipgenError(f"{knob.name}={value}: has to be {range_}; {knob.default} is the default")
        if self.cut_min > self.cut_max:
            raise ClipgenError(f"cut_min={self.cut_min}: is above cut_max={self.cut_max}; swap them")
        parse(self.prompt)
        optimizer(self.optimizer)


def optimizer(name: str) -> type[torch.optim.Optimizer]:
    """A class of torch.optim by name. Raises ClipgenError if it cannot drive a latent alone."""
    found: Any = getattr(torch.optim, name, None)
    known = sorted(k for k, v in vars(torch.optim).items() if _usable(v))
    if not _usable(found):
        raise ClipgenError(f"optimizer={name!r}: choose one of: {', '.join(known)}")
    return found


def _usable(kind: Any) -> bool:
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)) or kind is torch.optim.Optimizer:
        return False
    # These want a closure, sparse gradients or matrices.
    return kind.__name__ not in ("LBFGS", "SparseAdam", "Muon")


PRESETS: Mapping[str, Mapping[str, float]] = {
    "draft": {"steps": 60, "cutouts": 8},
    "normal": {"steps": 120, "cutouts": 16},
    "best": {"steps": 300, "cutouts": 32},
}
"""What ``quality`` stands for; on a GPU ``best`` also doubles the size (see ``clipgen.run``)."""


def build(prompt: str, knobs: Mapping[str, Any]) -> Settings:
    """Settings from what was asked for, on top of the preset of its quality.

    Raises ClipgenError for an unknown knob, with the nearest known name, and for values that cannot work.
    """
    known = [knob.name for knob in fields(Settings)]
    for name in knobs:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known[1:])}"
            raise ClipgenError(f"{name}=...: there is no such setting; {hint}")
    preset = PRESETS.get(str(knobs.get("quality", "normal")), {})
    settings = Settings(prompt, **(dict(preset) | dict(knobs)))  # type: ignore[arg-type]
    settings.check()
    return settings
