"""Getting published files: from the cache, the Hugging Face hub, the publisher's address or a mirror."""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
import warnings
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

import clipgen
from clipgen.errors import ClipgenError
from clipgen.weights import atomic, cache

_TRIES = 5
TIMEOUT = 30.0  # seconds without a byte


@dataclass(frozen=True)
class Remote:
    """A published file. ``sources`` in the order of trying: ``hf:owner/repo/path`` or an address."""

    name: str  # in the cache folder, such as "dvae/encoder.pkl"
    sources: tuple[str, ...]
    megabytes: float | None = None  # roughly; much more is refused
    sha256: str | None = None  # or its first digits, where the publisher names it

    @property
    def limit(self) -> float:
        """The most bytes that are taken for this file."""
        return float("inf") if self.megabytes is None else self.megabytes * 1.25e6 + 1e6


def offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` asks for nothing to be downloaded."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def cached(remote: Remote) -> Path | None:
    """The file, if it is already on this machine."""
    from huggingface_hub import try_to_load_from_cache

    if (file := cache() / remote.name).is_file():
        return file
    for source in remote.sources:
        if source.startswith("hf:"):
            repo, path = _hub(source)
            if isinstance(found := try_to_load_from_cache(repo, path), str):
                return Path(found)
    return None


def fetch(remote: Remote) -> Path:
    """The file on this machine, downloaded if need be.

    A source that fails is skipped with a warning. Raises ClipgenError that lists what was tried.
    """
    if found := cached(remote):
        if found.stat().st_size > remote.limit:
            raise ClipgenError(f"{found}: {found.stat().st_size} bytes are more than {remote.name} has; delete it")
        return found
    tried = []
    for source in remote.sources:
        if offline():
            tried.append(f"{source}: HF_HUB_OFFLINE is set")
            continue
        try:
            return _from_hub(source) if source.startswith("hf:") else _from_address(source, remote)
        except ClipgenError:
            raise
        except OSError as error:
            if _disk_full(error):
                raise ClipgenError(
                    f"{cache()}: the disk is full; make room, or set CLIPGEN_CACHE to another folder"
                ) from error
            reason = " ".join(str(error).split())[:160] or type(error).__name__
            tried.append(f"{source}: {reason}")
            warnings.warn(f"{source} cannot be had ({reason}); trying the next source", stacklevel=2)
    raise ClipgenError(
        f"{remote.name} could not be downloaded. Tried:\n  " + "\n  ".join(tried) + "\n"
        f"If you have the file, put it here: {cache() / remote.name}"
    )


def _hub(source: str) -> tuple[str, str]:
    owner, repo, path = source.removeprefix("hf:").split("/", 2)
    return f"{owner}/{repo}", path


def _from_hub(source: str) -> Path:
    from huggingface_hub import hf_hub_download

    repo, path = _hub(source)
    try:
        return Path(hf_hub_download(repo, path))
    except OSError:
        raise
    except Exception as error:  # the hub's own errors differ between its versions
        raise OSError(str(error)) from error


class _Wrong(OSError):
    """What came is not the file that was asked for: there is nothing to go on from."""


def _from_address(address: str, remote: Remote) -> Path:
    """Download with a progress bar; a cut connection goes on where it stopped, in a later session too."""
    file = cache() / remote.name
    # One partial file per address: two mirrors need not hold the same bytes.
    part = file.with_name(f".{file.name}.{hashlib.sha256(address.encode()).hexdigest()[:8]}.part")
    validator = part.with_suffix(".etag")
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        for attempt in range(_TRIES):
            try:
                _append(address, part, validator, remote)
                break
            except (OSError, http.client.HTTPException) as error:
                final = isinstance(error, _Wrong) or _disk_full(error) or attempt == _TRIES - 1
                if final or (isinstance(error, urllib.error.HTTPError) and error.code < 500):
                    raise error if isinstance(error, OSError) else OSError(str(error)) from error
                time.sleep(attempt / 2)
        _verify(part, remote)
    except OSError as error:
        if isinstance(error, _Wrong) or _disk_full(error):
            part.unlink(missing_ok=True)
            validator.unlink(missing_ok=True)
        raise
    os.replace(part, file)
    validator.unlink(missing_ok=True)
    return file


def _disk_full(error: BaseException) -> bool:
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)


def _append(address: str, part: Path, validator: Path, remote: Remote) -> None:
    """Get what ``part`` lacks. Only what the server calls the same version is added to."""
    have = part.stat().st_size if part.exists() and validator.exists() else 0
    headers = {"User-Agent": f"clipgen/{clipgen.__version__}"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator.read_text()}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:
            if error.headers.get("Content-Range", "") == f"bytes */{have}":
                return  # it was whole already
            part.unlink()
            raise OSError("the partial file does not fit any more; it starts again") from error
        raise
    with answer:
        start = have if answer.status == 206 else 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length else None
        if max(total or 0, start) > remote.limit:
            raise _Wrong(f"{total} bytes are offered, but {remote.name} has about {remote.megabytes:.0f} MB")
        if not start and (version := answer.headers.get("ETag") or answer.headers.get("Last-Modified")):
            validator.write_text(version)
        with (
            part.open("ab" if start else "wb") as out,
            tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=remote.name) as bar,
        ):
            while block := answer.read1(1 << 18):  # what has come, so that a stall loses nothing
                out.write(block)
                bar.update(len(block))
                if out.tell() > remote.limit:
                    raise _Wrong(f"more came than the {remote.megabytes:.0f} MB that {remote.name} has")
        if total is not None and part.stat().st_size < total:
            raise OSError(f"the connection was cut {total - part.stat().st_size} bytes before the end")


def _verify(part: Path, remote: Remote) -> None:
    """The publisher's checksum, or that of the first download: a file may not change behind its name."""
    digest = hashlib.sha256()
    with part.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    ledger = cache() / "checksums.json"
    known = json.loads(ledger.read_text()) if ledger.exists() else {}
    expected = remote.sha256 or known.get(remote.name, "")
    if not digest.hexdigest().startswith(expected):
        raise _Wrong(f"its SHA-256 is {digest.hexdigest()[:16]}..., and it should be {expected[:16]}...")
    with atomic(ledger) as fresh:
        fresh.write_text(json.dumps(known | {remote.name: digest.hexdigest()}, indent=1))
