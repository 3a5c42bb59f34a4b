"""Bringing a file here: cut connections are gone on from, and nothing stays that is not what was asked for."""

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
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

import clipgen
from clipgen.progress import listened, tell
from clipgen.storage.files import atomic_write
from clipgen.storage.network import Unreachable, ask, check_reachable
from clipgen.storage.sources import LARGEST, Source, Wrong, check_format, sha256
from clipgen.storage.weights import cache_folder

_TRIES = 5
DRIP, SPAN = 64_000, 60.0  # fewer bytes than this in so many seconds are no download
_LEDGER = threading.Lock()


def disk_full(error: BaseException) -> bool:
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)


def partial(source: Source, name: str, suffix: str) -> Path:
    """What is not whole yet. One for each source: two mirrors need not hold the same bytes."""
    file = cache_folder() / name
    return file.with_name(f".{file.name}.{hashlib.sha256(source.where.encode()).hexdigest()[:8]}{suffix}")


# --- addresses ----------------------------------------------------------------------------------------


def from_address(source: Source, name: str) -> Path:
    """Download with a progress bar; a cut connection goes on where it stopped, in a later session too.

    Raises Unreachable at once where nobody answers, unless something came from there just now.
    """
    part, validator = partial(source, name, ".part"), partial(source, name, ".etag")
    part.parent.mkdir(parents=True, exist_ok=True)
    _ledger()  # one that is damaged is noticed before the work
    had = _size(part)
    try:
        for attempt in range(_TRIES):
            try:
                _append(source, name, part, validator)
                break
            except (OSError, http.client.HTTPException) as error:
                final = isinstance(error, Wrong) or disk_full(error) or attempt == _TRIES - 1
                final |= isinstance(error, Unreachable) and _size(part) == had
                if final or (isinstance(error, urllib.error.HTTPError) and error.code < 500):
                    raise error if isinstance(error, OSError) else OSError(str(error)) from error
                time.sleep(attempt / 2)
        source.check_size(part.stat().st_size)
        check_format(part, name)
        # Without a publisher's checksum, that of the first download: a file may not change behind its address.
        _check_sum(part, source.sha256 or _ledger().get(source.where, ""), source.where)
    except OSError as error:
        if isinstance(error, Wrong) or disk_full(error):
            part.unlink(missing_ok=True)
            validator.unlink(missing_ok=True)
        raise
    os.replace(part, cache_folder() / name)
    validator.unlink(missing_ok=True)
    return cache_folder() / name


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _append(source: Source, name: str, part: Path, validator: Path) -> None:
    """Get what ``part`` lacks. Only what the server calls the same version is added to."""
    tag = validator.read_text("latin-1") if validator.exists() else ""
    have = _size(part) if tag.isprintable() and tag else 0
    headers = {"User-Agent": f"clipgen/{clipgen.__version__}"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": tag}
    try:
        answer = ask(source.where, headers)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:
            if error.headers.get("Content-Range", "") == f"bytes */{have}":
                return  # it was whole already
            raise _anew(part, validator, "the partial file does not fit any more") from error
        raise
    with answer:
        if answer.headers.get_content_type() == "text/html":  # a page that says, with status 200, that it is gone
            raise Wrong("a web page came instead of it")
        length, start = _whole(answer.headers.get("Content-Length")), 0
        version = _version(answer.headers)
        if answer.status == 206:
            if not have:
                raise Wrong("a part of it came, and all of it was asked for")
            try:
                start, length = have, _remaining(answer.headers, have, length, tag)
            except ValueError as error:
                raise _anew(part, validator, str(error)) from error
        elif answer.status != 200:
            raise OSError(f"it answers with status {answer.status}")
        total = start + length if length is not None else None
        if total is not None:
            source.check_size(total)
        tell(name, start, total)
        if not start:
            validator.unlink(missing_ok=True)
            if version:
                validator.write_text(version, "latin-1")
        with (
            part.open("r+b" if start else "wb") as out,
            tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=name, disable=listened()) as bar,
        ):
            out.seek(start)  # not to its end, which another process may move that downloads the same
            mark, began = start, time.monotonic()
            while block := answer.read1(1 << 18):  # what has come, so that a stall loses nothing
                tell(name, out.tell() + len(block), total)
                out.write(block)
                bar.update(len(block))
                if out.tell() > source.limit:
                    raise Wrong(f"more came than the {source.megabytes or LARGEST / 1e6:.0f} MB that it may have")
                if (now := time.monotonic()) - began >= SPAN:
                    if out.tell() - mark < DRIP:
                        raise OSError(f"only {out.tell() - mark} bytes came within {SPAN:g} seconds")
                    mark, began = out.tell(), now
        if total is not None and (size := part.stat().st_size) != total:
            if size > total:
                raise _anew(part, validator, f"{size - total} bytes more came than it has")
            raise OSError(f"the connection was cut {total - size} bytes before the end")


def _anew(part: Path, validator: Path, why: str) -> OSError:
    """Forget what came; returns the error that says so, after which the whole file is asked for."""
    part.unlink(missing_ok=True)
    validator.unlink(missing_ok=True)
    return OSError(f"{why}; it starts again")


def _whole(number: str | None) -> int | None:
    """Return the length that a header has, if there is one. Raises Wrong for anything but decimal digits."""
    if number is not None and not re.fullmatch(r"[0-9]{1,18}", number.strip()):
        raise Wrong(f"its Content-Length is {number[:40]!r}")
    return None if number is None else int(number)


def _version(headers: Any) -> str:
    """Return what If-Range may name: a strong ETag, or else the time of the last change (RFC 9110, 13.1.5)."""
    tag = headers.get("ETag") or ""
    return tag if tag.startswith('"') else headers.get("Last-Modified") or ""


def _remaining(headers: Any, have: int, length: int | None, version: str) -> int:
    """Return how many bytes come, which are all after the first ``have``. Raises ValueError for any other range."""
    given = headers.get("Content-Range") or "none"
    found = re.fullmatch(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", given.strip())
    first, last, total = map(int, found.groups()) if found else (-1, -1, -1)
    if first != have or last < first or last + 1 != total or length not in (None, total - have):
        raise ValueError(f"bytes from {have} on were asked for, and the range that came is {given[:60]!r}")
    if version.startswith('"') and headers.get("ETag", version) != version:
        raise ValueError("the part that came is of another version")
    return total - have


# --- the hub ------------------------------------------------------------------------------------------


def in_hub_cache(source: Source) -> Path | None:
    """A file that the hub's own library has on this machine already, whoever asked for it."""
    from huggingface_hub import try_to_load_from_cache

    if not (hub := source.hub):
        return None
    found = try_to_load_from_cache(hub.repo, hub.path, revision=hub.revision)
    return Path(found) if isinstance(found, str) else None


def check_hub_cache(file: Path, source: Source, name: str) -> Path:
    """The file, if it is what the source promises; looked at whole only once. Raises Wrong."""
    try:
        source.check_size(file.stat().st_size)
        check_format(file, name)
        mark = f"{source.where} {file.stat().st_size} {file.stat().st_mtime_ns}"
        if source.sha256 and not _ledger().get(mark, "").startswith(source.sha256):
            _check_sum(file, source.sha256, mark)
    except Wrong as error:
        raise Wrong(f"{file}: {error}") from error
    return file


def _telling(name: str) -> type[tqdm]:
    """In place of the hub's progress bar: it tells who waits for ``name``."""

    class Telling(tqdm):
        def __init__(self, *args: Any, **options: Any):
            options.pop("name", None)  # of a group of bars, in the hub's own kind
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
    """Raise Unreachable if a file of the hub is not here, and the hub is not either: its library would ask for long."""
    from huggingface_hub import constants

    if not (constants.HF_HUB_OFFLINE or in_hub_cache(source)):
        check_reachable(constants.ENDPOINT)


def from_hub(source: Source, name: str, own: bool) -> Path:
    """Download with the hub's library, into its cache, or with ``own`` into clipgen's. Raises Unreachable at once."""
    from huggingface_hub import hf_hub_download

    hub = source.hub
    assert hub
    check_hub(source)
    folder = partial(source, name, ".hub") if own else None
    try:
        asked = "tqdm_class" in inspect.signature(hf_hub_download).parameters  # not of libraries before 1.10
        bar: Any = {"tqdm_class": _telling(name)} if asked and listened() else {}
        file = Path(hf_hub_download(hub.repo, hub.path, revision=hub.revision, local_dir=folder, **bar))
    except OSError:
        raise
    except Exception as error:  # the hub's own errors differ between its versions
        raise OSError(str(error)) from error
    try:
        if not own:
            blob = file.resolve().name  # of large files their checksum, as the hub says it
            if not source.sha256 and len(blob) == 64 and sha256(file) != blob:
                raise Wrong(f"its SHA-256 is not the {blob[:16]}... that the hub says")
            return check_hub_cache(file, source, name)
        source.check_size(file.stat().st_size)
        check_format(file, name)
        _check_sum(file, source.sha256 or "", source.where)
        os.replace(file, cache_folder() / name)
    except Wrong:
        file.resolve().unlink()
        file.unlink(missing_ok=True)
        raise
    finally:
        if folder and folder.exists():
            shutil.rmtree(folder)
    return cache_folder() / name


# --- checksums ----------------------------------------------------------------------------------------


def _ledger() -> dict[str, str]:
    """Return the checksums of what came before. Raises OSError if their file is damaged."""
    file = cache_folder() / "checksums.json"
    try:
        sums = json.loads(file.read_text("utf-8")) if file.exists() else {}
        if not isinstance(sums, dict) or not all(isinstance(digest, str) for digest in sums.values()):
            raise ValueError("it maps no addresses to checksums")
    except (ValueError, RecursionError) as error:
        raise OSError(f"{file} is damaged ({error}); delete it") from error
    return sums


def _check_sum(file: Path, expected: str, mark: str) -> None:
    """Raise Wrong for another checksum than the ``expected`` (its first digits will do); else note it by ``mark``."""
    digest = sha256(file)
    if not digest.startswith(expected):
        raise Wrong(f"its SHA-256 is {digest[:16]}..., and it should be {expected[:16]}...")
    cache_folder().mkdir(parents=True, exist_ok=True)
    with _LEDGER, atomic_write(cache_folder() / "checksums.json") as fresh:
        fresh.write_text(json.dumps(_ledger() | {mark: digest}, indent=1), "utf-8")
