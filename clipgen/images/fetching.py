"""Pictures from public addresses, and from nowhere inside a private network."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import urllib.error
import urllib.request
from typing import Any

from clipgen.errors import ClipgenError

BYTES = 32_000_000  # of a download


def _is_public(address: str) -> bool:
    """Whether a numeric address belongs to the internet at large."""
    number = ipaddress.ip_address(address)
    number = getattr(number, "ipv4_mapped", None) or number
    return number.is_global and not number.is_multicast


def _connect(address: tuple[str, int], timeout: float, source: Any = None) -> socket.socket:
    """A connection to the very addresses that were checked: a name may answer differently the next time."""
    found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
    if not all(_is_public(str(place[4][0])) for place in found):
        raise PermissionError(f"{address[0]} is this machine or a private network, which is not read from")
    return socket.create_connection((str(found[0][4][0]), address[1]), timeout, source)


class _HTTP(http.client.HTTPConnection):
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._create_connection = _connect


class _HTTPS(http.client.HTTPSConnection):
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._create_connection = _connect


class _Guarded(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_HTTP, request)

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_HTTPS, request)


def download(address: str) -> bytes:
    """The bytes behind a public address; redirects are followed, each checked alike."""
    # No proxy: it would resolve names for us, unchecked.
    opener = urllib.request.OpenerDirector()
    redirect, default = urllib.request.HTTPRedirectHandler(), urllib.request.HTTPDefaultErrorHandler()
    for handler in (_Guarded(), redirect, default, urllib.request.HTTPErrorProcessor()):
        opener.add_handler(handler)
    request = urllib.request.Request(address, headers={"User-Agent": "clipgen", "Accept": "image/*"})
    try:
        answer = opener.open(request, timeout=20)
        if answer is None:
            raise OSError("only http and https addresses are read")
        with answer:
            kind = answer.headers.get_content_type()
            if not kind.startswith(("image/", "application/octet-stream")):
                raise OSError(f"it is {kind}, not an image")
            content = answer.read(BYTES + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = " ".join(str(getattr(error, "reason", "") or error).split())
        code = f"HTTP {error.code} " if isinstance(error, urllib.error.HTTPError) else ""
        raise ClipgenError(f"image={address!r}: {code}{reason}; download it yourself and give the file") from error
    if len(content) > BYTES:
        raise ClipgenError(f"image={address!r}: more than {BYTES // 10**6} MB; download it and make it smaller")
    return content
