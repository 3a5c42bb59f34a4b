"""The pictures and latents that settings name: to start from, to go towards, to mask with."""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipgen import inits
from clipgen.errors import ClipgenError, suggest
from clipgen.images import masks
from clipgen.images.reading import Pictorial, parse_colour, to_array, to_picture
from clipgen.prompts import Prompt, format_prompt, parse, parse_parts, parse_weighted
from clipgen.registry import INITS
from clipgen.runs.folder import read_array
from clipgen.runs.journal import Journal
from clipgen.runs.settings import Settings, to_numbers
from clipgen.storage import expand_home, find_file

Value = str | Path | int | float | tuple[int, int] | Pictorial | None  # of a setting
Item = str | Path | Pictorial
PromptLike = Item | Sequence[Item] | Mapping[Any, float]  # a prompt, several, or several with their weights
WEIGHTS = {".bin", ".ckpt", ".pkl", ".pt", ".pth", ".safetensors"}
# An address, up to white space or a bar, in the groups that may be shown: no name and password, no query; what follows
# it may be a weight, a stop and a span of a prompt.
_ADDRESS = re.compile(
    r"(\w+://)(?:[^/@\s|]*@)?([^\s|?]*)(?:\?[^\s|]*?)?(?=(?::[-+\d.]+){0,2}(?:@[\d-]+)?(?:[\s|\[]|$))"
)
_CONTENT_NAME = re.compile(r"(picture|tokens)-[0-9a-f]{12}\.(png|npy)")  # of what Python code handed over


class Inputs:
    """Pictures and latents by the names that the settings have for them, each loaded once.

    A run folder keeps copies, so that a run can be resumed without the originals.
    """

    def __init__(self, values: Mapping[str, Any] | None = None):
        self.by_name: dict[str, Any] = {}  # a picture, or the array of a latent, by name
        for name, value in (values or {}).items():
            self.by_name[name] = value if isinstance(value, np.ndarray) else to_picture(value)

    @property
    def pictures(self) -> dict[str, Image.Image]:
        """Those that are no latents, by name."""
        return {name: value for name, value in self.by_name.items() if not isinstance(value, np.ndarray)}

    @contextmanager
    def tentative(self) -> "Iterator[Inputs]":
        """Undo what is added within the context if that raises an error."""
        before = dict(self.by_name)
        try:
            yield self
        except BaseException:
            self.by_name = before
            raise

    def name_values(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return settings with names instead of pictures and latents, numbers as Python's, and prompts as one line."""
        named = to_numbers(options)
        named |= {name: self._to_line(named[name], name) for name in ("prompt", "negative") if name in named}
        if "init" in named:
            named["init"] = self._name_latent(named["init"]) or self._name_picture(named["init"], "init")
        if "mask" in named:
            named["mask"] = self._name_picture(named["mask"], "mask")
        return named

    def name_files(self, settings: Settings) -> Settings:
        """Return settings in which prompts that are image files without such a suffix have the pictures' names."""
        if not any(find_file(prompt.text) for prompt in settings.prompts if not prompt.is_image):
            return settings
        return settings.updated(
            prompt=self._replace_files(settings.prompt),
            negative=self._replace_files(settings.negative, "negative"),
        )

    def _replace_files(self, line: str, argument: str = "prompt") -> str:
        prompts = parse_parts(line, argument)
        files = [prompt.text for prompt in prompts if not prompt.is_image and find_file(prompt.text)]
        names = {file: name for file in files if (name := self._name_file(file))}
        if not names:
            return line
        renamed = [replace(prompt, text=names.get(prompt.text, prompt.text)) for prompt in prompts]
        return " | ".join(format_prompt(prompt, argument) for prompt in renamed)

    def _name_file(self, text: str) -> str:
        """Return the name of the picture in a file; empty if it is not a picture and ``text`` is a plain word."""
        try:
            return self._name_picture(to_picture(text, argument="prompt"))
        except ClipgenError:
            if Path(text).suffix or Path(text).name != text:
                raise
            return ""

    def _name_picture(self, value: Any, argument: str = "prompt") -> str:
        """Return the name of a picture: its path or address, otherwise one made from its content."""
        if isinstance(value, str):
            return value
        if isinstance(value, Path):  # a bare word could be taken for something else
            return str(value) if any(mark in str(value) for mark in "./\\") else f"./{value}"
        picture = to_picture(value, argument=argument)
        name = f"picture-{_content_hash(np.asarray(picture))}.png"
        self.by_name[name] = picture
        return name

    def _name_latent(self, value: Any) -> str:
        """Return the name of a latent, empty for anything else."""
        if isinstance(value, Tensor):
            value = to_array(value, "init")
        if not (isinstance(value, np.ndarray) and _is_latent(value)):
            return ""
        name = f"tokens-{_content_hash(value)}.npy"
        self.by_name[name] = value
        return name

    def _to_line(self, prompt: Any, argument: str) -> str:
        """Return the prompt or negative prompt (``argument``) of any type as a line in the grammar."""
        if isinstance(prompt, str):
            return prompt
        if isinstance(prompt, Path):
            text = str(prompt)
            with suppress(ClipgenError):
                if parse_parts(text) == [Prompt(text, is_image=True)]:
                    return text
            return self._name_picture(to_picture(prompt, argument=argument))
        if isinstance(prompt, Pictorial):
            return self._name_picture(prompt, argument)
        if isinstance(prompt, Mapping):
            if not all(isinstance(weight, Real) for weight in prompt.values()):
                raise ClipgenError(f"{argument}={prompt!r}: weights are numbers, such as {{'a cat': 2}}")
            lines = [(self._to_line(key, argument), float(weight)) for key, weight in prompt.items()]
            parts = [(part, weight) for line, weight in lines for part in parse_parts(line)]
            weighted = [replace(part, weight=part.weight * weight) for part, weight in parts]
            return " | ".join(format_prompt(part, argument) for part in weighted)
        if not isinstance(prompt, Sequence):
            raise ClipgenError(
                f"{argument}={prompt!r}: write what you want to see, or give a picture or a list of these"
            )
        return " | ".join(self._to_line(part, argument) for part in prompt)

    def check_contained(self, saved: Sequence[Mapping[str, Any]], source: str | Path, weights: Any = None) -> None:
        """Raise ClipgenError if settings and changes from ``source`` name files or addresses that are not in here.

        Files of ``weights`` may be read if they are still the same, see ``identify_weights``.
        """
        recorded, names = weights if isinstance(weights, dict) else {}, list[str]()
        for options in saved:
            current = identify_weights(options)
            names += [*named_files(options), _named_init(options)]
            names += [name for name in named_weights(options) if recorded.get(name, "") != current.get(name)]
        missing = [name for name in dict.fromkeys(names) if name and name not in self.by_name]
        if any(_CONTENT_NAME.fullmatch(name) for name in missing):
            raise ClipgenError(f"{source}: the pictures of this run are only in its run folder; use that one")
        if missing:
            raise ClipgenError(
                f"{source}: names {', '.join(map(repr, missing))}, which it does not bring along; pass trust=True, or "
                "--trust, if that may be read from this machine or the network"
            )

    def load(self, settings: Settings) -> None:
        """Load the pictures of prompts and masks. Raises ClipgenError for what cannot be read or does not fit."""
        for prompt in settings.prompts:
            if prompt.is_image:
                self._load_picture(prompt.text, "prompt")
        regions = {prompt.where: "region" for prompt in settings.prompts} | {settings.mask: "mask"}
        for where, argument in regions.items():
            if file := masks.find_mask_file(where):
                self._load_picture(file, argument)
            for width, height in settings.growth.sizes if where else ():
                masks.load_mask(where, (height, width), self.pictures, argument)

    def create_init(self, settings: Settings) -> inits.Init:
        """Return the ``Init`` that ``init`` means: a latent, a picture, a word, a colour, a file or a run folder.

        Raises ClipgenError for anything else, and for what cannot be read.
        """
        name = settings.init
        if name not in self.by_name:
            if name in INITS:
                return INITS[name]()
            if (rgb := parse_colour(name)) is not None:
                return inits.Colour(rgb)
            self._load_init(name)
        data = self.by_name[name]
        if isinstance(data, np.ndarray):
            return inits.Saved(torch.from_numpy(data if data.dtype.kind == "f" else data.astype(np.int64)))
        return inits.Picture(data, settings.fit)

    def _load_init(self, name: str) -> None:
        path = expand_home(name)
        if os.path.isdir(path):  # Path.is_dir fails for a name that is too long
            journal = Journal.open(path)
            if not journal.steps:
                raise ClipgenError(f"init={name!r}: this run has no frames; choose another, or resume it")
            self.by_name[name] = journal.frame(journal.steps[-1])
        elif path.suffix == ".npy":
            self.by_name[name] = _read_latent(path)
        elif path.suffix or "/" in name or find_file(name):
            self._load_picture(name, "init")
        elif name == "collage":  # of run folders up to 0.4
            raise ClipgenError("init='collage': this start is no longer part of clipgen; choose init='dalle'")
        else:
            raise ClipgenError(
                f"init={name!r}: no such start, colour or file; {suggest(name, INITS)}use auto, {', '.join(INITS)}, "
                "a colour, or the path of an image, of tokens or of a run folder"
            )

    def _load_picture(self, name: str, argument: str) -> None:
        if name not in self.by_name:
            self.by_name[name] = to_picture(name, argument=argument)
        if isinstance(self.by_name[name], np.ndarray):  # a run folder that somebody wrote
            raise ClipgenError(f"{name}: its copy is a latent, but must be a picture")


def _named_init(options: Mapping[str, Any]) -> str:
    """Return ``init`` if it is a file or an address, otherwise an empty text."""
    init = options.get("init", "")
    if init in ("auto", *INITS) or parse_colour(init) is not None:
        return ""
    return init if Path(init).suffix or "/" in init or os.path.exists(init) else ""


def _content_hash(data: np.ndarray) -> str:
    return hashlib.sha256(data.tobytes() + str(data.shape).encode()).hexdigest()[:12]


def _is_latent(data: np.ndarray) -> bool:
    """Return whether an array is a latent as a journal has it: tokens (h, w), or (1, ...) in float16."""
    # Unsigned numbers of 8 and 16 bits are a grey picture.
    tokens = data.ndim == 2 and (data.dtype.kind == "i" or (data.dtype.kind == "u" and data.dtype.itemsize > 2))
    return data.size > 0 and (tokens or (data.dtype == np.float16 and len(data) == 1))


def _read_latent(file: Path) -> np.ndarray:
    try:
        data = read_array(file)
    except ValueError as error:
        raise ClipgenError(f"init={str(file)!r}: cannot be read as tokens ({error}); use numpy.save") from error
    if not (_is_latent(data) or (data.dtype.kind == "u" and data.ndim == 2)):
        raise ClipgenError(
            f"init={str(file)!r}: tokens are a whole number for every cell, (h, w); a latent is (1, ...) in float16"
        )
    return data


def named_files(options: Mapping[str, Any]) -> list[str]:
    """Return the files and addresses that prompts and ``mask`` name in settings or a change of them."""
    prompts = parse(options.get("prompt", "x"), options.get("negative", ""))
    mask_files = [
        masks.find_mask_file(where) for where in (options.get("mask", ""), *(prompt.where for prompt in prompts))
    ]
    return [prompt.text for prompt in prompts if prompt.is_image] + [file for file in mask_files if file]


def named_weights(options: Mapping[str, Any]) -> list[str]:
    """Return the files of weights that ``generator``, ``perceptor`` and ``judge`` name, without published models."""
    clips = "|".join(str(options.get(name, "")) for name in ("perceptor", "judge"))
    tags = (name if name.startswith("local-dir:") else name.partition("/")[2] for name, _ in parse_weighted(clips))
    names = [name for name in (options.get("generator", ""), *tags) if not name.startswith("hf-hub:")]
    return [name for name in names if Path(name).suffix in WEIGHTS or re.search(r"[/\\]", name)]


def identify_weights(options: Mapping[str, Any]) -> dict[str, str]:
    """Return size and time of each file of weights that settings name, used to recognise the file as unchanged."""
    files: dict[str, str] = {}
    for name in named_weights(options):
        with suppress(OSError):
            status = os.stat(name)
            files[name] = f"{status.st_size} bytes, {status.st_mtime_ns}"
    return files


def strip_paths(saved: Mapping[str, Any], named_in: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Return settings, or facts about them, with base names instead of paths: exports are for other people.

    ``named_in``: the settings that name the files, by default ``saved`` and its ``changes``.
    """
    paths = {path for settings in named_in or (saved, *saved.get("changes", [])) for path in _named_paths(settings)}
    # In a prompt some characters of a path may have a backslash before them.
    patterns = ("".join(rf"\\?{re.escape(c)}" if c in "|:@[" else re.escape(c) for c in path) for path in paths)
    pattern = re.compile("|".join(sorted(patterns, key=len, reverse=True)) or "(?!)")

    def shorten(value: Any) -> Any:
        if isinstance(value, str):
            value = _ADDRESS.sub(r"\1\2", value)  # without name, password and query, which may be secrets
            return pattern.sub(lambda match: re.split(r"[/\\](?![|:@\[])", match[0])[-1], value)
        if isinstance(value, Mapping):
            return {name: shorten(item) for name, item in value.items()}
        return [shorten(item) for item in value] if isinstance(value, (list, tuple)) else value

    return shorten({name: value for name, value in saved.items() if name != "weights"})


def _named_paths(saved: Mapping[str, Any]) -> list[str]:
    """Return the paths of files, with folders in them, that settings or a change name."""
    texts = {name: value for name, value in saved.items() if isinstance(value, str)}
    names = [*named_files(texts), texts.get("init", ""), *named_weights(texts)]
    names = [name.removeprefix("local-dir:").strip().rstrip("/\\") for name in names]
    paths = [name for name in names if re.search(r"[/\\]", name)]
    return [path for path in paths if "://" not in path and not path.startswith("hf-hub:")]
