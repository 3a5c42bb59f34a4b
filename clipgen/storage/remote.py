"""Published files: where they are downloaded from, and what is in the cache folder."""

import os
import re
import time
import warnings
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from torch import Tensor

from clipgen.errors import ClipgenError
from clipgen.progress import run_stoppable
from clipgen.storage import PART, weights
from clipgen.storage.download import (
    LARGEST,
    WrongFileError,
    check_format,
    check_hub_cache,
    download_address,
    download_from_hub,
    find_in_hub_cache,
    is_disk_full,
)
from clipgen.storage.network import UnreachableError
from clipgen.storage.weights import cache_folder

_HUB = re.compile(r"hf:(?P<repo_id>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?/(?P<filename>.+)")
_PARTIAL = re.compile(rf"{PART.pattern}|\.[^/]+\.[0-9a-f]{{8}}\.(part|etag|hub)")  # or a download's

_COPY = re.compile(r".+-[0-9a-f]{12}\.safetensors")
_MIN_AGE = 3600.0  # seconds; a younger unfinished file may be a download in progress


@dataclass(frozen=True)
class Source:
    """One place that has a file: ``where`` is a URL, or ``hf:owner/repo[@revision]/path``."""

    where: str
    megabytes: float | None = None  # approximate; much larger files, and smaller than half, are refused
    sha256: str | None = None  # or its first digits

    @classmethod
    def parse(cls, line: str, megabytes: float | None = None, sha256: str | None = None) -> "Source":
        """Parse a place; overrides follow a ``#``: ``#sha256=0a1b&megabytes=359``."""
        where, _, fragment = line.partition("#")
        facts = {key: values[0] for key, values in parse_qs(fragment, strict_parsing=bool(fragment)).items()}
        return cls(where, float(facts.get("megabytes", megabytes or 0)) or None, facts.get("sha256", sha256))

    @property
    def hub(self) -> dict[str, Any]:
        """What the functions of huggingface_hub call a file there; empty for an address."""
        match = _HUB.fullmatch(self.where)
        return match.groupdict() if match else {}

    @property
    def host(self) -> str:
        """The host of an address, or "hub"."""
        return "hub" if self.hub else urlsplit(self.where).netloc

    @property
    def limit(self) -> float:
        """Maximum size in bytes."""
        return LARGEST if self.megabytes is None else self.megabytes * 1.25e6 + 1e6

    def check_size(self, size: int) -> None:
        """Raise WrongFileError for a number of bytes that this file cannot have."""
        if size > self.limit:
            raise WrongFileError(f"{size} bytes are offered, but it has about {self.megabytes or LARGEST / 1e6:.0f} MB")
        if size < (self.megabytes or 0) * 0.5e6:
            raise WrongFileError(f"{size} bytes are too few, it has about {self.megabytes:.0f} MB")


@dataclass(frozen=True)
class Remote:
    """A published file, and its ``sources`` in the order in which they are tried.

    A source is an address, ``hf:owner/repo/path``, or ``hf:owner/repo@revision/path``. Where a copy differs, its own
    facts follow it: ``#sha256=0a1b&megabytes=359``.
    """

    name: str  # in the cache folder, such as "dvae/encoder.pkl"
    sources: tuple[str, ...]
    megabytes: float | None = None  # approximate; much larger files, and smaller than half, are refused
    sha256: str | None = None  # or its first digits, of the file at addresses; a copy on the hub has its own
    other_name: str = ""  # what another version of a library calls it in the cache folder
    bulky: bool = False  # only a part is needed: kept in our own cache, which `clipgen cache --prune` clears

    @property
    def parsed_sources(self) -> list[Source]:
        return [Source.parse(s, self.megabytes, None if s.startswith("hf:") else self.sha256) for s in self.sources]


@dataclass(frozen=True, kw_only=True)
class Published:
    """What is known of a published model before it is loaded."""

    files: tuple[Remote, ...] = ()  # its weights, unless another library downloads them
    hub_megabytes: float = 0.0  # what another library downloads, computed from the number of weights in fp32
    memory: float = 0.0  # GB of its weights and of what a step saves, in fp32; 0: not known
    proof: str = "-"  # what it is proven equal to
    licence: str = "see hub page"

    @property
    def megabytes(self) -> float:
        """Size of the weights in MB."""
        return self.hub_megabytes + sum(file.megabytes or 0 for file in self.files)


def is_offline() -> bool:
    """Return whether ``HF_HUB_OFFLINE`` forbids downloads."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def cached(remote: Remote) -> Path | None:
    """Return the file, or what was converted from it, if it is on this machine already."""
    return _find_own(remote) or next(filter(None, map(find_in_hub_cache, remote.parsed_sources)), None)


def _find_own(remote: Remote) -> Path | None:
    """Return the download in clipgen's own cache, or its converted copy, which may outlive it."""
    files = [cache_folder() / remote.name, weights.converted_path(remote.name)]
    if remote.other_name:
        files.append(cache_folder() / remote.other_name)
    return next((file for file in files if file.is_file()), None)


def fetch(remote: Remote) -> Path:
    """Return a published file on this machine, downloaded if need be, or the safetensors converted from it.

    A source that fails, or has something else, is skipped with a warning. Unreachable sources are reported only if a
    later one succeeds.

    Raises:
        ClipgenError: No source has the file; the message lists what was tried.
    """
    if file := _find_own(remote):
        return _check_own(file, remote)
    failures, unreachable_hosts, unanswered = [], set[str](), list[str]()
    sources = remote.parsed_sources
    for source in sorted(sources, key=lambda source: find_in_hub_cache(source) is None):  # files that are here first
        try:
            if file := find_in_hub_cache(source):
                return check_hub_cache(file, source, remote.name)
            if is_offline():
                failures.append(f"{source.where}: HF_HUB_OFFLINE is set")
            elif source.host in unreachable_hosts:
                failures.append(f"{source.where}: nobody answers there either")
            else:
                return _download(source, remote, unanswered)
        except OSError as error:
            if is_disk_full(error):
                remedy = "make room, or set CLIPGEN_CACHE to another folder"
                raise ClipgenError(f"{cache_folder()}: the disk is full; {remedy}") from error
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            failures.append(f"{source.where}: {reason}")
            if isinstance(error, UnreachableError):
                unreachable_hosts.add(source.host)
                unanswered.append(f"{source.where} is not available ({reason})")
            else:
                warnings.warn(f"{source.where} is not available ({reason}); trying the next source", stacklevel=2)
    if unreachable_hosts == {source.host for source in sources}:
        built_in = "the built-in models need none: leave generator and perceptor out"
        failures.append(f"no server answers: is there a network here? If not, {built_in}")
    raise ClipgenError(
        f"{remote.name} could not be downloaded. Tried:\n  " + "\n  ".join(failures) + "\n"
        f"If you have the file, put it here: {cache_folder() / remote.name}"
    )


def _download(source: Source, remote: Remote, unanswered: list[str]) -> Path:
    """Return the file, downloaded; warn of the sources before this one that did not answer."""
    address = partial(download_address, source, remote.name)
    file = run_stoppable(partial(download_from_hub, source, remote.name, remote.bulky) if source.hub else address)
    for line in unanswered:
        warnings.warn(f"{line}; another source was used", stacklevel=3)
    return file


def _check_own(file: Path, remote: Remote) -> Path:
    size = file.stat().st_size
    if size > max(source.limit for source in remote.parsed_sources):
        raise ClipgenError(f"{file}: {size} bytes are more than {remote.name} has; delete it")
    try:
        check_format(file, remote.name)
    except WrongFileError as error:
        raise ClipgenError(f"{file}: {error}; delete it, and it is downloaded again") from error
    return file


def fetch_weights(remote: Remote, names: Collection[str] = ()) -> dict[str, Tensor]:
    """Return the weights of a published file, downloaded and converted if need be: all, or those of some names."""
    return weights.load_weights(weights.as_safetensors(fetch(remote), names, remote.name))[0]


# --- the cache folder ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """A file of the cache."""

    file: Path
    megabytes: float
    kind: str
    deletable: bool  # whether nothing is lost without it


def list_items() -> list[Item]:
    """Return every file in the cache folder, largest first. Links are not followed, and not listed."""
    items = []
    for file in [Path(folder, name) for folder, _, names in os.walk(cache_folder()) for name in names]:
        with suppress(FileNotFoundError):  # of a download that has just been completed
            if file.is_file() and not file.is_symlink():
                items.append(Item(file, file.stat().st_size / 1e6, *_classify(file)))
    return sorted(items, key=lambda item: (-item.megabytes, item.file))


def prune() -> list[Item]:
    """Delete what is not needed any more, and return it.

    These are downloads that were converted, unfinished downloads of an hour ago or earlier, and copies of files that
    are gone or have changed; nothing outside the cache folder, and nothing that clipgen did not put there.
    """
    items = [item for item in list_items() if item.deletable]
    for item in items:
        item.file.unlink(missing_ok=True)
    for folder, _, _ in os.walk(cache_folder(), topdown=False):
        if _PARTIAL.search(folder.removeprefix(str(cache_folder()))) and not os.listdir(folder):
            os.rmdir(folder)
    return items


def _classify(file: Path) -> tuple[str, bool]:
    """Return the kind of a file, and whether it can be deleted."""
    inside = file.relative_to(cache_folder())
    if any(_PARTIAL.fullmatch(part) for part in inside.parts):
        return "unfinished", time.time() - file.stat().st_mtime > _MIN_AGE
    if inside.parts[0] == "converted":
        noted = weights.read_origin(file)
        if not noted:  # not clipgen's own
            return "other", False
        source = Path(noted.get("file", ""))
        stale = _COPY.fullmatch(file.name) and not (source.is_file() and weights.converted_from(source) == file)
        return ("left over", True) if stale else ("converted", False)
    noted = weights.read_origin(weights.converted_path(inside.as_posix()))
    if noted.get("file") == str(file.resolve()) and noted.get("version") == weights.file_version(file):
        return "download, converted", True
    return "other" if len(inside.parts) == 1 else "download", False
