"""Pictures come in by one door: whatever a file, an array or an upload holds is read as what a person sees in it."""

import http.server
import io
import struct
import threading
import warnings
import zlib
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

import clipgen
from clipgen.export import export
from clipgen.images.reading import to_picture
from clipgen.prompts import parse
from clipgen.storage import network

WHITE, RED = (255, 255, 255), (200, 30, 40)


# --- colour profiles: made by hand, as ICC.1:2001 has them ----------------------------------------------


def _numbers(*values):
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _profile(space, tags, kind=b"mntr", connection=b"XYZ "):
    common = {b"desc": b"desc\0\0\0\0" + struct.pack(">I", 2) + b"x\0" + b"\0" * 78, b"cprt": b"text\0\0\0\0x\0"}
    common[b"wtpt"] = b"XYZ \0\0\0\0" + _numbers(0.9642, 1, 0.8249)
    tags, table, data = common | tags, b"", b""
    for name, content in tags.items():
        table += struct.pack(">4sII", name, 132 + 12 * len(tags) + len(data), len(content))
        data += content + b"\0" * (-len(content) % 4)
    head = struct.pack(">I4sI4s4s4s", 132 + len(table) + len(data), b"lcms", 0x02400000, kind, space, connection)
    head += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 28 + _numbers(0.9642, 1, 0.8249)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def _gamma(power):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(power * 256))


def _rgb_profile(red, green, blue, power):
    colorants = {
        name: b"XYZ \0\0\0\0" + _numbers(*xyz) for name, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), (red, green, blue))
    }
    return _profile(b"RGB ", colorants | {name: _gamma(power) for name in (b"rTRC", b"gTRC", b"bTRC")})


def _cmyk_profile():
    """Return a profile by table: lightness falls with the inks, and cyan is as blue-green as Lab can have it."""
    grid = [(c, m, y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    table = bytes(
        n for c, m, y, k in grid for n in (max(0, 255 - 60 * (c + m + y) - 200 * k), 128 - 60 * c + 50 * m, 128)
    )
    linear = bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + _numbers(1, 0, 0, 0, 1, 0, 0, 0, 1) + linear * 4 + table + linear * 3
    return _profile(b"CMYK", {b"A2B0": lut}, b"prtr", b"Lab ")


P3 = _rgb_profile((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407), 2.2)
ADOBE = _rgb_profile((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457), 2.2)
GREY = _profile(b"GRAY", {b"kTRC": _gamma(1.0)})
CMYK = _cmyk_profile()


def patches(mode="RGB"):
    """Return a picture of 16 patches of moderate colours, large enough for lossy formats."""
    colours = np.random.default_rng(0).integers(70, 190, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(colours.repeat(16, 0).repeat(16, 1)).convert(mode)


def converted(picture, profile):
    source, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    return ImageCms.profileToProfile(picture, source, srgb, outputMode="RGB")


def difference(one, other):
    return np.abs(np.asarray(one, int) - np.asarray(other, int)).max()


@pytest.mark.parametrize("profile", [P3, ADOBE], ids=["Display P3", "Adobe RGB"])
@pytest.mark.parametrize(
    "suffix, options, most",
    [
        ("png", {}, 0),
        ("tiff", {}, 0),
        ("webp", {"lossless": True}, 0),
        ("jpg", {"quality": 98, "subsampling": 0}, 6),
    ],
)
def test_a_profile_is_converted_to_srgb(profile, suffix, options, most, tmp_path):
    patches().save(tmp_path / f"p.{suffix}", icc_profile=profile, **options)
    wanted = converted(patches(), profile)
    assert difference(wanted, patches()) > 12, "the profile says another colour"
    assert difference(to_picture(tmp_path / f"p.{suffix}"), wanted) <= most


@pytest.mark.parametrize("mode, profile", [("L", GREY), ("CMYK", CMYK), ("P", P3)], ids=["grey", "CMYK", "palette"])
def test_profiles_of_every_kind_of_pixels(mode, profile, tmp_path):
    picture = patches(mode)
    file = tmp_path / f"p.{'tiff' if mode == 'CMYK' else 'png'}"
    picture.save(file, icc_profile=profile)
    wanted = converted(picture.convert("RGB") if mode == "P" else picture, profile)
    assert difference(wanted, picture.convert("RGB")) > 12
    assert difference(to_picture(file), wanted) == 0


def test_a_profile_leaves_transparency_alone(tmp_path):
    picture = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    picture.paste((*RED, 255), (0, 0, 4, 8))
    picture.save(tmp_path / "p.png", icc_profile=P3)
    made = to_picture(tmp_path / "p.png")
    assert made.getpixel((3, 3)) == converted(Image.new("RGB", (1, 1), RED), P3).getpixel((0, 0)) != RED
    assert made.getpixel((6, 6)) == WHITE


def test_a_grey_picture_takes_a_profile_for_colours(tmp_path):
    patches("L").save(tmp_path / "p.png", icc_profile=P3)
    assert difference(to_picture(tmp_path / "p.png"), converted(patches("L").convert("RGB"), P3)) == 0


def test_a_cmyk_jpeg_with_a_profile(tmp_path):
    picture = patches("CMYK")
    picture.save(tmp_path / "p.jpg", icc_profile=CMYK, quality=98, subsampling=0)
    assert difference(to_picture(tmp_path / "p.jpg"), converted(picture, CMYK)) <= 8


def test_srgb_changes_nothing(tmp_path):
    patches().save(tmp_path / "p.png", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    assert difference(to_picture(tmp_path / "p.png"), patches()) == 0


@pytest.mark.parametrize("profile", [b"no profile" * 20, P3[:200], CMYK, GREY], ids=["words", "cut", "cmyk", "grey"])
def test_a_profile_that_cannot_be_used_is_ignored_with_a_warning(profile, tmp_path):
    patches().save(tmp_path / "p.png", icc_profile=profile)
    with pytest.warns(UserWarning, match="profile cannot be used"):
        made = to_picture(tmp_path / "p.png")
    assert difference(made, patches()) == 0


# --- the type says the range ----------------------------------------------------------------------------


def _png(width, height, depth, kind, rows, clear=b""):
    """Return a PNG by hand: Pillow writes no transparent colours of 2, 4 and 16 bits."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + (chunk(b"tRNS", clear) if clear else b"")
        + chunk(b"IDAT", data)
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_a_dark_picture_of_16_bits_is_dark(suffix, tmp_path):
    dark = np.arange(256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(dark).save(tmp_path / f"p.{suffix}")
    assert np.asarray(to_picture(tmp_path / f"p.{suffix}")).max() == 1
    assert to_picture(Image.fromarray(dark)).getextrema() == ((0, 1),) * 3


def test_one_bright_pixel_of_a_float_picture_darkens_nothing(tmp_path):
    floats = np.full((8, 8), 0.5, np.float32)
    floats[0, 0], floats[0, 1] = 1.2, -0.3
    Image.fromarray(floats).save(tmp_path / "p.tiff")
    made = np.asarray(to_picture(tmp_path / "p.tiff"))[..., 0]
    assert made[4, 4] == 128 and made[0, 0] == 255 and made[0, 1] == 0


@pytest.mark.parametrize(
    "data, clear",
    [
        (_png(2, 1, 16, 0, [struct.pack(">2H", 30000, 40000)], struct.pack(">H", 40000)), 1),
        (_png(2, 1, 16, 2, [struct.pack(">6H", 0, 0, 0, 40000, 300, 0)], struct.pack(">3H", 40000, 300, 0)), 1),
        (_png(2, 1, 8, 0, [bytes([30, 0])], struct.pack(">H", 0)), 1),
        (_png(2, 1, 4, 0, [bytes([0x73])], struct.pack(">H", 3)), 1),
        (_png(2, 1, 2, 0, [bytes([0b01100000])], struct.pack(">H", 2)), 1),
    ],
    ids=["grey 16", "rgb 16", "grey 8", "grey 4", "grey 2"],
)
def test_a_transparent_colour_of_any_depth_is_white(data, clear, tmp_path):
    (tmp_path / "p.png").write_bytes(data)
    made = to_picture(tmp_path / "p.png")
    assert made.getpixel((clear, 0)) == WHITE and max(made.getpixel((1 - clear, 0))) < 130


@pytest.mark.parametrize(
    "numbers, value",
    [
        (torch.ones(3, 4, 4, dtype=torch.uint8), 1),
        (torch.full((3, 4, 4), 200, dtype=torch.uint8), 200),
        (torch.ones(1, 3, 4, 4), 255),
        (torch.full((3, 4, 4), 0.5, dtype=torch.bfloat16), 128),
        (torch.ones(4, 4, dtype=torch.bool), 255),
        (torch.full((1, 4, 4), 0.5), 128),
        (np.ones((4, 4, 3), np.uint8), 1),
        (np.full((4, 4), 65535, np.uint16), 255),
        (np.full((4, 4), 200, np.uint16), 1),
        (np.full((4, 4, 1), 100, np.uint8), 100),
        (np.ones((4, 4), bool), 255),
        (np.full((4, 4, 3), 0.5, np.float16), 128),
    ],
)
def test_the_type_of_numbers_says_their_range(numbers, value):
    assert to_picture(numbers).getextrema() == ((value, value),) * 3


@pytest.mark.parametrize("numbers", [np.full((4, 4), 200), torch.full((3, 4, 4), 200), np.full((4, 4, 3), 1.5)])
def test_numbers_without_a_range_are_refused(numbers):
    with pytest.raises(clipgen.ClipgenError, match=r"uint8, uint16, or from 0 to 1"):
        to_picture(numbers)


# --- what is decoded, and how much of it ----------------------------------------------------------------

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>'
WMF = struct.pack("<IH4hHIH", 0x9AC6CDD7, 0, 0, 0, 10, 10, 72, 0, 0) + b"\0" * 40


@pytest.mark.parametrize("content", [EPS, PDF, SVG, WMF], ids=["eps", "pdf", "svg", "wmf"])
def test_what_is_drawn_by_a_program_is_no_picture(content, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr("subprocess.Popen.__init__", lambda self, *args, **_: started.append(args))
    (tmp_path / "p.png").write_bytes(content)
    with pytest.raises(clipgen.ClipgenError, match="its format is not known"):
        to_picture(tmp_path / "p.png")
    assert not started


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """One run that starts from a picture."""
    asked = {"generator": "pixels", "size": (32, 32), "steps": 2, "cutouts": 2, "every": 1, "progress": False}
    return clipgen.generate("a cat", init=patches(), folder=tmp_path_factory.mktemp("runs"), **asked)


def _bomb(side):
    """Return a PNG of a hundredth of its pixels in bytes, or less."""
    return _png(side, side, 1, 0, [b"\0" * ((side + 7) // 8)] * side)


@pytest.mark.parametrize("side", [9000, 14000])  # beyond the second Pillow itself raises an error
def test_a_run_folder_has_the_same_limit_of_pixels(side, small, tmp_path):
    frame = small.journal.folder / "frames" / "00001.png"
    copy = next(file for file in (small.journal.folder / "inputs").iterdir() if file.suffix == ".png")
    bomb = _bomb(side)
    for file, read in ((frame, lambda: small.journal.frame(1)), (copy, small.journal.inputs)):
        before = file.read_bytes()
        file.write_bytes(bomb)
        with warnings.catch_warnings(), pytest.raises(clipgen.ClipgenError, match="more than 64 megapixels"):
            warnings.simplefilter("error")
            read()
        file.write_bytes(before)


# --- addresses ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site():
    """A server whose pages say how they were asked for, and of what type they are."""
    content = io.BytesIO()
    Image.new("RGB", (16, 12), RED).save(content, "PNG")
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            asked.append(self.path)
            kind = self.path.rpartition("type=")[2] if "type=" in self.path else "image/png"
            page = self.path.startswith("/page")
            self.send_response(200)
            if kind != "none":
                self.send_header("Content-Type", unquote(kind))
            self.end_headers()
            self.wfile.write(b"<!doctype html><p>no picture" if page else content.getvalue())

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"//127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "scheme, path, sent",
    [
        ("http:", "/café.png", "/caf%C3%A9.png"),
        ("http:", "/my cat.png", "/my%20cat.png"),
        ("http:", "/caf%C3%A9%20x.png?q=ü#top", "/caf%C3%A9%20x.png?q=%C3%BC"),
        ("http:", "/100%.png", "/100%25.png"),
        ("HTTP:", "/x.png", "/x.png"),
        ("hTTp:", "/猫", "/%E7%8C%AB"),
        ("http:", "/x?type=binary/octet-stream", None),
        ("http:", "/x?type=none", None),
        ("http:", "/x?type=text/plain", None),
        ("http:", "/x?type=text/html", None),
    ],
)
def test_addresses_of_all_kinds(scheme, path, sent, site, monkeypatch):
    monkeypatch.setattr(network, "_is_public", lambda _: True)
    address, asked = site
    assert parse(f"{scheme}{address}{path}")[0].is_image
    assert to_picture(f"{scheme}{address}{path}").getpixel((3, 3)) == RED
    assert asked[-1] == (sent or path)


def test_a_page_is_no_picture(site, monkeypatch):
    monkeypatch.setattr(network, "_is_public", lambda _: True)
    with pytest.raises(clipgen.ClipgenError, match="text/html, not an image"):
        to_picture(f"http:{site[0]}/page?type=text/html")
    with pytest.raises(clipgen.ClipgenError, match="its format is not known"):
        to_picture(f"http:{site[0]}/page?type=image/png")


# --- names of pictures in prompts -----------------------------------------------------------------------

NAMES = ["p.avif", "p.heic", "p.HEIF", "p.jfif", "p.jp2", "p.tga", "p.tiff", "p.ppm", "p.svg"]


@pytest.mark.parametrize("name", NAMES)
def test_what_looks_like_a_picture_and_is_none_is_an_error(name, tmp_path):
    assert parse(f"{name}:0.5 | a cat")[0].is_image
    with pytest.raises(clipgen.ClipgenError, match=f"{name}.*no such file"):
        clipgen.Run(name, folder=tmp_path, size=(32, 32), generator="pixels")


@pytest.mark.parametrize(
    "line, name, weight",
    [
        (r"C:\pics\[old]\x.png", r"C:\pics\[old]\x.png", 1),
        (r"c:\@home\x.jpg:2", r"c:\@home\x.jpg", 2),
        (r"\\server\[a]\x.webp:-1 | a cat", r"\\server\[a]\x.webp", -1),
        (r"pics\[old]\x.png", r"pics\[old]\x.png", 1),
        (r"C:\a\x.png [C:\m.png]:3", r"C:\a\x.png", 3),
        (r'"C:\pics\[old]\x.png":2', r"C:\pics\[old]\x.png", 2),
        ('"my cat.png"', "my cat.png", 1),
        ("'my cat.avif':0.5", "my cat.avif", 0.5),
        (r"photo\:2.png", "photo:2.png", 1),
        (r"\[old].png", "[old].png", 1),
        ("https://x.org/my cat", "https://x.org/my cat", 1),
    ],
)
def test_paths_keep_their_characters(line, name, weight):
    prompt = parse(line)[0]
    assert (prompt.text, prompt.weight, prompt.is_image) == (name, weight, True)


@pytest.mark.parametrize("line", ['"hello world"', r"a \[sic] b", "asp.net", "a.png b", "e.g. a cat", "'", '""x'])
def test_words_stay_words(line):
    assert not parse(line)[0].is_image and parse(line)[0].text == line.replace("\\", "")


TINY = {"generator": "pixels", "size": (32, 32), "steps": 1, "cutouts": 1, "init": "random"}


def drawn(prompt, folder, **settings):
    """Return the prompts of a run that is ready to go, with the colour that each picture among them has."""
    run = clipgen.Run(prompt, folder=folder, **(TINY | settings))
    pictures = clipgen.Run.resume(run.journal.folder).spec.inputs.pictures
    return [(pictures[one.text].getpixel((0, 0)) if one.is_image else one.text, one.weight) for one in run.prompts]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Pictures under names of all kinds, in the current folder; and words that are a file's name, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("p.png", "noext", "a|b.png", "x:2", "[old].png", "cat@0-9", r"C:\pics\[old]\x.png"):
        Image.new("RGB", (32, 32), RED).save(tmp_path / name, "PNG")
    (tmp_path / "apple").write_text("a shopping list")
    (tmp_path / "dog").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    "prompt, wanted",
    [
        (Path("p.png"), [(RED, 1)]),
        (Path("noext"), [(RED, 1)]),
        (Path("a|b.png"), [(RED, 1)]),
        (Path("x:2"), [(RED, 1)]),
        (Path("[old].png"), [(RED, 1)]),
        (Path("cat@0-9"), [(RED, 1)]),
        (Path(r"C:\pics\[old]\x.png"), [(RED, 1)]),
        ("noext", [(RED, 1)]),
        ("a cat | noext:3", [("a cat", 1), (RED, 3)]),
        ("noext [top]:2 | a dog", [(RED, 2), ("a dog", 1)]),
        ("'p.png':2", [(RED, 2)]),
        ('"noext"', [(RED, 1)]),
        ("~/p.png", [(RED, 1)]),
        (r"C:\pics\[old]\x.png:2", [(RED, 2)]),
        ("apple | dog", [("apple", 1), ("dog", 1)]),
        ({"a cat": 2}, [("a cat", 2)]),
        ({"a cat": 2, "a dog:0.5": -1, Path("p.png"): 3}, [("a cat", 2), ("a dog", -0.5), (RED, 3)]),
        ({"a cat | noext": np.int64(2)}, [("a cat", 2), (RED, 2)]),
        (
            ["a cat", Path("p.png"), Image.new("P", (8, 8)), {"a dog": 2}],
            [("a cat", 1), (RED, 1), ((0,) * 3, 1), ("a dog", 2)],
        ),
        (("a cat:2", "a dog"), [("a cat", 2), ("a dog", 1)]),
        (np.full((8, 8), 65535, np.uint16), [(WHITE, 1)]),
    ],
)
def test_what_a_prompt_may_be(prompt, wanted, files):
    assert drawn(prompt, files / "runs") == wanted


@pytest.mark.parametrize("prompt", [5, None, {"a cat": "much"}, ["a cat", 5], Path("missing"), Path("apple")])
def test_what_is_no_prompt_is_refused(prompt, files):
    with pytest.raises(clipgen.ClipgenError, match=r"prompt=|image=|file"):
        drawn(prompt, files / "runs")


@pytest.mark.parametrize("init", ["noext", Path("noext"), Path("p.png"), "'p.png'", "~/p.png", "a|b.png", "x:2"])
def test_a_file_of_any_name_is_a_start(init, files):
    asked = TINY | {"init": init, "steps": 1, "lr": 1e-4}
    run = clipgen.generate("a cat", folder=files / "runs", progress=False, **asked)
    assert difference(run.image, Image.new("RGB", (32, 32), RED)) <= 8


def test_words_for_starts_and_masks_stay_words(files):
    for name in ("noise", "top", "red"):
        Image.new("L", (32, 32), 255).save(name, "PNG")
    assert clipgen.Run("a cat", folder=files / "runs", **(TINY | {"init": "noise"})).spec.inputs.pictures == {}
    asked = TINY | {"init": Path("noise"), "mask": Path("top")}
    assert len(clipgen.Run("a cat", folder=files / "runs", **asked).spec.inputs.pictures) == 2


def test_two_pictures_of_equal_numbers_are_two(tmp_path):
    """Of a picture with a palette the numbers are not what is seen."""
    red, blue = Image.new("P", (32, 32)), Image.new("P", (32, 32))
    red.putpalette([*RED, 0, 0, 0])
    blue.putpalette([20, 40, 220, 0, 0, 0])
    assert drawn([red, blue], tmp_path) == [(RED, 1), ((20, 40, 220), 1)]
    clear = Image.new("L", (32, 32), 7)
    clear.info["transparency"] = 7
    assert drawn([clear, Image.new("L", (32, 32), 7)], tmp_path) == [(WHITE, 1), ((7, 7, 7), 1)]


# --- sheets and exports of odd shapes -------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["webp", "html", "gif", "png", "mp4"])
def test_a_long_picture_is_exported(suffix, tmp_path):
    assert export([Image.new("RGB", (1024, 16), RED)] * 2, tmp_path / f"p.{suffix}", hold=0).stat().st_size > 0


@pytest.mark.parametrize("suffix", ["webp", "html"])
def test_a_picture_that_a_format_cannot_hold_is_refused(suffix, tmp_path):
    with pytest.raises(clipgen.ClipgenError, match=r"20000x8 pixels .* choose .png"):
        export([Image.new("RGB", (20000, 8))], tmp_path / f"p.{suffix}")
    assert not [*tmp_path.iterdir()]


def test_sheets_are_bounded():
    for nothing in (lambda: clipgen.contact_sheet([], 3), lambda: clipgen.contact_sheet([], 1, [])):
        with pytest.raises(clipgen.ClipgenError, match="at least one picture"):
            nothing()
    with pytest.raises(clipgen.ClipgenError, match="columns=0"):
        clipgen.contact_sheet([patches()], 0)
    with pytest.raises(clipgen.ClipgenError, match="megapixels"):
        clipgen.strip([Image.new("RGB", (3000, 1)), patches()])
    tall = clipgen.strip([Image.new("RGB", (1, 3000)), patches()])
    assert tall.width * tall.height < 20_000_000
