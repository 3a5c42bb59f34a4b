"""Getting published files: from the cache, the Hugging Face hub, the publisher's address or a mirror."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from clipgen.errors import ClipgenError
from clipgen.progress import awaited
from clipgen.storage import weights
from clipgen.storage.download import check_hub_cache, disk_full, from_address, from_hub, in_hub_cache
from clipgen.storage.network import Unreachable
from clipgen.storage.sources import Source, Wrong, check_format
from clipgen.storage.weights import cache_folder


@dataclass(frozen=True)
class Remote:
    """A published file, and its ``sources`` in the order of trying.

    A source is an address, ``hf:owner/repo/path``, or ``hf:owner/repo@revision/path``. Where a copy differs, what it
    has of its own stands behind it: ``#sha256=0a1b&megabytes=359``.
    """

    name: str  # in the cache folder, such as "dvae/encoder.pkl"
    sources: tuple[str, ...]
    megabytes: float | None = None  # roughly; much more is refused, and less than half
    sha256: str | None = None  # or its first digits: what the addresses give; a copy on the hub names its own
    bulky: bool = False  # little of it is needed: from the hub, too, it comes where `clipgen cache --prune` finds it

    @property
    def places(self) -> list[Source]:
        return [Source.read(s, self.megabytes, None if s.startswith("hf:") else self.sha256) for s in self.sources]


def offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` asks for nothing to be downloaded."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def cached(remote: Remote) -> Path | None:
    """The file, or what was converted of it, if that is already on this machine."""
    return _own(remote) or next(filter(None, map(in_hub_cache, remote.places)), None)


def _own(remote: Remote) -> Path | None:
    """In clipgen's own cache: the download, or the copy that outlives it."""
    places = cache_folder() / remote.name, weights.converted(remote.name)
    return next((file for file in places if file.is_file()), None)


def fetch(remote: Remote) -> Path:
    """The file on this machine, downloaded if need be; or, when it was deleted, the safetensors made from it.

    A source that fails, or gives something else, is skipped with a warning. Raises ClipgenError that lists what was
    tried.
    """
    if found := _own(remote):
        if found.stat().st_size > max(source.limit for source in remote.places):
            raise ClipgenError(f"{found}: {found.stat().st_size} bytes are more than {remote.name} has; delete it")
        try:
            check_format(found, remote.name)
        except Wrong as error:
            raise ClipgenError(f"{found}: {error}; delete it, and it is downloaded again") from error
        return found
    tried, silent = [], set[str]()
    for source in sorted(remote.places, key=lambda source: in_hub_cache(source) is None):  # what is here comes first
        try:
            if found := in_hub_cache(source):
                return check_hub_cache(found, source, remote.name)
            if offline():
                tried.append(f"{source.where}: HF_HUB_OFFLINE is set")
                continue
            if source.host in silent:
                tried.append(f"{source.where}: nobody answers there either")
                continue
            if source.hub:
                return awaited(partial(from_hub, source, remote.name, remote.bulky))
            return awaited(partial(from_address, source, remote.name))
        except OSError as error:
            if disk_full(error):
                raise ClipgenError(
                    f"{cache_folder()}: the disk is full; make room, or set CLIPGEN_CACHE to another folder"
                ) from error
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            tried.append(f"{source.where}: {reason}")
            if isinstance(error, Unreachable):
                silent.add(source.host)
            warnings.warn(f"{source.where} cannot be had ({reason}); trying the next source", stacklevel=2)
    if silent == {source.host for source in remote.places}:
        tried.append("no server answers: is there a network here? What ships with clipgen (mini) needs none")
    raise ClipgenError(
        f"{remote.name} could not be downloaded. Tried:\n  " + "\n  ".join(tried) + "\n"
        f"If you have the file, put it here: {cache_folder() / remote.name}"
    )


def fetch_weights(remote: Remote, wanted: Collection[str] = ()) -> dict[str, Tensor]:
    """The weights of a published file, downloaded and converted if need be: all, or the ``wanted`` names."""
    return weights.load_weights(weights.as_safetensors(fetch(remote), wanted, remote.name))[0]
