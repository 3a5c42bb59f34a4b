"""Requests that give up soon if nobody answers."""

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

TIMEOUT = 10.0  # seconds for a connection to each address of a host, and without a byte after that


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


def ask(address: str, headers: Mapping[str, str], method: str = "GET") -> Any:
    """Return the answer of a server, to be read and closed.

    Raises:
        UnreachableError: Nobody answers.
        OSError, HTTPException: Anything else that fails.
    """
    request = urllib.request.Request(address, headers=dict(headers), method=method)
    silence = f"nobody answers at {urlsplit(address).netloc}"
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError:
        raise
    except urllib.error.URLError as error:
        if not isinstance(error.reason, OSError) or isinstance(error.reason, ssl.SSLError):  # a server is there
            raise
        raise UnreachableError(f"{silence} ({error.reason})") from error
    except TimeoutError as error:
        raise UnreachableError(f"{silence} within {TIMEOUT:g} seconds") from error
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
