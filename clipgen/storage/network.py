"""Requests that give up soon if nobody answers."""

import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

TIMEOUT = 10.0  # seconds for a connection to each address of a host, and without a byte after that


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
