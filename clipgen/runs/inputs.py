"""What the settings of a run name: pictures to start from, to follow, to mask with; latents that were kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from numbers import Real
from os.path import exists, isdir
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipgen import inits as starts
from clipgen.errors import ClipgenError
from clipgen.images import masks
from clipgen.images.names import find_file
from clipgen.images.palette import colour
from clipgen.images.reading import Pictorial, to_picture
from clipgen.prompts import Prompt, format_prompt, parse, parse_parts
from clipgen.registry import STARTS
from clipgen.runs.journal import Journal
from clipgen.runs.saved import read_array
from clipgen.runs.settings import Settings, to_numbers

Value = str | Path | int | float | tuple[int, int] | Pictorial | None  # of a setting, as a person gives it
Asked = str | Path | Pictorial
Ask = Asked | Sequence[Asked] | Mapping[Any, float]  # a prompt, several, or several with their weights


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
        named = to_numbers(asked)
        named |= {knob: self._line(named[knob]) for knob in ("prompt", "negative") if knob in named}
        if "init" in named:
            named["init"] = self._kept_name(named["init"]) or self.name(named["init"])
        return named | ({"mask": self.name(named["mask"])} if "mask" in named else {})

    def name(self, value: Any) -> str:
        """Return the name of a picture: its path or address, or of one without a name after what is seen in it."""
        if isinstance(value, str):
            return value
        if isinstance(value, Path):  # a word would be taken for another thing of that name
            return str(value) if any(mark in str(value) for mark in "./\\") else f"./{value}"
        data = np.asarray(picture := to_picture(value))
        name = f"picture-{_mark(data)}.png"
        self.pictures[name] = picture
        return name

    def _kept_name(self, value: Any) -> str:
        """Return the name of a kept latent, empty for anything else."""
        if isinstance(value, Tensor):
            value = (value.float() if value.dtype == torch.bfloat16 else value).detach().cpu().numpy()
        if not (isinstance(value, np.ndarray) and _kept(value)):
            return ""
        name = f"tokens-{_mark(value)}.npy"
        self.latents[name] = value
        return name

    def _line(self, prompt: Any) -> str:
        """Return a prompt in the grammar, whatever it came as."""
        if isinstance(prompt, str):
            return self._with_files(prompt)
        if isinstance(prompt, Path):
            text = str(prompt)
            with suppress(ClipgenError):
                if parse_parts(text) == [Prompt(text, is_image=True)]:
                    return text
            return self.name(to_picture(prompt))
        if isinstance(prompt, Pictorial):
            return self.name(prompt)
        if isinstance(prompt, Mapping):
            if not all(isinstance(weight, Real) for weight in prompt.values()):
                raise ClipgenError(f"prompt={prompt!r}: weights are numbers, such as {{'a cat': 2}}")
            several = [(one, float(weight)) for key, weight in prompt.items() for one in parse_parts(self._line(key))]
            return " | ".join(format_prompt(replace(one, weight=one.weight * weight)) for one, weight in several)
        if not isinstance(prompt, Sequence):
            raise ClipgenError(f"prompt={prompt!r}: write what you want to see, or give a picture or a list of these")
        return " | ".join(map(self._line, prompt))

    def _with_files(self, line: str) -> str:
        """Return a line in which files that are not named as pictures have the names of what is seen in them."""
        try:
            prompts = parse_parts(line)
        except ClipgenError:  # which is said when all settings are checked
            return line
        names = {one.text: self._seen_name(one.text) for one in prompts if not one.is_image and find_file(one.text)}
        if not any(names.values()):
            return line
        return " | ".join(format_prompt(replace(one, text=names.get(one.text) or one.text)) for one in prompts)

    def _seen_name(self, text: str) -> str:
        """Return the name of the picture in a file; a word alone stays one if the file of that name is no picture."""
        try:
            return self.name(to_picture(text))
        except ClipgenError:
            if Path(text).suffix or Path(text).name != text:
                raise
            return ""

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
        elif path.suffix or "/" in name or find_file(name):
            self._picture(name)
        elif name == "collage":  # of run folders up to 0.4
            raise ClipgenError("init='collage': this start is no longer part of clipgen; choose init='dalle'")
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


def _mark(data: np.ndarray) -> str:
    return hashlib.sha256(data.tobytes() + str(data.shape).encode()).hexdigest()[:12]


def _kept(data: np.ndarray) -> bool:
    """Whether numbers are what a journal keeps of a latent: tokens (h, w), or one latent in 16 bits."""
    # Bytes and numbers of 16 bits without a sign are a grey picture's.
    tokens = data.ndim == 2 and (data.dtype.kind == "i" or (data.dtype.kind == "u" and data.dtype.itemsize > 2))
    return data.size > 0 and (tokens or (data.dtype == np.float16 and len(data) == 1))


def _read(file: Path) -> np.ndarray:
    try:
        data = read_array(file)
    except ValueError as error:
        raise ClipgenError(f"init={str(file)!r}: cannot be read as tokens ({error}); use numpy.save") from error
    if not (_kept(data) or (data.dtype.kind == "u" and data.ndim == 2)):
        raise ClipgenError(
            f"init={str(file)!r}: tokens are a whole number for every cell, (h, w); a latent is (1, ...) in float16"
        )
    return data
