"""Bringing a file here: cut connections are gone on from, and nothing stays that is not what was asked for."""

from __future__ import annotations

import errno
import hashlib
import http.client
import inspect
import json
import os
import shutil
import time
import urllib.error
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

import clipgen
from clipgen.progress import listened, tell
from clipgen.storage.network import Unreachable, ask, check_reachable
from clipgen.storage.sources import Source, Wrong, check_format, sha256
from clipgen.storage.weights import atomic, cache

_TRIES = 5


def disk_full(error: BaseException) -> bool:
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)


def partial(source: Source, name: str, suffix: str) -> Path:
    """What is not whole yet. One for each source: two mirrors need not hold the same bytes."""
    file = cache() / name
    return file.with_name(f".{file.name}.{hashlib.sha256(source.where.encode()).hexdigest()[:8]}{suffix}")


# --- addresses ----------------------------------------------------------------------------------------


def from_address(source: Source, name: str) -> Path:
    """Download with a progress bar; a cut connection goes on where it stopped, in a later session too.

    Raises Unreachable at once where nobody answers, unless something came from there just now.
    """
    part, validator = partial(source, name, ".part"), partial(source, name, ".etag")
    part.parent.mkdir(parents=True, exist_ok=True)
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
    os.replace(part, cache() / name)
    validator.unlink(missing_ok=True)
    return cache() / name


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _append(source: Source, name: str, part: Path, validator: Path) -> None:
    """Get what ``part`` lacks. Only what the server calls the same version is added to."""
    have = _size(part) if validator.exists() else 0
    headers = {"User-Agent": f"clipgen/{clipgen.__version__}"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator.read_text()}
    try:
        answer = ask(source.where, headers)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:
            if error.headers.get("Content-Range", "") == f"bytes */{have}":
                return  # it was whole already
            part.unlink()
            raise OSError("the partial file does not fit any more; it starts again") from error
        raise
    with answer:
        if answer.headers.get_content_type() == "text/html":  # a page that says, with status 200, that it is gone
            raise Wrong("a web page came instead of it")
        start = have if answer.status == 206 else 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length else None
        if total is not None:
            source.check_size(total)
        tell(name, start, total)
        if not start and (version := answer.headers.get("ETag") or answer.headers.get("Last-Modified")):
            validator.write_text(version)
        with (
            part.open("ab" if start else "wb") as out,
            tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=name, disable=listened()) as bar,
        ):
            while block := answer.read1(1 << 18):  # what has come, so that a stall loses nothing
                tell(name, out.tell() + len(block), total)
                out.write(block)
                bar.update(len(block))
                if out.tell() > source.limit:
                    raise Wrong(f"more came than the {source.megabytes:.0f} MB that it has")
        if total is not None and part.stat().st_size < total:
            raise OSError(f"the connection was cut {total - part.stat().st_size} bytes before the end")


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
        os.replace(file, cache() / name)
    except Wrong:
        file.resolve().unlink()
        file.unlink(missing_ok=True)
        raise
    finally:
        if folder and folder.exists():
            shutil.rmtree(folder)
    return cache() / name


# --- checksums ----------------------------------------------------------------------------------------


def _ledger() -> dict[str, str]:
    """The checksums of what came before."""
    file = cache() / "checksums.json"
    return json.loads(file.read_text()) if file.exists() else {}


def _check_sum(file: Path, expected: str, mark: str) -> None:
    """Raise Wrong for another checksum than the ``expected`` (its first digits will do); else note it by ``mark``."""
    digest = sha256(file)
    if not digest.startswith(expected):
        raise Wrong(f"its SHA-256 is {digest[:16]}..., and it should be {expected[:16]}...")
    with atomic(cache() / "checksums.json") as fresh:
        fresh.write_text(json.dumps(_ledger() | {mark: digest}, indent=1))
