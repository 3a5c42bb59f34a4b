"""Downloads from a real server on loopback: every case ends in the right file or in no file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from loopback import CONTENT, DIGEST, ZIP

from clipgen.errors import ClipgenError
from clipgen.storage import network
from clipgen.storage.remote import Remote, fetch


def remote(server, *more, path="/model.ckpt", **knobs):
    return Remote("some/model.ckpt", (server.address + path, *more), **knobs)


def left(cache):
    return sorted(p.name for p in cache.rglob("*") if p.is_file())


@pytest.mark.parametrize("cut", [0, 1, 1000, len(CONTENT) - 1])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_is_gone_on_from(cut, ranges, server, cache):
    server.mood = lambda number: {"no_ranges": not ranges} | ({"cut": cut} if number == 1 else {})
    file = fetch(remote(server, sha256=DIGEST))
    assert file.read_bytes() == CONTENT and left(cache) == ["checksums.json", "model.ckpt"]
    assert [r for _, r in server.log] == [None, f"bytes={cut}-" if cut else None]


@pytest.mark.slow
def test_a_later_session_goes_on(server, cache):
    server.mood = lambda number: {"cut": 1000}
    with pytest.warns(UserWarning, match="trying the next"), pytest.raises(ClipgenError, match="connection was cut"):
        fetch(remote(server))
    assert "model.ckpt" not in left(cache) and len(left(cache)) == 2
    server.mood = lambda number: {}
    assert fetch(remote(server)).read_bytes() == CONTENT
    assert server.log[-1][1] == "bytes=5000-" and left(cache) == ["checksums.json", "model.ckpt"]


@pytest.mark.slow
def test_a_file_that_changed_meanwhile_starts_again(server, cache):
    server.mood = lambda number: {"cut": 1000}
    with pytest.warns(UserWarning), pytest.raises(ClipgenError):
        fetch(remote(server))
    server.mood = lambda number: {}
    server.files["/model.ckpt"] = changed = ZIP + CONTENT[:3:-1]
    assert fetch(remote(server)).read_bytes() == changed


def test_wrong_checksum_then_mirror(server, cache):
    server.files["/bad.ckpt"] = CONTENT[:-1] + b"x"
    with pytest.warns(UserWarning, match=r"bad\.ckpt is not available \(its SHA-256 is"):
        file = fetch(remote(server, f"{server.address}/model.ckpt", path="/bad.ckpt", sha256=DIGEST[:8]))
    assert file.read_bytes() == CONTENT and left(cache) == ["checksums.json", "model.ckpt"]


def test_a_file_may_not_change_behind_its_name(server, cache):
    fetch(remote(server)).unlink()
    server.files["/model.ckpt"] = ZIP + b"something else"
    with pytest.warns(UserWarning), pytest.raises(ClipgenError, match="SHA-256"):
        fetch(remote(server))
    assert left(cache) == ["checksums.json"]


def test_dead_mirrors(server, cache):
    dead = "http://127.0.0.1:9/model.ckpt"
    with pytest.warns(UserWarning) as said:
        file = fetch(Remote("some/model.ckpt", (f"{server.address}/gone", dead, f"{server.address}/model.ckpt")))
    assert file.read_bytes() == CONTENT
    missing, refused = (str(warning.message) for warning in said if warning.category is UserWarning)
    assert "404" in missing and "refused" in refused
    file.unlink()
    with pytest.warns(UserWarning), pytest.raises(ClipgenError) as caught:
        fetch(Remote("some/other.ckpt", (f"{server.address}/gone", dead)))
    for part in ("/gone: HTTP Error 404", dead, f"put it here: {cache / 'some' / 'other.ckpt'}"):
        assert part in str(caught.value)


def test_a_server_that_stumbles(server, cache):
    server.mood = lambda number: {"status": 503} if number < 3 else {}
    assert fetch(remote(server)).read_bytes() == CONTENT


def test_slow_server(server, cache, monkeypatch):
    monkeypatch.setattr(network, "TIMEOUT", 0.4)
    server.mood = lambda number: {"cut": 5000, "stall": 1.2} if number < 3 else {}
    assert fetch(remote(server, sha256=DIGEST)).read_bytes() == CONTENT
    assert server.log[1][1] == "bytes=5000-"


def test_redirect(server, cache):
    server.files["/elsewhere"] = CONTENT
    server.mood = lambda number: {"redirect": "/elsewhere"} if number == 1 else {}
    assert fetch(remote(server)).read_bytes() == CONTENT


@pytest.mark.parametrize("no_length", [True, False])
def test_more_than_declared(no_length, server, cache):
    server.files["/model.ckpt"] = ZIP + b"\0" * 3_000_000
    server.mood = lambda number: {"no_length": no_length}
    with pytest.warns(UserWarning), pytest.raises(ClipgenError, match=r"[01] MB"):
        fetch(remote(server, megabytes=0.3))
    assert left(cache) == []


def test_offline_and_by_hand(server, cache, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ClipgenError, match="HF_HUB_OFFLINE is set"):
        fetch(remote(server))
    file = cache / "some" / "model.ckpt"
    file.parent.mkdir(parents=True)
    file.write_bytes(ZIP + b"mine")
    assert fetch(remote(server)) == file and server.log == []


def test_disk_full(server, cache):
    """On a tmpfs of 128 KiB; where this user may not mount one, there is nothing to test with."""
    cache.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(cache)], capture_output=True).returncode:
        pytest.skip("no permission to mount a small disk")
    try:
        with pytest.raises(ClipgenError, match="the disk is full; make room, or set CLIPGEN_CACHE"):
            fetch(remote(server, f"{server.address}/model.ckpt"))
        assert left(cache) == [] and len(server.log) == 1
    finally:
        subprocess.run(["umount", str(cache)], check=True)


@pytest.mark.slow
def test_the_hub_through_its_own_library(server, cache, tmp_path):
    server.files["/org/repo/resolve/main/model.ckpt"] = CONTENT
    code = """
from clipgen.storage.remote import Remote, cached, fetch
remote = Remote("some/model.ckpt", ("hf:org/gone/model.ckpt", "hf:org/repo/model.ckpt"))
assert cached(remote) is None
print(fetch(remote))
assert cached(remote) == fetch(remote)
"""
    env = os.environ | {"HF_ENDPOINT": server.address, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "org/gone" in done.stderr and "trying the next source" in done.stderr
    file = Path(done.stdout.strip())
    assert file.is_relative_to(tmp_path / "hub") and file.read_bytes() == CONTENT
