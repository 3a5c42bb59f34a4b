"""What the settings of a run name: pictures to start from, to follow, to mask with; token numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from clipgen import masks, starts
from clipgen.errors import ClipgenError
from clipgen.images import to_picture
from clipgen.journal import Journal
from clipgen.prompts import parse
from clipgen.settings import Settings

# Starts that are made for the prompt.
MADE = ("auto", "random", "collage", "dalle", "dalle-mini", "dalle-mega")
Pictorial = Image.Image | np.ndarray | Tensor


class Inputs:
    """Pictures and tokens by the names that the settings have for them, each loaded once.

    A run folder keeps copies of them, so that a run can go on when the originals are gone.
    """

    def __init__(self, given: Mapping[str, Any] | None = None):
        self.pictures: dict[str, Image.Image] = {}
        self.tokens: dict[str, np.ndarray] = {}
        for name, value in (given or {}).items():
            if name.endswith(".npy"):
                self.tokens[name] = np.asarray(value)
            else:
                self.pictures[name] = to_picture(value)

    @property
    def all(self) -> dict[str, Any]:
        return self.pictures | self.tokens

    def named(self, knobs: Mapping[str, Any]) -> dict[str, Any]:
        """Settings with names for the pictures and tokens in them; a list of prompts becomes one line."""
        named = dict(knobs)
        if "prompt" in named and not isinstance(named["prompt"], str):
            prompt = named["prompt"]
            named["prompt"] = " | ".join(map(self.name, [prompt] if isinstance(prompt, Pictorial) else prompt))
        return named | {knob: self.name(named[knob]) for knob in ("init", "mask") if knob in named}

    def name(self, value: str | Pictorial) -> str:
        """The name of a picture, or of token numbers, that came without one: after its content."""
        if isinstance(value, str):
            return value
        data = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        mark = hashlib.sha256(data.tobytes() + str(data.shape).encode()).hexdigest()[:12]
        if not isinstance(value, Image.Image) and data.ndim == 2 and data.dtype.kind in "iu" and data.dtype != np.uint8:
            self.tokens[f"tokens-{mark}.npy"] = data
            return f"tokens-{mark}.npy"
        self.pictures[f"picture-{mark}.png"] = to_picture(value)
        return f"picture-{mark}.png"

    def load(self, settings: Settings, size: tuple[int, int]) -> None:
        """Load what the settings name and is not here yet. ``size`` is (H, W).

        Raises ClipgenError for what cannot be read or does not fit.
        """
        prompts = parse(settings.prompt)
        for prompt in prompts:
            if prompt.is_image:
                self._picture(prompt.text)
        if not (settings.init in MADE or starts.knows(settings.init)):
            self._start(settings.init)
        for where in {settings.mask, *(prompt.where for prompt in prompts)} - {""}:
            if file := masks.file_of(where):
                self._picture(file)
            masks.load(where, size, self.pictures)

    def _picture(self, name: str) -> None:
        if name not in self.pictures:
            self.pictures[name] = to_picture(name)

    def _start(self, name: str) -> None:
        path = Path(name)
        if name in self.pictures or name in self.tokens:
            return
        if path.is_dir():
            journal = Journal.open(path)
            if not journal.steps:
                raise ClipgenError(f"init={name!r}: this run has no frames; choose another, or resume it")
            self.pictures[name] = journal.frame(journal.steps[-1])
        elif path.suffix == ".npy":
            self.tokens[name] = _read_tokens(path)
        elif path.suffix or "/" in name:
            self._picture(name)
        else:
            raise ClipgenError(
                f"init={name!r}: no such start, colour or file; use {', '.join((*MADE, *starts.STARTS))}, "
                "a colour, or the path of an image, of tokens or of a run folder"
            )


def _read_tokens(file: Path) -> np.ndarray:
    try:
        tokens = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ClipgenError(f"init={str(file)!r}: cannot be read as tokens ({error}); use numpy.save") from error
    if not isinstance(tokens, np.ndarray) or tokens.ndim != 2 or tokens.dtype.kind not in "iu" or not tokens.size:
        raise ClipgenError(f"init={str(file)!r}: tokens are a whole number for every cell, (h, w)")
    return tokens
