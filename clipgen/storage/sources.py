"""Where a published file can be had, written in one line, and how to tell that it is that file."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

_HUB = re.compile(r"hf:(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?/(?P<path>.+)")

LARGEST = 4e10  # bytes of a file whose size nobody has noted: no open_clip model has more


class Hub(NamedTuple):
    """A file of a repository on the hub; ``revision`` None: as it is now."""

    repo: str
    revision: str | None
    path: str


class Wrong(OSError):
    """What came is not the file that was asked for: there is nothing to go on from."""


@dataclass(frozen=True)
class Source:
    """One place that has a file: ``where`` is an address, or ``hf:owner/repo[@revision]/path``."""

    where: str
    megabytes: float | None = None  # roughly; much more is refused, and less than half
    sha256: str | None = None  # or its first digits

    @classmethod
    def read(cls, line: str, megabytes: float | None = None, sha256: str | None = None) -> Source:
        """``line``: the place; behind a ``#`` what this copy has of its own, ``#sha256=0a1b&megabytes=359``."""
        where, _, own = line.partition("#")
        facts = {key: values[0] for key, values in parse_qs(own, strict_parsing=bool(own)).items()}
        return cls(where, float(facts.get("megabytes", megabytes or 0)) or None, facts.get("sha256", sha256))

    @property
    def hub(self) -> Hub | None:
        """Where on the Hugging Face hub; None for an address."""
        found = _HUB.fullmatch(self.where)
        return Hub(**found.groupdict()) if found else None

    @property
    def host(self) -> str:
        """Who is asked: the part of an address before its path; "hub"."""
        return "hub" if self.hub else urlsplit(self.where).netloc

    @property
    def limit(self) -> float:
        """The most bytes that are taken from here."""
        return LARGEST if self.megabytes is None else self.megabytes * 1.25e6 + 1e6

    def check_size(self, size: int) -> None:
        """Raise Wrong for a number of bytes that this file cannot have."""
        if size > self.limit:
            raise Wrong(f"{size} bytes are offered, but it has about {self.megabytes or LARGEST / 1e6:.0f} MB")
        if size < (self.megabytes or 0) * 0.5e6:
            raise Wrong(f"{size} bytes are too few, it has about {self.megabytes:.0f} MB")


def check_format(file: Path, name: str) -> None:
    """Raise Wrong for a file whose first bytes are not those of weights (or json, or text, as ``name`` ends).

    Weights are a zip archive or a pickle of at least protocol 2 (both of ``torch.save``), or safetensors, which
    begin with the length of a json header.
    """
    with file.open("rb") as stream:
        start = stream.read(64)
    if start.lstrip()[:1] == b"<":
        raise Wrong("it is a web page")
    suffix = Path(name).suffix
    known = {".json": start.lstrip()[:1] in (b"{", b"["), ".txt": b"\0" not in start}.get(suffix)
    if known is None:
        pickled = start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5")
        tensors = start[8:9] == b"{" and int.from_bytes(start[:8], "little") < file.stat().st_size
        known = start[:4] == b"PK\3\4" or pickled or tensors
    if not known:
        raise Wrong(f"its first bytes, {start[:8]!r}, are those of no known format")


def sha256(file: Path) -> str:
    """The checksum of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
