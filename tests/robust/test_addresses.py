"""Addresses that are read from: public ones only, whatever they embed, and only as long and as much as they may."""

import http.server
import io
import ipaddress
import socket
import threading

import pytest
from PIL import Image

import clipgen
from clipgen.images.reading import to_picture
from clipgen.storage import network

PRIVATE = [
    "64:ff9b::127.0.0.1",
    "64:ff9b::a00:1",
    "64:ff9b:1::8.8.8.8",
    "2002:7f00:1::1",
    "2002:c0a8:101::",
    "::127.0.0.1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:10.0.0.1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2606:4700::5efe:10.0.0.1",
    "2606:4700::200:5efe:127.0.0.1",
    "fec0::1",
    "fe80::1",
    "fd00::1",
    "4000::1",
    "3fff::1",
    "ff0e::1",
    "::",
    "0.0.0.0",
    "0.1.2.3",
    "100.64.0.1",
    "100.127.255.254",
    "192.0.0.8",
    "192.88.99.1",
    "198.18.0.1",
    "240.0.0.1",
    "255.255.255.255",
]
PUBLIC = ["8.8.8.8", "2606:4700::1111", "64:ff9b::8.8.8.8", "::ffff:8.8.8.8", "2002:808:808::1"]


class Asked(OSError):
    """A connection was about to be made."""


@pytest.fixture
def connected(monkeypatch):
    """Nothing is connected to: what would have been is refused, and noted."""
    asked = []

    def connect(address, *args, **kwargs):
        asked.append(address[0])
        raise Asked("connection attempted")

    monkeypatch.setattr(socket, "create_connection", connect)
    return asked


@pytest.mark.parametrize("address", PRIVATE + PUBLIC)
def test_who_is_asked(address, connected):
    host = f"[{address}]" if ipaddress.ip_address(address).version == 6 else address
    with pytest.raises(clipgen.ClipgenError, match="connection attempted" if address in PUBLIC else "private network"):
        to_picture(f"http://{host}:9/x.png")
    assert bool(connected) == (address in PUBLIC)


FILMS = ["http://127.0.0.1:9/film.mp4", "http://[::1]:9/film.gif", "https://localhost:9/", "HTTP://127.0.0.1:9/a.webp"]


@pytest.mark.parametrize("film", FILMS)
def test_a_film_is_not_asked_of_this_machine(film, connected, tmp_path):
    with pytest.raises(clipgen.ClipgenError, match=r"film=.* is this machine or a private network"):
        clipgen.restyle(film, "a cat", folder=tmp_path, progress=False)
    assert not connected


@pytest.mark.parametrize(
    "film", ["rtsp://127.0.0.1:9/a", "<video0>", "<screen>", "imageio:cockatoo.mp4", "tcp://a:1", "no.gif"]
)
def test_a_film_that_is_no_file(film, connected, tmp_path):
    with pytest.raises(clipgen.ClipgenError, match=r"film=.*there is no such file"):
        clipgen.restyle(film, "a cat", folder=tmp_path, progress=False)
    assert not connected


@pytest.fixture
def site(monkeypatch):
    """A server on loopback, which only here counts as public: a film, an endless picture, a dripping one."""
    hung_up = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            if self.path == "/headers":  # drips before an answer has begun
                return self.drip(b"HTTP/1.1 200 OK\r\nX: ")
            self.send_response(200)
            self.send_header("Content-Type", "image/gif")
            if self.path == "/known":
                self.send_header("Content-Length", "100000")
            self.end_headers()
            if self.path == "/film.gif":
                frames, out = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")], io.BytesIO()
                frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], duration=100)
                return self.wfile.write(out.getvalue())
            if self.path == "/endless":
                for _ in range(100):
                    self.wfile.write(b"GIF89a" * 2000)
                return None
            return self.drip(b"GIF89a")

        def drip(self, start):
            self.wfile.write(start)
            for _ in range(500):  # far from forever, so that who never gives up ends as well
                self.wfile.write(b"x")
                if hung_up.wait(0.01):
                    break

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: hung_up.set()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(network, "_is_public", lambda address: address == "127.0.0.1")
    yield f"http://127.0.0.1:{server.server_port}"
    hung_up.set()
    server.shutdown()
    server.server_close()


def test_a_film_from_a_public_address(site, tmp_path):
    made = clipgen.restyle(
        f"{site}/film.gif",
        "a cat",
        folder=tmp_path,
        progress=False,
        steps=1,
        size=(32, 32),
        generator="pixels",
        cutouts=2,
    )
    assert len(made.steps) == 2


@pytest.mark.parametrize("name", ["image", "film"])
def test_an_endless_body_is_given_up(name, site, monkeypatch, tmp_path):
    monkeypatch.setattr(network, "MAX_BYTES", 1_000_000)
    monkeypatch.setattr("clipgen.images.films.BYTES", 1_000_000, raising=False)
    with pytest.raises(clipgen.ClipgenError, match=f"{name}=.*more than 1 MB"):
        read(name, f"{site}/endless", tmp_path)


@pytest.mark.parametrize("path", ["/drip", "/known", "/headers"])
@pytest.mark.parametrize("name", ["image", "film"])
def test_a_dripping_body_is_given_up(name, path, site, monkeypatch, tmp_path):
    monkeypatch.setattr(network, "MAX_SECONDS", 0.2)
    with pytest.raises(clipgen.ClipgenError, match=f"{name}=.*did not end within 0.2 seconds"):
        read(name, site + path, tmp_path)


def read(name, address, folder):
    if name == "image":
        return to_picture(address)
    return clipgen.restyle(address, "a cat", folder=folder, progress=False)
