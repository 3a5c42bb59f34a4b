"""The server of ``loopback``, and downloads that do not wait."""

import threading
import time

import pytest
from loopback import Server

from clipgen.storage.network import check_reachable


@pytest.fixture
def server():
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch, cache):
    monkeypatch.setattr(time, "sleep", lambda seconds, sleep=time.sleep: sleep(min(seconds, 1.5)))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    check_reachable.cache_clear()
