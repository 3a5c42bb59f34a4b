"""Torch checkpoints as data: ``torch.save`` files, old and new, pickled modules, Lightning and TorchScript archives.

A pickle can name any function and have it called. Here it reaches only what this file defines: tensors become
``LazyTensor``, classes of known packages become ``_Placeholder``, any other name is refused. No package that wrote a
file is imported to read it. Formats: PyTorch's notes on serialization semantics, and ``torch/serialization.py``.
"""

import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

Storage = Callable[[str, int], bytes]  # returns the bytes of a storage by its key and length
_MAX_ENTRIES = 10**6  # of a checkpoint
_MAX_GROWTH = 4  # times the size of a file: a few of its tensors may share their numbers
_DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
# What published checkpoints mention beside their tensors: module classes, callbacks, settings, TorchScript's types.
# The settings of 2020 are OmegaConf's, which name the plain types of what they hold, and argparse's; taming's script
# is called main, and its callbacks hold paths.
_PACKAGES = (
    "__torch__",
    "dall_e",
    "lightning",
    "main",
    "numpy",
    "omegaconf",
    "pathlib",
    "pytorch_lightning",
    "taming",
    "torch.jit._pickle",
    "torch.nn.modules",
    "torch.optim",
    "typing",
)
_TYPES = ["bool", "bytes", "dict", "float", "int", "list", "long", "object", "set", "str", "tuple", "unicode"]
_NAMES = {
    "argparse.Namespace",
    "torch.device",
    "torch.Size",
    *map(str, _DTYPES.values()),
    "collections.defaultdict",
    "_codecs.encode",
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in _TYPES),  # __builtin__ is Python 2's
}


class _Immutable:
    """An object whose attributes a pickle cannot set: the opcode ``BUILD`` is refused."""

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it tries to set attributes of an object that it may only refer to")


@dataclass(frozen=True)
class LazyTensor(_Immutable):
    """A tensor of a checkpoint whose numbers have not been read yet."""

    dtype: torch.dtype
    key: str
    count: int  # numbers in its storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """The bytes that it takes. Raises ValueError if its storage cannot hold it."""
        if not all(isinstance(n, int) and n >= 0 for n in (self.count, self.offset, *self.shape, *self.stride)):
            raise ValueError(f"impossible shape {self.shape}")
        if self.offset + math.prod(self.shape) > self.count:  # also keeps a small file from asking for much memory
            raise ValueError(f"a tensor of {self.shape} does not fit into {self.count} numbers")
        return math.prod(self.shape) * self.dtype.itemsize

    def load(self, storage: Storage) -> Tensor:
        """Return the tensor."""
        if not self.nbytes:
            return torch.empty(self.shape, dtype=self.dtype)
        size = self.dtype.itemsize
        end = self.offset + 1 + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        view = memoryview(storage(self.key, self.count * size))[self.offset * size : end * size]
        return torch.frombuffer(bytearray(view), dtype=self.dtype).as_strided(self.shape, self.stride).contiguous()


class _Placeholder:
    """Stands for a class that is not imported: takes any arguments, keeps attributes, does nothing."""

    def __new__(cls, *args: Any) -> "_Placeholder":
        return super().__new__(cls)

    def __init__(self, *args: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        """Keep attributes, for the tensors among them; none can replace a method."""
        for attributes in state if isinstance(state, tuple) else (state,):
            if isinstance(attributes, dict):
                vars(self).update((k, v) for k, v in dict.items(attributes) if not hasattr(_Placeholder, str(k)))

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    extend = add = append


class _Tensor(_Immutable):
    def __call__(self, storage: Any, offset: int, shape: Any, stride: Any, *rest: Any) -> LazyTensor:
        dtype, key, count = storage
        return LazyTensor(dtype, key, count, offset, tuple(shape), tuple(stride))


class _Parameter(_Immutable):
    def __call__(self, data: Any, *rest: Any) -> Any:
        return data


_SAFE: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "torch._utils._rebuild_tensor": _Tensor(),
    "torch._utils._rebuild_tensor_v2": _Tensor(),
    "torch._utils._rebuild_parameter": _Parameter(),
    **{f"torch.{name}": dtype for name, dtype in _DTYPES.items()},
}


class _Unpickler(pickle.Unpickler):
    """The standard unpickler, which finds only what this file allows."""

    def __init__(self, stream: Any):
        super().__init__(stream)
        self.widths: dict[str, int] = {}  # bytes per number of every storage

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in _SAFE:
            return _SAFE[full]
        if full in _NAMES or any(f"{module}.".startswith(f"{package}.") for package in _PACKAGES):
            return type(name, (_Placeholder,), {})
        raise pickle.UnpicklingError(f"it asks for {full}, which no model needs")

    def persistent_load(self, pid: Any) -> Any:
        kind, *rest = pid
        if kind == "module":  # old pickled modules bring their source code along
            return rest[0]
        dtype, key, _, count, *view = rest
        if kind != "storage" or any(view):
            raise pickle.UnpicklingError(f"it refers to a {kind}, which is not known")
        self.widths[key] = dtype.itemsize
        return dtype, key, count


def load_tensors(file: Path, is_selected: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint whose dotted names are selected. Raises anything for a broken file."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        tree, storage = (_read_zip if zipfile.is_zipfile(file) else _read_legacy)(stream, size)
        selected = {name: lazy for name, lazy in _named_tensors(tree) if is_selected(name)}
        if sum(lazy.nbytes for lazy in selected.values()) > _MAX_GROWTH * size:
            raise ValueError(f"its tensors would take more than {_MAX_GROWTH} times its own size")
        return {name: lazy.load(storage) for name, lazy in selected.items()}


def _read_zip(stream: BinaryIO, size: int) -> tuple[Any, Storage]:
    archive = zipfile.ZipFile(stream)
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError("it holds no data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    read = [entry for entry in archive.infolist() if entry.filename.startswith((pickles[0], f"{folder}data/"))]
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in read):
        raise ValueError("its numbers are compressed, which no checkpoint's are")
    if sum(entry.file_size for entry in read) > size:
        raise ValueError("it claims to hold more than its own size")

    @lru_cache(maxsize=1)  # a model's layers can be slices of one storage, and then follow one another
    def storage(key: str, length: int) -> bytes:
        data = archive.read(f"{folder}data/{key}")
        if len(data) < length:
            raise ValueError(f"storage {key} is cut off")
        return data

    with archive.open(pickles[0]) as data:
        return _Unpickler(data).load(), storage


def _read_legacy(stream: BinaryIO, size: int) -> tuple[Any, Storage]:
    """Read a file of torch before 1.6: magic number, version, system, data, keys of storages, storages."""
    reader = _Unpickler(stream)
    if reader.load() != 0x1950A86A20F9469CFC6C:
        raise ValueError("it is not a file of torch.save")
    reader.load(), reader.load()
    reader = _Unpickler(stream)
    tree = reader.load()
    offsets: dict[str, int] = {}
    for key in _Unpickler(stream).load():
        (count,) = struct.unpack("<q", stream.read(8))
        offsets[key] = stream.tell()
        stream.seek(count * reader.widths[key], 1)

    def storage(key: str, length: int) -> bytes:
        if offsets[key] + length > size:
            raise ValueError("it is cut off")
        stream.seek(offsets[key])
        return stream.read(length)

    return tree, storage


def _named_tensors(tree: Any) -> Iterator[tuple[str, LazyTensor]]:
    """Yield every tensor with its dotted name, without wrappers (Lightning's; LlamaGen's, of which ``ema`` is used)."""
    for key in ("state_dict", "ema", "model"):
        if isinstance(tree, dict) and isinstance(inner := dict.get(tree, key), dict) and inner:
            tree = inner
    yield from _flatten(tree, "", count(1))


def _flatten(tree: Any, prefix: str, entries: Iterator[int]) -> Iterator[tuple[str, LazyTensor]]:
    if isinstance(tree, LazyTensor):
        yield prefix[:-1], tree
        return
    branches = tree if isinstance(tree, dict) else vars(tree) if isinstance(tree, _Placeholder) else {}
    for key, value in dict.items(branches):  # not branches.items(), which a file could have put there
        if next(entries) > _MAX_ENTRIES:  # a few branches that refer to one another can stand for any number
            raise ValueError(f"it has more than {_MAX_ENTRIES:,} entries")
        if key in ("_parameters", "_buffers", "_modules"):  # how a pickled module keeps its parts
            yield from _flatten(value, prefix, entries)
        elif isinstance(key, str):
            yield from _flatten(value, f"{prefix}{key}.", entries)
