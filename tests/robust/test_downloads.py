"""Servers that answer oddly: the right file comes, or the source has failed; nothing wrong is kept."""

import http.server
import json
import re
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

sys.path.append(str(Path(__file__).parents[1] / "storage"))
from loopback import CONTENT, DIGEST

from clipgen.errors import ClipgenError
from clipgen.storage import download, weights
from clipgen.storage import remote as remotes
from clipgen.storage.remote import Remote, fetch

TAG, SIZE, CUT = '"v1"', len(CONTENT), 5000


class Handler(http.server.BaseHTTPRequestHandler):
    """Whole files are cut after CUT bytes the first time; ``server.rest`` answers who asks for the rest."""

    def log_message(self, *args):
        pass

    def answer(self, status, headers, body=b""):
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.server.log.append(self.headers.get("Range"))
        if "Range" in self.headers:
            status, headers, body = self.server.rest
            return self.answer(status, {"Content-Type": "application/octet-stream", "ETag": TAG, **headers}, body)
        first, headers = len(self.server.log) == 1, self.server.headers
        whole = {"Content-Type": "application/octet-stream", "ETag": TAG, "Content-Length": str(SIZE)} | headers
        return self.answer(self.server.status, whole, CONTENT[: self.server.cut if first else SIZE])


@pytest.fixture
def server(cache, monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.log, server.headers, server.status, server.cut, server.handle_error = [], {}, 200, CUT, lambda *_: None
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    yield server
    server.shutdown()
    server.server_close()


def remote(server, path="/model.ckpt", **more):
    return Remote("some/model.ckpt", (f"http://127.0.0.1:{server.server_port}{path}",), **more)


def part(first, last, total):
    return {"Content-Range": f"bytes {first}-{last}/{total}", "Content-Length": str(SIZE - CUT)}


REST = CONTENT[CUT:]
RANGES = {
    "without a range": (206, {"Content-Length": str(len(REST))}, REST),
    "from the beginning": (206, part(0, SIZE - CUT - 1, SIZE), CONTENT[: SIZE - CUT]),
    "later": (206, part(CUT + 4, SIZE - 1, SIZE) | {"Content-Length": str(len(REST) - 4)}, REST[4:]),
    "not to the end": (206, part(CUT, SIZE - 5, SIZE) | {"Content-Length": str(len(REST) - 4)}, REST[:-4]),
    "of another length": (206, part(CUT, SIZE - 1, SIZE) | {"Content-Length": str(len(REST) - 4)}, REST[:-4]),
    "of another version": (206, part(CUT, SIZE - 1, SIZE) | {"ETag": '"v2"'}, bytes(len(REST))),
    "several at once": (
        206,
        {"Content-Type": "multipart/byteranges; boundary=x", "Content-Length": "9"},
        b"--x\r\n\r\n\r\n",
    ),
    "without a total": (206, part(CUT, SIZE - 1, "*"), REST),
    "nonsense": (206, part(CUT, "end", SIZE), REST),
    "longer than it says": (206, {"Content-Range": f"bytes {CUT}-{SIZE - 1}/{SIZE}"}, REST + b"more"),
}


@pytest.mark.parametrize("case", RANGES)
def test_a_range_that_was_not_asked_for_starts_anew(case, server, cache):
    server.rest = RANGES[case]
    file = fetch(remote(server))
    assert file.read_bytes() == CONTENT
    assert server.log == [None, f"bytes={CUT}-", None]
    assert list(json.loads((cache / "checksums.json").read_text()).values()) == [DIGEST]


def test_the_rest_that_was_asked_for_is_taken(server):
    server.rest = 206, part(CUT, SIZE - 1, SIZE), REST
    assert fetch(remote(server)).read_bytes() == CONTENT and server.log == [None, f"bytes={CUT}-"]


def test_a_part_although_all_was_asked_for(server, cache):
    server.status, server.cut, server.headers = 206, SIZE, {"Content-Range": f"bytes 9-{SIZE + 8}/{SIZE + 9}"}
    failed(server, "a partial response")
    assert not list(cache.rglob("*ckpt"))


def failed(server, says, path="/model.ckpt"):
    with pytest.warns(UserWarning, match="trying the next source"), pytest.raises(ClipgenError, match=says):
        fetch(remote(server, path))


@pytest.mark.parametrize("length", ["many", "-5", "1e5", "307200, 307200", "9" * 5000, "٣٠٧٢٠٠", "0x10", ""])
def test_odd_lengths_are_a_failed_source(length, server):
    server.cut, server.headers = SIZE, {"Content-Length": length.encode().decode("latin-1")}
    failed(server, "Content-Length is")


ODD = [
    "http://[::1",
    "http://127.0.0.1:port/",
    "http://" + "a" * 70 + ".b/",
    "foo://bar",
    "http:///x",
    "http://a b/",
    "//[",
]


@pytest.mark.parametrize("where", ODD)
def test_redirects_to_nonsense_are_a_failed_source(where, server):
    server.status, server.headers = 302, {"Location": where, "Content-Length": "0"}
    failed(server, "model.ckpt could not be downloaded")


@pytest.mark.parametrize(
    "text", ["{", "[]", "3", '{"a": 3}', '{"a": null}', "\x00", "[" * 100_000, "é".encode("latin-1")]
)
def test_a_damaged_ledger_is_named_before_the_work(text, server, cache):
    cache.mkdir()
    (cache / "checksums.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    failed(server, r"checksums\.json is damaged .*; delete it")
    assert server.log == [] and not list(cache.rglob("*ckpt*"))


def test_an_endless_file_of_unknown_size_is_given_up(server, monkeypatch, cache):
    monkeypatch.setattr(remotes, "LARGEST", 100_000)
    server.cut, server.headers = SIZE, {"Content-Length": None}
    failed(server, "more came than the")
    assert not list(cache.rglob("*ckpt*"))


def test_a_dripping_file_is_given_up(server, monkeypatch):
    monkeypatch.setattr(download, "STALL_SECONDS", 0.0, raising=False)
    monkeypatch.setattr(download, "MIN_BYTES", 10**9, raising=False)
    server.cut, server.rest = SIZE, (206, part(CUT, SIZE - 1, SIZE), REST)
    failed(server, "bytes came within 0 seconds")


def test_an_odd_note_of_the_version_starts_anew(server, cache):
    server.cut = SIZE
    name = download.partial_path(remote(server).parsed_sources[0], "some/model.ckpt", "")
    name.parent.mkdir(parents=True)
    name.with_name(name.name + ".part").write_bytes(CONTENT[:CUT])
    name.with_name(name.name + ".etag").write_bytes(b'"v\r\nX: 1"\xff')
    assert fetch(remote(server)).read_bytes() == CONTENT and server.log == [None]


def test_two_threads_convert_one_file(tmp_path, cache, monkeypatch):
    """Both are in the middle of writing at once: neither takes the other's file from under it."""
    both, save = threading.Barrier(2, timeout=60), weights.save_file

    def slow(tensors, file, *notes):
        both.wait()
        save(tensors, file, *notes)
        both.wait()

    monkeypatch.setattr(weights, "save_file", slow)
    torch.save({"a": torch.arange(6.0)}, tmp_path / "w.ckpt")
    made, errors = [], []

    def convert():
        try:
            made.append(weights.as_safetensors(tmp_path / "w.ckpt"))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=convert) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and made[0] == made[1]
    with safe_open(made[0], "pt") as stored:
        assert stored.get_tensor("a").tolist() == [0, 1, 2, 3, 4, 5]
    assert not [file for file in made[0].parent.iterdir() if re.search("part$", file.name)]
