"""Downloads: a cut connection continues where it stopped, and only a file that is complete and verified is kept."""

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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

import clipgen
from clipgen.progress import has_listener, report_progress
from clipgen.storage import atomic_write
from clipgen.storage.network import UnreachableError, check_reachable, open_url
from clipgen.storage.weights import cache_folder

if TYPE_CHECKING:
    from clipgen.storage.remote import Source

LARGEST = 4e10  # bytes of a file of unknown size: no open_clip model has more
_TRIES = 5
MIN_BYTES, STALL_SECONDS = 64_000, 60.0  # a download of fewer bytes than MIN_BYTES in STALL_SECONDS is given up
_CHECKSUMS_LOCK = threading.Lock()


class WrongFileError(OSError):
    """The downloaded file is not the published one. The download is not continued."""


def check_format(file: Path, name: str) -> None:
    """Raise WrongFileError unless a file begins as its ``name`` ends: as JSON, text, or else weights."""
    with file.open("rb") as stream:
        start = stream.read(64)
    text = start.lstrip()
    if text[:1] == b"<":
        raise WrongFileError("it is a web page")
    suffix = Path(name).suffix
    if suffix == ".json":
        valid = text[:1] in (b"{", b"[")
    elif suffix == ".txt":
        valid = b"\0" not in start
    else:
        pickled = start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5")
        # Safetensors begin with the length of a json header.
        tensors = start[8:9] == b"{" and int.from_bytes(start[:8], "little") < file.stat().st_size
        valid = start[:4] == b"PK\3\4" or pickled or tensors
    if not valid:
        raise WrongFileError(f"its first bytes, {start[:8]!r}, are those of no known format")


def is_disk_full(error: BaseException) -> bool:
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)


def partial_path(source: Source, name: str, suffix: str) -> Path:
    """Return where an unfinished download is. Each source has its own: mirrors may hold different bytes."""
    file = cache_folder() / name
    return file.with_name(f".{file.name}.{hashlib.sha256(source.where.encode()).hexdigest()[:8]}{suffix}")


# --- addresses ----------------------------------------------------------------------------------------


class _StaleError(OSError):
    """The partial download does not match the file on the server. The download restarts."""


@dataclass(frozen=True)
class _Partial:
    """An unfinished download, and a note of its size when complete and the version that it is a part of (RFC 9110)."""

    file: Path
    note: Path

    @property
    def size(self) -> int:
        return self.file.stat().st_size if self.file.exists() else 0

    def begin(self, size: int, headers: Any) -> None:
        """Delete the part, and note the size and version of the file if a request can continue it."""
        self.delete()
        tag = headers.get("ETag") or ""
        version = tag if tag.startswith('"') else headers.get("Last-Modified")  # If-Range takes no weak tag
        if size and version:
            self.note.write_text(f"{size} {version}", "latin-1")

    def read_note(self) -> tuple[int, str]:
        """Return the size of the complete file and its version; 0 and "" if they are not known."""
        text = self.note.read_text("latin-1") if self.note.exists() else ""
        size, _, version = text.partition(" ")
        return (int(size), version) if text.isprintable() and re.fullmatch("[0-9]+", size) else (0, "")

    def delete(self) -> None:
        self.file.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def download_address(source: Source, name: str) -> Path:
    """Download a file with a progress bar; a cut connection continues where it stopped, in a later session too."""
    part = _Partial(partial_path(source, name, ".part"), partial_path(source, name, ".etag"))
    part.file.parent.mkdir(parents=True, exist_ok=True)
    _read_checksums()  # a damaged file is detected early
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
            if isinstance(error, _StaleError):
                part.delete()
            final = isinstance(error, WrongFileError) or is_disk_full(error) or attempt == _TRIES - 1
            final |= isinstance(error, UnreachableError) and part.size == size_before
            final |= isinstance(error, urllib.error.HTTPError) and error.code < 500
            if final:
                raise error if isinstance(error, OSError) else OSError(str(error)) from error
            time.sleep(attempt / 2)


def _request(source: Source, name: str, part: _Partial) -> None:
    """Request the bytes that are missing. Only what the server calls the same version is continued."""
    total, version = part.read_note()
    start = part.size if total else 0
    if total and start == total:
        return
    headers = {"User-Agent": f"clipgen/{clipgen.__version__}"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": version}
    try:
        response = open_url(source.where, headers)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:
            raise _StaleError("the partial file does not fit any more; it starts again") from error
        raise
    with response:
        if response.headers.get_content_type() == "text/html":  # a page that says, with status 200, that it is gone
            raise WrongFileError("a web page came instead of it")
        length = _parse_length(response.headers.get("Content-Length"))
        if start and response.status == 206:
            _check_rest(response.headers, start, total, length, version)
        else:
            start, total = 0, length or 0
            _check_whole(response.status, length, source)
            part.begin(total, response.headers)
        _receive(response, source, name, part.file, start, total or None)
    if total and part.size > total:
        raise _StaleError(f"{part.size - total} bytes more than the file has were received; the download restarts")
    if total and part.size < total:
        raise OSError(f"the connection was cut {total - part.size} bytes before the end")


def _check_whole(status: int, length: int | None, source: Source) -> None:
    """Raise an error unless a whole file comes, of a size that it can have."""
    if status == 206:
        raise WrongFileError("the server sent a partial response (206) to a full request")
    if status != 200:
        raise OSError(f"it answers with status {status}")
    if length is not None:
        source.check_size(length)


def _parse_length(number: str | None) -> int | None:
    """Return the length in a header, if there is one. Raises WrongFileError for anything but decimal digits."""
    if number is not None and not re.fullmatch(r"[0-9]{1,18}", number.strip()):
        raise WrongFileError(f"its Content-Length is {number[:40]!r}")
    return None if number is None else int(number)


def _check_rest(headers: Any, start: int, total: int, length: int | None, version: str) -> None:
    """Raise _StaleError unless all bytes after the first ``start`` come, of the same version."""
    part = (headers.get("Content-Range") or "none").strip()
    if part != f"bytes {start}-{total - 1}/{total}" or length not in (None, total - start):
        raise _StaleError(f"bytes from {start} on were requested, and the range that came is {part[:60]!r}")
    if version.startswith('"') and headers.get("ETag", version) != version:
        raise _StaleError("the part that came is of another version")


def _receive(response: Any, source: Source, name: str, file: Path, start: int, total: int | None) -> None:
    with (
        file.open("r+b" if start else "wb") as out,
        tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=name, disable=has_listener()) as bar,
    ):
        report_progress(name, start, total)
        out.seek(start)  # not to its end, which another process may move that downloads the same
        size_before, began = start, time.monotonic()
        while block := response.read1(1 << 18):  # what has come, so that a stall loses nothing
            report_progress(name, out.tell() + len(block), total)
            out.write(block)
            bar.update(len(block))
            if out.tell() > source.limit:
                raise WrongFileError(f"more came than the {source.limit / 1e6:.0f} MB that it may have")
            if time.monotonic() - began >= STALL_SECONDS:
                if out.tell() - size_before < MIN_BYTES:
                    raise OSError(f"only {out.tell() - size_before} bytes came within {STALL_SECONDS:g} seconds")
                size_before, began = out.tell(), time.monotonic()


# --- the hub ------------------------------------------------------------------------------------------


def find_in_hub_cache(source: Source) -> Path | None:
    """Return a file of the hub that its library has saved on this machine already, for whichever program."""
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(**source.hub) if source.hub else None
    return Path(file) if isinstance(file, str) else None


def check_hub_cache(file: Path, source: Source, name: str) -> Path:
    """Return the file if it is the one of the source; its checksum is computed only once. Raises WrongFileError."""
    blob = file.resolve().name  # of large files their checksum, as the hub has it
    expected = source.sha256 or (blob if len(blob) == 64 else "")
    mark = f"{source.where} {file.stat().st_size} {file.stat().st_mtime_ns}"
    try:
        source.check_size(file.stat().st_size)
        check_format(file, name)
        if expected and not _read_checksums().get(mark, "").startswith(expected):
            _check_sum(file, expected, mark)
    except WrongFileError as error:
        raise WrongFileError(f"{file}: {error}") from error
    return file


def _progress_class(name: str) -> type[tqdm]:
    """Return a progress bar for the hub's library, which shows nothing and reports to the listener."""

    class ListenerBar(tqdm):
        def __init__(self, *args: Any, **options: Any):
            options.pop("name", None)  # of a group of bars, in the hub's own class
            # One of the two bars of a Xet download counts the same bytes once more.
            self._counted = None if "reconstruct" in options.get("desc", "") else options.get("initial", 0)
            super().__init__(*args, **options | {"disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            if self._counted is not None:
                self._counted += n or 0
                report_progress(name, int(self._counted), self.total and int(self.total))
            return super().update(n)

    return ListenerBar


def check_hub(repo_id: str, filename: str, revision: str | None = None) -> None:
    """Raise UnreachableError if a file is not cached and the hub is unreachable: its library would retry long."""
    from huggingface_hub import constants, try_to_load_from_cache

    is_cached = isinstance(try_to_load_from_cache(repo_id, filename, revision=revision), str)
    if not (constants.HF_HUB_OFFLINE or is_cached):
        check_reachable(constants.ENDPOINT)


def download_from_hub(source: Source, name: str, bulky: bool) -> Path:
    """Download with the hub's library, into its cache, or if ``bulky`` into clipgen's. Raises OSError."""
    from huggingface_hub import hf_hub_download

    check_hub(**source.hub)
    folder = partial_path(source, name, ".hub") if bulky else None
    has_bar = "tqdm_class" in inspect.signature(hf_hub_download).parameters  # not before version 1.10
    bar: Any = {"tqdm_class": _progress_class(name)} if has_bar and has_listener() else {}
    try:
        file = Path(hf_hub_download(**source.hub, local_dir=folder, **bar))
    except Exception as error:  # the hub's own errors differ between its versions
        raise error if isinstance(error, OSError) else OSError(str(error)) from error
    try:
        check_hub_cache(file, source, name)
        return file.replace(cache_folder() / name) if bulky else file
    except WrongFileError:
        file.resolve().unlink()
        file.unlink(missing_ok=True)
        raise
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


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
    sha256 = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            sha256.update(block)
    digest = sha256.hexdigest()
    if not digest.startswith(expected):
        raise WrongFileError(f"its SHA-256 is {digest[:16]}..., and it should be {expected[:16]}...")
    with suppress(OSError), _CHECKSUMS_LOCK:  # where it cannot be saved, it is computed again
        cache_folder().mkdir(parents=True, exist_ok=True)
        with atomic_write(cache_folder() / "checksums.json") as part:
            part.write_text(json.dumps(_read_checksums() | {mark: digest}, indent=1), "utf-8")
