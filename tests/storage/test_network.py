"""Where nobody answers it is said at once; where somebody did, a download goes on. All of it on real sockets."""

import http.client
import socket
import time
import urllib.request
import warnings
from contextlib import contextmanager

import pytest
from loopback import CONTENT, DIGEST

from clipgen import load_perceptor
from clipgen.errors import ClipgenError
from clipgen.storage import network
from clipgen.storage.remote import Remote, fetch

REFUSED = "http://127.0.0.1:9"  # nothing listens at the port of discard


@pytest.fixture
def connections(monkeypatch):
    """What is connected to, with the seconds that each connection may take."""
    made, connect = [], http.client.HTTPConnection.connect

    def noted(self):
        made.append((self.host, self.port))
        try:
            connect(self)
        finally:
            made[-1] += (self.timeout,)

    monkeypatch.setattr(http.client.HTTPConnection, "connect", noted)
    return made


@pytest.fixture
def sleeps(monkeypatch):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


@contextmanager
def listening(backlog):
    """A socket at which nobody accepts: (host, port)."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(backlog)
        yield silent.getsockname()


@contextmanager
def full():
    """The same, with its queue full, so that not even a connection is made: what a black hole looks like."""
    with listening(0) as place:
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(place)
        try:
            yield place
        finally:
            for each in waiting:
                each.close()


def cannot(*sources):
    """What is said of sources that all are silent: one line for each, and no warning beside it."""
    with pytest.raises(ClipgenError) as caught:
        fetch(Remote("some/model.ckpt", sources))
    assert str(caught.value).count("\n") == len(sources) + 2
    return str(caught.value)


def test_a_refused_connection_is_tried_once(cache, connections, sleeps):
    said = cannot(f"{REFUSED}/model.ckpt")
    assert connections == [("127.0.0.1", 9, network.TIMEOUT)] and sleeps == []
    assert "nobody answers at 127.0.0.1:9" in said and "refused" in said and "is there a network here?" in said


def test_offline_each_source_has_one_line(cache, connections, sleeps, recwarn):
    said = cannot(f"{REFUSED}/a.ckpt", f"{REFUSED}/b.ckpt", "https://clipgen.invalid/model.ckpt")
    first, second, third = said.splitlines()[1:4]
    assert "a.ckpt: nobody answers at" in first and second.endswith("b.ckpt: nobody answers there either")
    assert "model.ckpt: nobody answers at clipgen.invalid" in third and not recwarn.list


def test_a_name_that_nobody_knows(cache, connections, sleeps):
    assert "nobody answers at clipgen.invalid" in cannot("https://clipgen.invalid/model.ckpt")
    assert connections == [("clipgen.invalid", 443, network.TIMEOUT)] and sleeps == []


def test_a_black_hole(cache, connections, sleeps, monkeypatch):
    monkeypatch.setattr(network, "TIMEOUT", 0.3)
    with full() as (host, port):
        said = cannot(f"http://{host}:{port}/model.ckpt")
    assert connections == [(host, port, 0.3)] and sleeps == []
    assert f"nobody answers at {host}:{port}" in said and "timed out" in said


def test_a_server_that_never_answers(cache, connections, sleeps, monkeypatch):
    monkeypatch.setattr(network, "TIMEOUT", 0.3)
    with listening(8) as (host, port):
        said = cannot(f"http://{host}:{port}/model.ckpt")
    assert connections == [(host, port, 0.3)] and sleeps == []
    assert f"nobody answers at {host}:{port} within 0.3 seconds" in said


def test_the_timeouts_of_a_person_who_waits():
    assert network.TIMEOUT <= 10


def test_a_silent_host_is_asked_for_one_file_only(server, cache, connections):
    sources = f"{REFUSED}/a.ckpt", f"{REFUSED}/b.ckpt", f"{server.address}/model.ckpt"
    with pytest.warns(UserWarning):
        assert fetch(Remote("some/model.ckpt", sources)).read_bytes() == CONTENT
    assert [port for _, port, _ in connections] == [9, server.server_port]


def test_a_missing_file_is_not_blamed_on_the_network(server, cache):
    with pytest.warns(UserWarning, match="gone is not available"), pytest.raises(ClipgenError) as caught:
        fetch(Remote("some/model.ckpt", (f"{REFUSED}/a.ckpt", f"{server.address}/gone")))
    assert "network" not in str(caught.value)


def test_a_download_that_began_outlasts_a_silence(server, cache, connections, monkeypatch):
    monkeypatch.setattr(network, "TIMEOUT", 0.4)
    server.mood = lambda number: {1: {"cut": 5000}, 2: {"silent": 1.2}}.get(number, {})
    file = fetch(Remote("some/model.ckpt", (f"{server.address}/model.ckpt",), sha256=DIGEST))
    assert file.read_bytes() == CONTENT and [each for _, each in server.log] == [None, "bytes=5000-", "bytes=5000-"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-32/openai", "hf-hub:org/name"])
def test_the_hub_is_not_waited_for(name, cache, monkeypatch, caplog):
    """By its own library it would be asked six times. Through a proxy that refuses, nothing at all is reached."""
    for key in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(key, REFUSED)
    for key in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # it has read the proxies
    with warnings.catch_warnings(), pytest.raises(ClipgenError, match=r"nobody answers at huggingface\.co .*refused"):
        warnings.simplefilter("ignore")  # each source is told
        load_perceptor(name)
    assert "Retry" not in caplog.text


def test_once_the_hub_has_answered_it_is_believed(server, cache):
    network.check_reachable(server.address)
    network.check_reachable(server.address)
    assert len(server.log) == 1
