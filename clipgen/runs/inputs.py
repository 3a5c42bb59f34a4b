"""What the settings of a run name: pictures to start from, to follow, to mask with; latents that were kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os.path import exists, isdir
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipgen.errors import ClipgenError
from clipgen.images import masks
from clipgen.images.palette import colour
from clipgen.images.reading import Pictorial, to_picture
from clipgen.optvis import starts
from clipgen.registry import STARTS
from clipgen.runs.journal import Journal
from clipgen.runs.prompts import parse
from clipgen.runs.saved import read_array
from clipgen.runs.settings import Settings, plain_settings

Value = str | int | float | tuple[int, int] | Pictorial | None  # of a setting, as a person gives it
Ask = str | Pictorial | Sequence[str | Pictorial]  # a prompt


class Inputs:
    """Pictures and kept latents by the names that the settings have for them, each loaded once.

    A run folder keeps copies of them, so that a run can go on when the originals are gone.
    """

    def __init__(self, given: Mapping[str, Any] | None = None):
        self.pictures: dict[str, Image.Image] = {}
        self.latents: dict[str, np.ndarray] = {}
        for name, value in (given or {}).items():
            if isinstance(value, np.ndarray):
                self.latents[name] = value
            else:
                self.pictures[name] = to_picture(value)

    @property
    def all(self) -> dict[str, Any]:
        return self.pictures | self.latents

    @contextmanager
    def tentative(self) -> Iterator[Inputs]:
        """Undo what is added within the context, if that ends with an error."""
        before = dict(self.pictures), dict(self.latents)
        try:
            yield self
        except BaseException:
            self.pictures, self.latents = before
            raise

    def named(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Settings with names for the pictures and latents in them, numbers as Python's; prompts become one line."""
        named = plain_settings(asked)
        if "prompt" in named and not isinstance(named["prompt"], str):
            prompt = named["prompt"]
            named["prompt"] = " | ".join(map(self.name, [prompt] if isinstance(prompt, Pictorial) else prompt))
        return named | {knob: self.name(named[knob]) for knob in ("init", "mask") if knob in named}

    def name(self, value: Any) -> str:
        """The name of a picture, or of a kept latent, that came without one: after its content."""
        if isinstance(value, (str, Path)):
            return str(value)
        data = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        mark = hashlib.sha256(data.tobytes() + str(data.shape).encode()).hexdigest()[:12]
        if not isinstance(value, Image.Image) and _kept(data):
            self.latents[f"tokens-{mark}.npy"] = data
            return f"tokens-{mark}.npy"
        self.pictures[f"picture-{mark}.png"] = to_picture(value)
        return f"picture-{mark}.png"

    def outside(self, asked: Mapping[str, Any]) -> list[str]:
        """Return the files and addresses that prompts, ``init`` and ``mask`` name and that are not here."""
        prompts = parse(asked.get("prompt", "x"), asked.get("negative", ""))
        names = [prompt.text for prompt in prompts if prompt.is_image]
        names += [masks.file_of(where) or "" for where in (asked.get("mask", ""), *(one.where for one in prompts))]
        init = asked.get("init", "")
        is_word = init in ("auto", *STARTS) or colour(init) is not None
        names += [init] if not is_word and (Path(init).suffix or "/" in init or exists(init)) else []
        return [name for name in dict.fromkeys(names) if name and name not in self.all]

    def check_inside(self, asked: Sequence[Mapping[str, Any]], source: str | Path) -> None:
        """Raise ClipgenError if settings or changes, as a file of somebody has them, name what is not here."""
        if names := list(dict.fromkeys(name for one in asked for name in self.outside(one))):
            raise ClipgenError(
                f"{source}: names {', '.join(map(repr, names))}, which it does not bring along; pass trust=True, or "
                "--trust, if that may be read from this machine or the network"
            )

    def load(self, settings: Settings) -> None:
        """Load the pictures of prompts and masks that are not here yet.

        Raises ClipgenError for what cannot be read or does not fit.
        """
        prompts = settings.prompts
        for prompt in prompts:
            if prompt.is_image:
                self._picture(prompt.text)
        for where in {settings.mask, *(prompt.where for prompt in prompts)} - {""}:
            if file := masks.file_of(where):
                self._picture(file)
            for width, height in settings.sizes:
                masks.load(where, (height, width), self.pictures)

    def start(self, settings: Settings) -> starts.Start:
        """What ``init`` means: a kept latent, a picture, a word, a colour, a file, a run folder.

        Raises ClipgenError for what is none of these or cannot be read.
        """
        name, path = settings.init, Path(settings.init)
        if name not in self.all and name not in STARTS and (plain := colour(name)) is not None:
            return starts.Colour(plain)
        if name in self.pictures or name in self.latents:
            pass
        elif name in STARTS:
            return STARTS[name]()
        elif isdir(name):  # of a name that is too long for a path, too
            journal = Journal.open(path)
            if not journal.steps:
                raise ClipgenError(f"init={name!r}: this run has no frames; choose another, or resume it")
            self.pictures[name] = journal.frame(journal.steps[-1])
        elif path.suffix == ".npy":
            self.latents[name] = _read(path)
        elif path.suffix or "/" in name:
            self._picture(name)
        else:
            raise ClipgenError(
                f"init={name!r}: no such start, colour or file; use auto, {', '.join(STARTS)}, "
                "a colour, or the path of an image, of tokens or of a run folder"
            )
        if name in self.latents:
            data = self.latents[name]
            return starts.Saved(torch.from_numpy(data if data.dtype.kind == "f" else data.astype(np.int64)))
        return starts.Picture(self.pictures[name], settings.fit)

    def _picture(self, name: str) -> None:
        if name not in self.pictures:
            self.pictures[name] = to_picture(name)


def _kept(data: np.ndarray) -> bool:
    """Whether numbers are what a journal keeps of a latent: tokens (h, w), or one latent in 16 bits."""
    tokens = data.ndim == 2 and data.dtype.kind in "iu" and data.dtype != np.uint8
    return data.size > 0 and (tokens or (data.dtype == np.float16 and len(data) == 1))


def _read(file: Path) -> np.ndarray:
    try:
        data = read_array(file)
    except ValueError as error:
        raise ClipgenError(f"init={str(file)!r}: cannot be read as tokens ({error}); use numpy.save") from error
    if not (_kept(data) or (data.dtype == np.uint8 and data.ndim == 2)):
        raise ClipgenError(
            f"init={str(file)!r}: tokens are a whole number for every cell, (h, w); a latent is (1, ...) in float16"
        )
    return data
