"""Requests that give up soon if nobody answers, and are patient once somebody has."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

CONNECT = 5.0  # seconds for a connection to each address of a host
ANSWER = 10.0  # seconds without a byte before an answer begins
STALL = 30.0  # seconds without a byte after that
HEAD = 120.0  # seconds until an answer has begun in all, however its headers drip and wherever it redirects


class UnreachableError(OSError):
    """Nobody answers: no network, no such host, no server. Another try at once would change nothing."""


class Deadline:
    """Ends connections after some seconds in all: a socket's own timeout begins anew with every byte.

    A context manager, which raises TimeoutError at its end if the time was over.
    """

    def __init__(self, seconds: float):
        self._seconds, self._over = seconds, False
        self._twins: list[socket.socket] = []
        self._lock = threading.Lock()

    def watch(self, connection: socket.socket) -> None:
        """End this connection when the time is over, even after TLS has taken it over."""
        with self._lock:
            twin = socket.fromfd(connection.fileno(), connection.family, connection.type)
            self._twins.append(twin)
        if self._over:
            self._end()

    def _end(self) -> None:
        self._over = True
        with self._lock:
            for twin in self._twins:
                with suppress(OSError):
                    twin.shutdown(socket.SHUT_RDWR)  # ends a pending read

    def __enter__(self) -> Deadline:
        self._timer = threading.Timer(self._seconds, self._end)
        self._timer.daemon = True
        self._timer.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._timer.cancel()
        with self._lock:
            while self._twins:
                self._twins.pop().close()
        if self._over and (error is None or isinstance(error, (OSError, http.client.HTTPException))):
            raise TimeoutError(f"it did not end within {self._seconds:g} seconds") from error


class _Phases:
    """A mixin that gives each phase of a connection its own timeout."""

    timeout: float | None
    sock: Any

    def __init__(self, *args: Any, deadline: Deadline, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._deadline = deadline

    def connect(self) -> None:
        self.timeout = CONNECT
        super().connect()  # type: ignore[misc]
        self.sock.settimeout(ANSWER)
        self._deadline.watch(self.sock)

    def getresponse(self) -> http.client.HTTPResponse:
        socket = self.sock  # the connection gives it up, the answer keeps it
        answer = super().getresponse()  # type: ignore[misc]
        socket.settimeout(STALL)
        return answer


class _Plain(_Phases, http.client.HTTPConnection):
    pass


class _Secure(_Phases, http.client.HTTPSConnection):
    pass


class _Handler(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    def __init__(self, deadline: Deadline):
        super().__init__()
        self._deadline = deadline

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Plain, request, deadline=self._deadline)  # type: ignore[arg-type]

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Secure, request, deadline=self._deadline)  # type: ignore[arg-type]


def ask(address: str, headers: Mapping[str, str], method: str = "GET") -> Any:
    """Return the answer of a server, to be read and closed.

    Raises:
        UnreachableError: Nobody answers.
        OSError, HTTPException: Anything else that fails.
    """
    request, deadline = urllib.request.Request(address, headers=dict(headers), method=method), Deadline(HEAD)
    silence = f"nobody answers at {urlsplit(address).netloc}"
    try:
        with deadline:
            return urllib.request.build_opener(_Handler(deadline)).open(request)
    except urllib.error.HTTPError:
        raise
    except urllib.error.URLError as error:
        if not isinstance(error.reason, OSError) or isinstance(error.reason, ssl.SSLError):  # a server is there
            raise
        raise UnreachableError(f"{silence} ({error.reason})") from error
    except TimeoutError as error:
        raise UnreachableError(f"{silence} within {ANSWER:g} seconds") from error
    except ValueError as error:  # a redirect to what is no address, or a name that cannot be one
        raise OSError(f"it leads to what is no address ({error})") from error


@lru_cache
def check_reachable(address: str) -> None:
    """Raise UnreachableError if nobody answers at an address. The first success is cached."""
    try:
        ask(address, {}, "HEAD").close()
    except UnreachableError:
        raise
    except (OSError, http.client.HTTPException):
        pass  # an answer, if not a friendly one
