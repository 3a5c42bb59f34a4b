"""Asking a server: soon given up where nobody answers, patient once somebody has."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

CONNECT = 5.0  # seconds for a connection to each address of a host
ANSWER = 10.0  # seconds without a byte before an answer begins
STALL = 30.0  # seconds without a byte after that


class Unreachable(OSError):
    """Nobody answers: no network, no such host, nothing there. Asking again at once would change nothing."""


class _Phases:
    """What makes a connection wait as long as its phase is worth."""

    timeout: float | None
    sock: Any

    def connect(self) -> None:
        self.timeout = CONNECT
        super().connect()  # type: ignore[misc]
        self.sock.settimeout(ANSWER)

    def getresponse(self) -> http.client.HTTPResponse:
        socket = self.sock  # the connection lets go of it, the answer keeps it
        answer = super().getresponse()  # type: ignore[misc]
        socket.settimeout(STALL)
        return answer


class _Plain(_Phases, http.client.HTTPConnection):
    pass


class _Secure(_Phases, http.client.HTTPSConnection):
    pass


class _PlainHandler(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Plain, request)


class _SecureHandler(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Secure, request)


def ask(address: str, headers: Mapping[str, str], method: str = "GET") -> Any:
    """The answer of a server, to be read and closed. Raises Unreachable, and what urllib does for other failures."""
    request = urllib.request.Request(address, headers=dict(headers), method=method)
    silence = f"nobody answers at {urlsplit(address).netloc}"
    try:
        return urllib.request.build_opener(_PlainHandler, _SecureHandler).open(request)
    except urllib.error.HTTPError:
        raise
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLError):  # somebody is there
            raise
        raise Unreachable(f"{silence} ({error.reason})") from error
    except TimeoutError as error:
        raise Unreachable(f"{silence} within {ANSWER:g} seconds") from error


@lru_cache
def check_reachable(address: str) -> None:
    """Raise Unreachable if nobody answers at an address; once somebody has, it is believed."""
    try:
        ask(address, {}, "HEAD").close()
    except Unreachable:
        raise
    except (OSError, http.client.HTTPException):
        pass  # an answer, if not a friendly one
