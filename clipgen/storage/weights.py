"""Weights: clipgen's own safetensors, and safetensors copies of published checkpoints."""

import hashlib
import json
import os
import sys
import zipfile
from collections.abc import Callable, Collection, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from tqdm.auto import tqdm

from clipgen.errors import ClipgenError
from clipgen.storage import atomic_write, pickles

Net = TypeVar("Net", bound=nn.Module)
Tensors = dict[str, Tensor]


def cache_folder() -> Path:
    """Return where downloads and converted files are kept: ``CLIPGEN_CACHE``, or ``clipgen`` in ``~/.cache``.

    Raises:
        ClipgenError: Neither that nor a home folder is known.
    """
    folder = os.environ.get("CLIPGEN_CACHE")
    try:
        return Path(folder or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "clipgen")).expanduser()
    except RuntimeError as error:  # no home folder
        raise ClipgenError(
            f"CLIPGEN_CACHE={folder or ''!r}: there is no home folder to keep downloads in ({error}); "
            "set CLIPGEN_CACHE to a folder that can be written"
        ) from error


# --- our own format -----------------------------------------------------------------------------------


def load_weights(file: Path) -> tuple[dict[str, Tensor], dict]:
    """Return float32 tensors by name, and the configuration. Whole numbers of 8 bits are multiplied by their scale."""
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(file, "pt") as stored:
            config = json.loads((stored.metadata() or {}).get("config", "{}"))
            keys = sorted(stored.keys())
        for _, part in groupby(keys, lambda key: key.partition(".")[0]):  # a memory map for each part of the network
            with safe_open(file, "pt") as stored:
                tensors |= {key: stored.get_tensor(key) for key in part}
        scaled = {f"{key}.scale": key for key, tensor in tensors.items() if tensor.dtype == torch.int8}
        for scale in scaled.keys() & tensors.keys():
            tensors[scaled[scale]] = tensors[scaled[scale]].float() * tensors.pop(scale).float()
    except Exception as error:
        raise ClipgenError(f"{file}: this is not a safetensors file ({error}); delete it and load it again") from error
    for key, tensor in tensors.items():
        values = tensor.float() if tensor.is_floating_point() else tensor
        tensors[key] = values.clone() if values.dim() < 2 else values  # else a bias would keep the whole memory map
    return tensors, config


def assign_weights(net: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Put tensors into a network, all or none. Raises ClipgenError that names what is missing or misshapen."""
    expected = net.state_dict()
    wrong = [f"{key} is missing" for key in expected if key not in tensors]
    wrong += [f"{key} is not part of the model" for key in tensors if key not in expected]
    wrong += [
        f"{key} is {tuple(tensors[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise ClipgenError(
            f"{source}: these weights do not fit the model: {'; '.join(wrong[:4])}{more}; "
            "choose the generator that they belong to, or the file that belongs to it"
        )
    net.load_state_dict(tensors, assign=True)


def build_net(kind: Callable[..., Net], config: Mapping[str, Any], tensors: dict[str, Tensor], source: str) -> Net:
    """Return a network with these weights, and never any others. Raises ClipgenError as ``assign_weights``."""
    net = build_empty(kind, config)
    assign_weights(net, tensors, source)
    return net


def build_empty(kind: Callable[..., Net], config: Mapping[str, Any]) -> Net:
    """Return a network of a class with shapes instead of weights (on the meta device)."""
    with torch.device("meta"), _Uninitialised():
        return kind(**config)


class _Uninitialised(TorchFunctionMode):
    """Skips random initialisation: on the meta device torch would import its compiler for it."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__module__", "") == "torch.nn.init":
            return (kwargs or {}).get("tensor", args[0] if args else None)
        return func(*args, **(kwargs or {}))


# --- published formats --------------------------------------------------------------------------------


# Numbers among the weights of OpenAI's CLIP archives.
_CONSTANTS = ("input_resolution", "context_length", "vocab_size")


def converted_path(name: str) -> Path:
    """Return where the safetensors copy of a download with this name in the cache folder is."""
    return cache_folder() / "converted" / f"{name}.safetensors"


def converted_from(file: Path) -> Path:
    """Return where the safetensors copy of any other file is, named after its path, size and time."""
    mark = hashlib.sha256(f"{file.resolve()} {file_version(file)}".encode()).hexdigest()[:12]
    return converted_path(f"{file.stem}-{mark}")


def read_origin(copy: Path) -> dict[str, str]:
    """Return what a copy was made of: ``file``, its ``version``, ``wanted`` (a digest of names); empty if unknown."""
    try:
        with safe_open(copy, "pt") as stored:
            noted = json.loads((stored.metadata() or {}).get("origin", "{}"))
            return noted if isinstance(noted, dict) else {}
    except Exception:  # no safetensors file, or cut off
        return {}


def file_version(file: Path) -> str:
    """Return a file's size and time, which change when it does."""
    return f"{file.stat().st_size} {file.stat().st_mtime_ns}"


def as_safetensors(
    file: str | Path, names: Collection[str] = (), name: str = "", convert: Callable[[Tensors], Tensors] | None = None
) -> Path:
    """Return a safetensors file with the weights of a checkpoint: itself, or a copy in the cache.

    Nothing in the file is run.

    Args:
        file: Safetensors, a ``torch.save`` file of a state dict, a Lightning checkpoint or a pickled module, or a
            TorchScript archive.
        names: The tensors that are copied; by default all but a VQGAN's discriminator and LPIPS (``loss.*``).
        name: The name of a download; its copy is used even when the download is deleted.
        convert: Renames the tensors; with it a safetensors file has a copy, too.

    Raises:
        ClipgenError: The file is none of these, broken, unsafe, or has none of the tensors.
    """
    file = Path(file)
    if not file.is_file():
        raise ClipgenError(f"{file}: there is no such file; check the path")
    if file.suffix == ".safetensors" and (not convert or file == converted_path(name)):
        return file
    digest = hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:12]
    source = {"file": str(file.resolve()), "version": file_version(file), "wanted": digest}
    copy = converted_path(name) if name else converted_from(file)
    if read_origin(copy) == source:
        return copy
    try:
        if file.suffix == ".safetensors":
            tensors = load_file(file)
        else:
            tensors = pickles.load_tensors(file, frozenset(names).__contains__ if names else _is_weight)
        tensors = convert(tensors) if convert else tensors
    except Exception as error:  # a broken or hostile file can fail anywhere
        raise ClipgenError(
            f"{file}: this file was not loaded, because it cannot be read as plain weights "
            f"({str(error) or type(error).__name__}); it may be cut off, of another kind, or unsafe: "
            "get it again from its publisher"
        ) from error
    if not tensors and names:
        raise ClipgenError(
            f"{file}: these weights are of another model, {next(iter(names))} and all the rest is missing; "
            "choose the generator that they belong to, or the file that belongs to it"
        )
    if not tensors:
        raise ClipgenError(f"{file}: there are no weights in this file; get it again from its publisher")
    copy.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(copy) as part:
        save_file(tensors, part, {"origin": json.dumps(source)})
    if name and file.is_relative_to(cache_folder()):
        size, needed = file.stat().st_size / 1e6, copy.stat().st_size / 1e6
        note = f"{file} ({size:.0f} MB) can be deleted: what is needed of it is kept ({needed:.0f} MB)"
        tqdm.write(f"{note}; `clipgen cache --prune` does it", file=sys.stderr)
    return copy


def _is_weight(name: str) -> bool:
    return not name.startswith("loss.") and name not in _CONSTANTS


def is_torchscript(file: str | Path) -> bool:
    """Return whether a file is a TorchScript archive, as OpenAI published CLIP."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
