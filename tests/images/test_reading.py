"""Whatever a person hands in is a picture, or one line that says why not."""

import http.server
import io
import threading
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import clipgen
from clipgen.errors import ClipgenError
from clipgen.images.reading import fit, to_image, to_picture, to_tensor
from clipgen.storage import network

RED = (200, 30, 40)


def refused(image, says):
    with pytest.raises(ClipgenError, match=says) as caught:
        to_picture(image)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "YCbCr", "HSV", "L", "LA", "1", "I", "I;16", "F", "PA"])
def test_every_mode(mode):
    picture = Image.new("RGB", (20, 10), RED if mode not in ("L", "LA", "1", "I", "I;16", "F") else (255, 255, 255))
    if mode in ("I;16", "I", "F"):
        values = {"I;16": (np.uint16, 65535), "I": (np.int32, 65535), "F": (np.float32, 1.0)}[mode]
        picture = Image.fromarray(np.full((10, 20), values[1], values[0]))
    else:
        picture = picture.quantize(4).convert(mode) if mode in ("P", "PA") else picture.convert(mode)
    made = to_picture(picture)
    wanted = RED if mode in ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr", "HSV") else (255, 255, 255)
    assert made.mode == "RGB" and made.size == (20, 10)
    assert np.abs(np.array(made.getpixel((5, 5)), int) - wanted).max() <= 6


def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, 0)
    Image.fromarray(ramp).save(tmp_path / "x.png")
    made = np.asarray(to_picture(tmp_path / "x.png"))[0, :, 0].astype(int)
    assert np.abs(made - np.arange(256)).max() <= 1


def test_transparency_orientation_and_animation(tmp_path):
    clear = Image.new("RGBA", (20, 10), (0, 0, 0, 0))
    clear.paste((*RED, 255), (0, 0, 10, 10))
    exif = clear.getexif()
    exif[274] = 6  # turn right to see it
    clear.save(tmp_path / "turned.png", exif=exif)
    made = to_picture(tmp_path / "turned.png")
    assert made.size == (10, 20) and made.getpixel((0, 0)) == RED and made.getpixel((0, 19)) == (255, 255, 255)
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, (0, 0, 255))]
    for name in ("x.gif", "x.webp", "x.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert np.abs(np.array(to_picture(tmp_path / name).getpixel((4, 4)), int) - RED).max() <= 6


def test_arrays_and_tensors():
    grey = np.linspace(0, 1, 12).reshape(3, 4)
    assert to_picture(grey).size == (4, 3)
    assert to_picture((grey * 255).astype(np.uint8)).getpixel((3, 2)) == (255, 255, 255)
    assert to_picture(np.dstack([grey] * 3 + [np.zeros((3, 4))])).getpixel((0, 0)) == (255, 255, 255), "transparent"
    tensor = torch.rand(3, 5, 7)
    for one in (tensor, tensor[None]):
        assert (to_tensor(one) - tensor).abs().max() < 1 / 255
    for bad, says in (
        (np.zeros((2, 2, 2)), "is not a picture"),
        (np.zeros(5), "is not a picture"),
        (torch.zeros(2, 5, 5), "is not a picture"),
        (np.zeros((0, 3)), "is not a picture"),
        (np.full((2, 2), np.nan), "from 0 to 1"),
        (np.full((2, 2), 3.0), "from 0 to 1"),
    ):
        refused(bad, says)


def test_fit():
    wide = Image.new("RGB", (40, 10), RED)
    assert to_tensor(wide, (16, 16)).shape == to_tensor(wide, (16, 16), "letterbox").shape == (1, 3, 16, 16)
    assert fit(wide, (16, 16)).getpixel((0, 0)) == fit(wide, (16, 16), "stretch").getpixel((0, 0)) == RED
    assert fit(wide, (16, 16), "letterbox").getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(ClipgenError, match="choose one of: crop, letterbox, stretch"):
        fit(wide, (16, 16), "squash")


def test_what_is_no_picture(tmp_path):
    refused(tmp_path / "missing.png", "no such file")
    refused(tmp_path, "is a folder")
    refused("~/", "is a folder")
    for name, content in (("empty.png", b""), ("text.jpg", b"hello"), ("half.png", None)):
        if content is None:
            out = io.BytesIO()
            Image.effect_noise((64, 64), 50).save(out, "PNG")
            content = out.getvalue()[:900]
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, "cannot be read as a picture")
    Image.new("1", (12000, 12000)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 100_000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(tmp_path / "bomb.png", "12000x12000 is more than 64 megapixels")


def encoded(kind):
    out, noise = io.BytesIO(), np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).save(out, kind)
    return out.getvalue()


FILES = {kind: encoded(kind) for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO", "TGA")}


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(sorted(FILES)),
    suffix=st.sampled_from([".png", ".jpg", ".gif", ".tif", ".txt", ""]),
    cut=st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=6),
)
def test_any_file_is_a_picture_or_refused(tmp_path, kind, suffix, cut, flips):
    data = bytearray(FILES[kind][: max(1, round(cut * len(FILES[kind])))])
    for place, mask in flips:
        data[min(len(data) - 1, int(place * len(data)))] ^= mask
    file = tmp_path / f"file{suffix}"
    file.write_bytes(data)
    try:
        assert to_picture(file).mode == "RGB"
    except ClipgenError as error:
        assert str(file) in str(error) and "\n" not in str(error)


HOSTS = [
    "127.0.0.1",
    "localhost",
    "10.0.0.1",
    "192.168.1.1",
    "172.16.0.9",
    "169.254.169.254",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[fe80::1]",
    "0.0.0.0",
    "2130706433",
    "224.0.0.1",
]


@pytest.mark.parametrize("host", HOSTS)
def test_private_addresses_are_not_asked(host):
    refused(f"http://{host}:9/x.png", "private network|cannot|Name or service")


def test_public_addresses():
    assert network._is_public("8.8.8.8") and network._is_public("2606:4700::1111")
    for private in ("127.0.0.1", "::ffff:10.0.0.1", "::1", "100.64.0.1", "fc00::1", "255.255.255.255", "ff02::1"):
        assert not network._is_public(private)


@pytest.fixture
def site(monkeypatch):
    """A server on loopback, which only here counts as public - except by the name that it is redirected to."""
    pages = {
        "/x.png": ("image/png", FILES["PNG"]),
        "/raw": ("application/octet-stream", FILES["JPEG"]),
        "/page": ("text/html", b"<html>"),
        "/large.png": ("image/png", b"\0" * 3_000_000),
        "/broken.png": ("image/png", b"\x89PNG broken"),
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            if self.path in ("/in", "/loop"):
                self.send_response(302)
                self.send_header("Location", "http://10.0.0.1/x.png" if self.path == "/in" else "/loop")
                return self.end_headers()
            if self.path not in pages:
                return self.send_error(404)
            kind, content = pages[self.path]
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            return self.wfile.write(content)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(network, "_is_public", lambda address: address == "127.0.0.1")
    monkeypatch.setattr(network, "MAX_BYTES", 1_000_000)
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_addresses(site):
    assert to_picture(f"{site}/x.png").size == to_picture(f"{site}/raw").size == (16, 12)
    for path, says in (
        ("/missing.png", "HTTP 404"),
        ("/page", "text/html, not an image"),
        ("/large.png", "more than 1 MB"),
        ("/broken.png", "cannot be read as a picture"),
        ("/in", "10.0.0.1 is this machine or a private network"),
        ("/loop", "redirect"),
    ):
        refused(site + path, says)
    refused("http://127.0.0.1:9/x.png", "refused")
    refused("https://no-such-host.invalid/x.png", "image=")


def test_pictures_come_in_upright_and_on_white(tmp_path):
    picture = Image.new("RGBA", (20, 10), (0, 0, 0, 0))
    picture.paste((255, 0, 0, 255), (0, 0, 10, 10))
    exif = picture.getexif()
    exif[274] = 6  # turn right to see it
    picture.save(tmp_path / "p.png", exif=exif)
    pixels = to_tensor(tmp_path / "p.png")
    assert pixels.shape == (1, 3, 20, 10)
    assert pixels[0, :, 0, 0].tolist() == [1, 0, 0] and pixels[0, :, -1, 0].tolist() == [1, 1, 1]
    assert to_image(pixels[0]).size == (10, 20)
    assert to_tensor(picture, (16, 16)).shape == (1, 3, 16, 16)


def test_a_broken_picture_is_named(tmp_path):
    (tmp_path / "p.png").write_bytes(b"no picture")
    with pytest.raises(clipgen.ClipgenError, match=r"p\.png"):
        to_tensor(tmp_path / "p.png")
