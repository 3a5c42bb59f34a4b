"""Downloads: a cut connection continues where it stopped, and only a file that is complete and right is kept."""

from __future__ import annotations

import errno
import hashlib
import http.client
import inspect
import json
import os
import re
import shutil
import threading
import time
import urllib.error
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

import clipgen
from clipgen.progress import is_listened_to, tell
from clipgen.storage.files import atomic_write
from clipgen.storage.network import UnreachableError, ask, check_reachable
from clipgen.storage.sources import LARGEST, Source, WrongFileError, check_format, hash_file
from clipgen.storage.weights import cache_folder

_TRIES = 5
DRIP, SPAN = 64_000, 60.0  # fewer bytes than DRIP in SPAN seconds are no download
_CHECKSUMS_LOCK = threading.Lock()


def is_disk_full(error: BaseException) -> bool:
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)


def partial_path(source: Source, name: str, suffix: str) -> Path:
    """Return where an unfinished download is. Each source has its own: mirrors may hold different bytes."""
    file = cache_folder() / name
    return file.with_name(f".{file.name}.{hashlib.sha256(source.where.encode()).hexdigest()[:8]}{suffix}")


# --- addresses ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Partial:
    """An unfinished download, and a file with the validator (RFC 9110) of the version that it is a part of."""

    file: Path
    validator: Path

    @property
    def size(self) -> int:
        return self.file.stat().st_size if self.file.exists() else 0

    @property
    def tag(self) -> str:
        tag = self.validator.read_text("latin-1") if self.validator.exists() else ""
        return tag if tag.isprintable() else ""

    def delete(self) -> None:
        self.file.unlink(missing_ok=True)
        self.validator.unlink(missing_ok=True)

    def restart(self, why: str) -> OSError:
        """Delete what came; return the error after which the whole file is requested."""
        self.delete()
        return OSError(f"{why}; it starts again")


def from_address(source: Source, name: str) -> Path:
    """Download a file with a progress bar; a cut connection continues where it stopped, in a later session too.

    Raises:
        UnreachableError: At once, if nobody answers and nothing came.
        OSError: The download failed.
    """
    part = _Partial(partial_path(source, name, ".part"), partial_path(source, name, ".etag"))
    part.file.parent.mkdir(parents=True, exist_ok=True)
    _read_checksums()  # a damaged file is noticed before the work
    try:
        _download(source, name, part)
        source.check_size(part.size)
        check_format(part.file, name)
        # Without a publisher's checksum, that of the first download: a file may not change behind its address.
        _check_sum(part.file, source.sha256 or _read_checksums().get(source.where, ""), source.where)
    except OSError as error:
        if isinstance(error, WrongFileError) or is_disk_full(error):
            part.delete()
        raise
    os.replace(part.file, cache_folder() / name)
    part.delete()
    return cache_folder() / name


def _download(source: Source, name: str, part: _Partial) -> None:
    """Request a file until it is complete, several times if the connection is cut."""
    size_before = part.size
    for attempt in range(_TRIES):
        try:
            return _request(source, name, part)
        except (OSError, http.client.HTTPException) as error:
            final = isinstance(error, WrongFileError) or is_disk_full(error) or attempt == _TRIES - 1
            final |= isinstance(error, UnreachableError) and part.size == size_before
            final |= isinstance(error, urllib.error.HTTPError) and error.code < 500
            if final:
                raise error if isinstance(error, OSError) else OSError(str(error)) from error
            time.sleep(attempt / 2)


def _request(source: Source, name: str, part: _Partial) -> None:
    """Request the bytes that are missing. Only what the server calls the same version is continued."""
    tag = part.tag
    have = part.size if tag else 0
    headers = {"User-Agent": f"clipgen/{clipgen.__version__}"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": tag}
    try:
        answer = ask(source.where, headers)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        if error.headers.get("Content-Range", "") == f"bytes */{have}":
            return  # it was complete already
        raise part.restart("the partial file does not fit any more") from error
    with answer:
        start, total = _read_range(answer, part, have, tag)
        if total is not None:
            source.check_size(total)
        tell(name, start, total)
        if not start:
            part.validator.unlink(missing_ok=True)
            if version := _read_version(answer.headers):
                part.validator.write_text(version, "latin-1")
        _receive(answer, source, name, part.file, start, total)
    if total is not None and part.size > total:
        raise part.restart(f"{part.size - total} bytes more came than it has")
    if total is not None and part.size < total:
        raise OSError(f"the connection was cut {total - part.size} bytes before the end")


def _read_range(answer: Any, part: _Partial, have: int, tag: str) -> tuple[int, int | None]:
    """Return the first byte that comes, and the size of the whole file if it is known."""
    if answer.headers.get_content_type() == "text/html":  # a page that says, with status 200, that it is gone
        raise WrongFileError("a web page came instead of it")
    length = _parse_length(answer.headers.get("Content-Length"))
    if answer.status == 206:
        if not have:
            raise WrongFileError("a part of it came, and all of it was requested")
        try:
            return have, have + _count_remaining(answer.headers, have, length, tag)
        except ValueError as error:
            raise part.restart(str(error)) from error
    if answer.status != 200:
        raise OSError(f"it answers with status {answer.status}")
    return 0, length


def _receive(answer: Any, source: Source, name: str, file: Path, start: int, total: int | None) -> None:
    with (
        file.open("r+b" if start else "wb") as out,
        tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=name, disable=is_listened_to()) as bar,
    ):
        out.seek(start)  # not to its end, which another process may move that downloads the same
        mark, began = start, time.monotonic()
        while block := answer.read1(1 << 18):  # what has come, so that a stall loses nothing
            tell(name, out.tell() + len(block), total)
            out.write(block)
            bar.update(len(block))
            if out.tell() > source.limit:
                most = source.megabytes or LARGEST / 1e6
                raise WrongFileError(f"more came than the {most:.0f} MB that it may have")
            if time.monotonic() - began >= SPAN:
                if out.tell() - mark < DRIP:
                    raise OSError(f"only {out.tell() - mark} bytes came within {SPAN:g} seconds")
                mark, began = out.tell(), time.monotonic()


def _parse_length(number: str | None) -> int | None:
    """Return the length in a header, if there is one. Raises WrongFileError for anything but decimal digits."""
    if number is not None and not re.fullmatch(r"[0-9]{1,18}", number.strip()):
        raise WrongFileError(f"its Content-Length is {number[:40]!r}")
    return None if number is None else int(number)


def _read_version(headers: Any) -> str:
    """Return what If-Range may name: a strong ETag, or else the time of the last change (RFC 9110, 13.1.5)."""
    tag = headers.get("ETag") or ""
    return tag if tag.startswith('"') else headers.get("Last-Modified") or ""


def _count_remaining(headers: Any, have: int, length: int | None, version: str) -> int:
    """Return how many bytes come, which are all after the first ``have``. Raises ValueError for any other range."""
    text = headers.get("Content-Range") or "none"
    match = re.fullmatch(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", text.strip())
    first, last, total = map(int, match.groups()) if match else (-1, -1, -1)
    if first != have or last < first or last + 1 != total or length not in (None, total - have):
        raise ValueError(f"bytes from {have} on were requested, and the range that came is {text[:60]!r}")
    if version.startswith('"') and headers.get("ETag", version) != version:
        raise ValueError("the part that came is of another version")
    return total - have


# --- the hub ------------------------------------------------------------------------------------------


def find_in_hub_cache(source: Source) -> Path | None:
    """Return a file of the hub that its library has saved on this machine already, for whichever program."""
    from huggingface_hub import try_to_load_from_cache

    if not (hub := source.hub):
        return None
    file = try_to_load_from_cache(hub.repo, hub.path, revision=hub.revision)
    return Path(file) if isinstance(file, str) else None


def check_hub_cache(file: Path, source: Source, name: str) -> Path:
    """Return the file if it is the one of the source; its checksum is computed only once. Raises WrongFileError."""
    try:
        source.check_size(file.stat().st_size)
        check_format(file, name)
        mark = f"{source.where} {file.stat().st_size} {file.stat().st_mtime_ns}"
        if source.sha256 and not _read_checksums().get(mark, "").startswith(source.sha256):
            _check_sum(file, source.sha256, mark)
    except WrongFileError as error:
        raise WrongFileError(f"{file}: {error}") from error
    return file


def _progress_class(name: str) -> type[tqdm]:
    """Return a class that stands in for the hub's progress bar, and tells the listener of ``name``."""

    class Telling(tqdm):
        def __init__(self, *args: Any, **options: Any):
            options.pop("name", None)  # of a group of bars, in the hub's own class
            # One of the two bars of a Xet download counts the same bytes once more.
            self._counted = None if "reconstruct" in options.get("desc", "") else options.get("initial", 0)
            super().__init__(*args, **options | {"disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            if self._counted is not None:
                self._counted += n or 0
                tell(name, int(self._counted), self.total and int(self.total))
            return super().update(n)

    return Telling


def check_hub(source: Source) -> None:
    """Raise UnreachableError if a file of the hub is not here and the hub is silent: its library would retry long."""
    from huggingface_hub import constants

    if not (constants.HF_HUB_OFFLINE or find_in_hub_cache(source)):
        check_reachable(constants.ENDPOINT)


def from_hub(source: Source, name: str, own: bool) -> Path:
    """Download with the hub's library, into its cache, or if ``own`` into clipgen's.

    Raises:
        UnreachableError: At once, if the hub does not answer.
        OSError: The download failed.
    """
    from huggingface_hub import hf_hub_download

    hub = source.hub
    assert hub
    check_hub(source)
    folder = partial_path(source, name, ".hub") if own else None
    has_bar = "tqdm_class" in inspect.signature(hf_hub_download).parameters  # not before version 1.10
    bar: Any = {"tqdm_class": _progress_class(name)} if has_bar and is_listened_to() else {}
    try:
        file = Path(hf_hub_download(hub.repo, hub.path, revision=hub.revision, local_dir=folder, **bar))
    except OSError:
        raise
    except Exception as error:  # the hub's own errors differ between its versions
        raise OSError(str(error)) from error
    try:
        if not own:
            blob = file.resolve().name  # of large files their checksum, as the hub has it
            if not source.sha256 and len(blob) == 64 and hash_file(file) != blob:
                raise WrongFileError(f"its SHA-256 is not the {blob[:16]}... of the hub")
            return check_hub_cache(file, source, name)
        source.check_size(file.stat().st_size)
        check_format(file, name)
        _check_sum(file, source.sha256 or "", source.where)
        os.replace(file, cache_folder() / name)
    except WrongFileError:
        file.resolve().unlink()
        file.unlink(missing_ok=True)
        raise
    finally:
        if folder and folder.exists():
            shutil.rmtree(folder)
    return cache_folder() / name


# --- checksums ----------------------------------------------------------------------------------------


def _read_checksums() -> dict[str, str]:
    """Return the checksums of earlier downloads. Raises OSError if their file is damaged."""
    file = cache_folder() / "checksums.json"
    try:
        sums = json.loads(file.read_text("utf-8")) if file.exists() else {}
        if not isinstance(sums, dict) or not all(isinstance(digest, str) for digest in sums.values()):
            raise ValueError("it maps no addresses to checksums")
    except (ValueError, RecursionError) as error:
        raise OSError(f"{file} is damaged ({error}); delete it") from error
    return sums


def _check_sum(file: Path, expected: str, mark: str) -> None:
    """Raise WrongFileError for another checksum than ``expected`` (or its first digits); else save it by ``mark``."""
    digest = hash_file(file)
    if not digest.startswith(expected):
        raise WrongFileError(f"its SHA-256 is {digest[:16]}..., and it should be {expected[:16]}...")
    cache_folder().mkdir(parents=True, exist_ok=True)
    with _CHECKSUMS_LOCK, atomic_write(cache_folder() / "checksums.json") as part:
        part.write_text(json.dumps(_read_checksums() | {mark: digest}, indent=1), "utf-8")
