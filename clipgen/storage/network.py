"""Requests: of published files, and of pictures, which may come from public addresses only."""

import http.client
import ipaddress
import re
import socket
import ssl
import string
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from clipgen.errors import ClipgenError

TIMEOUT = 10.0  # seconds for a connection to each address of a host, and without a byte after that
MAX_BYTES = 32_000_000  # of a picture
MAX_SECONDS = 120.0  # for all of it
_UNICAST = ipaddress.IPv6Network("2000::/3")  # all IPv6 addresses of the internet at large
_SPECIAL = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20")))  # not all known to Python
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
_ISATAP = 0x5EFE  # RFC 5214: stands before an IPv4 address in the last 64 bits, but for the global bit


class UnreachableError(OSError):
    """No server answers: no network, no such host, or no server. A retry would not help."""


def open_url(address: str, headers: Mapping[str, str], method: str = "GET") -> Any:
    """Open a URL and return the response, which the caller closes.

    Raises:
        UnreachableError: No server answers.
        OSError, HTTPException: Anything else that fails.
    """
    request = urllib.request.Request(address, headers=dict(headers), method=method)
    no_answer = f"nobody answers at {urlsplit(address).netloc}"
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError:
        raise
    except urllib.error.URLError as error:
        if not isinstance(error.reason, OSError) or isinstance(error.reason, ssl.SSLError):  # a server is there
            raise
        raise UnreachableError(f"{no_answer} ({error.reason})") from error
    except TimeoutError as error:
        raise UnreachableError(f"{no_answer} within {TIMEOUT:g} seconds") from error
    except ValueError as error:  # a redirect to something that is not an address, or an impossible name
        raise OSError(f"it leads to something that is not an address ({error})") from error


@lru_cache
def check_reachable(address: str) -> None:
    """Raise UnreachableError if nobody answers at an address. The first success is cached."""
    try:
        open_url(address, {}, "HEAD").close()
    except UnreachableError:
        raise
    except (OSError, http.client.HTTPException):
        pass  # an HTTP error still means reachable


def _is_public(address: str) -> bool:
    """Return whether a numeric address, and every IPv4 address that it embeds, belongs to the internet at large."""
    number = ipaddress.ip_address(address)
    if any(number in network for network in _SPECIAL):
        return False
    if isinstance(number, ipaddress.IPv4Address):
        return number.is_global and not number.is_multicast
    last = ipaddress.IPv4Address(int(number) & 0xFFFFFFFF)
    if number.ipv4_mapped or number in _NAT64:
        return _is_public(str(last))
    embedded = [number.sixtofour, last if int(number) >> 32 & 0xFDFFFFFF == _ISATAP else None]
    # Teredo's relays are gone, and its addresses embed two that are not checked by whoever forwards them.
    unicast = number in _UNICAST and number.is_global and number.teredo is None
    return unicast and all(_is_public(str(one)) for one in embedded if one)


class _PublicOnlyHandler(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Connects to public addresses only. Needs ``end``, because a socket's own timeout restarts with every byte."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = False
        self.duplicates = list[socket.socket]()  # of the sockets, because TLS detaches the originals

    def end(self) -> None:
        """End all connections, now and from now on."""
        self.ended = True
        for duplicate in self.duplicates:
            with suppress(OSError):
                duplicate.shutdown(socket.SHUT_RDWR)  # ends a pending read

    def connect(self, address: tuple[str, int], timeout: float | None = None, source: Any = None) -> socket.socket:
        """Return a connection to the very addresses that were checked: a name may answer differently the next time."""
        results = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
        if not all(_is_public(str(result[4][0])) for result in results):
            raise PermissionError(f"{address[0]} is this machine or a private network, which is not read from")
        connection = socket.create_connection((str(results[0][4][0]), address[1]), timeout, source)
        self.duplicates.append(connection.dup())
        if self.ended:
            self.end()
        return connection

    def _connect(self, kind: Any, *args: Any, **kwargs: Any) -> Any:
        connection = kind(*args, **kwargs)
        connection._create_connection = self.connect
        return connection

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(self._connect, http.client.HTTPConnection), request)  # type: ignore[arg-type]

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(self._connect, http.client.HTTPSConnection), request)  # type: ignore[arg-type]


def _encode(address: str) -> str:
    """Return an address in ASCII: its host in IDNA, everything else percent-encoded."""
    parts = urlsplit(address.strip())
    host = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode()
    whole = urlunsplit(parts._replace(netloc=host, fragment=""))
    return quote(re.sub("%(?![0-9a-fA-F]{2})", "%25", whole), safe=string.punctuation)


def read_public(address: str, name: str = "image", limit: int | None = None) -> bytes:
    """Return the bytes at a public http(s) address. Redirects are followed, and checked in the same way.

    Args:
        address: What is downloaded.
        name: The argument that names it, for errors.
        limit: Maximum size in bytes, by default ``MAX_BYTES``.

    Raises:
        ClipgenError: For a private address, one that gives no picture or film, and for what is too large or too slow.
    """
    # No proxy: it would resolve names for us, unchecked.
    limit, handler, opener = limit or MAX_BYTES, _PublicOnlyHandler(), urllib.request.OpenerDirector()
    redirect, default = urllib.request.HTTPRedirectHandler(), urllib.request.HTTPDefaultErrorHandler()
    for each in (handler, redirect, default, urllib.request.HTTPErrorProcessor()):
        opener.add_handler(each)
    headers = {"User-Agent": "clipgen", "Accept": "image/*, video/*, */*;q=0.5"}
    timer = threading.Timer(MAX_SECONDS, handler.end)
    timer.daemon = True
    timer.start()
    try:
        request = urllib.request.Request(_encode(address), headers=headers)
        response = opener.open(request, timeout=20)
        if response is None:
            raise OSError("only http and https addresses are read")
        with response:
            content, kind = response.read(limit + 1), response.headers.get_content_type()
        if handler.ended:
            raise TimeoutError
        if kind.startswith("text/") and content.lstrip().startswith(b"<"):  # any other is up to its decoder
            raise OSError(f"it is {kind}, not an image")
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = " ".join(str(getattr(error, "reason", "") or error).split())
        if handler.ended:
            reason = f"it did not end within {MAX_SECONDS:g} seconds"
        code = f"HTTP {error.code} " if isinstance(error, urllib.error.HTTPError) else ""
        raise ClipgenError(f"{name}={address!r}: {code}{reason}; download it yourself and give the file") from error
    finally:
        timer.cancel()
        for duplicate in handler.duplicates:
            duplicate.close()
    if len(content) > limit:
        raise ClipgenError(f"{name}={address!r}: more than {limit // 10**6} MB; download it and make it smaller")
    return content
