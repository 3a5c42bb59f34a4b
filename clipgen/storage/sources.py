"""Where a published file can be had, written in one line, and how to tell that it is that file."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

_HUB = re.compile(r"hf:(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?/(?P<path>.+)")

LARGEST = 4e10  # bytes of a file of unknown size: no open_clip model has more


class Hub(NamedTuple):
    """A file of a repository on the hub; ``revision`` None: the newest."""

    repo: str
    revision: str | None
    path: str


class WrongFileError(OSError):
    """The file that came is not the one that was published: its download cannot be continued."""


@dataclass(frozen=True)
class Source:
    """One place that has a file: ``where`` is an address, or ``hf:owner/repo[@revision]/path``."""

    where: str
    megabytes: float | None = None  # roughly; much more is refused, and less than half
    sha256: str | None = None  # or its first digits

    @classmethod
    def parse(cls, line: str, megabytes: float | None = None, sha256: str | None = None) -> Source:
        """Parse a place; what differs in this copy stands behind a ``#``: ``#sha256=0a1b&megabytes=359``."""
        where, _, fragment = line.partition("#")
        facts = {key: values[0] for key, values in parse_qs(fragment, strict_parsing=bool(fragment)).items()}
        return cls(where, float(facts.get("megabytes", megabytes or 0)) or None, facts.get("sha256", sha256))

    @property
    def hub(self) -> Hub | None:
        """The file on the Hugging Face hub; None for an address."""
        match = _HUB.fullmatch(self.where)
        return Hub(**match.groupdict()) if match else None

    @property
    def host(self) -> str:
        """The host of an address, or "hub"."""
        return "hub" if self.hub else urlsplit(self.where).netloc

    @property
    def limit(self) -> float:
        """The most bytes that are taken from here."""
        return LARGEST if self.megabytes is None else self.megabytes * 1.25e6 + 1e6

    def check_size(self, size: int) -> None:
        """Raise WrongFileError for a number of bytes that this file cannot have."""
        if size > self.limit:
            raise WrongFileError(f"{size} bytes are offered, but it has about {self.megabytes or LARGEST / 1e6:.0f} MB")
        if size < (self.megabytes or 0) * 0.5e6:
            raise WrongFileError(f"{size} bytes are too few, it has about {self.megabytes:.0f} MB")


def check_format(file: Path, name: str) -> None:
    """Raise WrongFileError for a file that does not begin as weights (or json, or text, as ``name`` ends).

    Weights are a zip archive or a pickle of at least protocol 2 (both of ``torch.save``), or safetensors, which
    begin with the length of a json header.
    """
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
        tensors = start[8:9] == b"{" and int.from_bytes(start[:8], "little") < file.stat().st_size
        valid = start[:4] == b"PK\3\4" or pickled or tensors
    if not valid:
        raise WrongFileError(f"its first bytes, {start[:8]!r}, are those of no known format")


def hash_file(file: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
