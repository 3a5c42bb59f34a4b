import json
import subprocess
import sys

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import clipgen
from clipgen.export import contact_sheet, enlarge, export, settings_of, strip


def colours(count=5, size=(64, 48)):
    return [Image.new("RGB", size, (40 * i, 20, 200)) for i in range(count)]


def test_the_gif_of_a_run_reads_back(run, tmp_path):
    with Image.open(run.export(tmp_path / "a.gif")) as gif:
        assert gif.size == (256, 256)
        assert gif.info["loop"] == 0
        frames = set()
        for i in range(gif.n_frames):
            gif.seek(i)
            frames.add(gif.convert("RGB").tobytes())
        assert len(frames) > 20
        assert gif.info["duration"] == 2000, "the last frame is held"


def test_the_png_carries_its_settings(run, tmp_path):
    with Image.open(run.export(tmp_path / "a.png")) as png:
        assert png.size == (256, 256)
        assert json.loads(png.text["clipgen"])["prompt"] == "a red apple"


def test_the_mp4_plays(tmp_path):
    file = export(colours(), tmp_path / "a.mp4", fps=10, hold=1)
    info = iio.immeta(file)
    assert info["codec"] == "h264" and info["fps"] == 10 and info["size"] == (384, 288)
    frames = iio.imread(file)
    assert len(frames) == 15
    assert abs(int(frames[0, 100, 100, 0]) - 0) < 12 and abs(int(frames[-1, 100, 100, 0]) - 160) < 12


def test_the_webp_moves(tmp_path):
    with Image.open(export(colours(), tmp_path / "a.webp")) as webp:
        assert webp.n_frames == 5


def test_nothing_half_written(tmp_path):
    with pytest.raises(clipgen.ClipgenError, match=r"use one of \.png"):
        export(colours(), tmp_path / "a.bmp")
    with pytest.raises(clipgen.ClipgenError, match="no frames yet"):
        export([], tmp_path / "a.gif")
    with pytest.raises(clipgen.ClipgenError, match="can be written"):
        export(colours(), tmp_path / "missing" / "a.gif")
    assert not list(tmp_path.iterdir())


def test_shown_at_256_or_more():
    assert enlarge(Image.new("RGB", (64, 96))).size == (256, 384)
    assert enlarge(Image.new("RGB", (512, 300))).size == (512, 300)


def test_contact_sheet():
    assert contact_sheet(colours(), 3, list("abcde")).size == (3 * (384 + 8) + 8, 2 * (288 + 8 + 26) + 8)


def noise(count=40, side=128):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(count)]


def test_a_boomerang_comes_back(tmp_path):
    with Image.open(export(colours(4), tmp_path / "a.gif", boomerang=True, hold=0)) as gif:
        reds = []
        for i in range(gif.n_frames):
            gif.seek(i)
            reds.append(gif.convert("RGB").getpixel((9, 9))[0])
    assert reds == [0, 40, 80, 120, 80, 40]


def test_a_gif_has_one_palette(tmp_path):
    with Image.open(export(noise(6, 64), tmp_path / "a.gif")) as gif:
        palettes = set()
        for i in range(gif.n_frames):
            gif.seek(i)
            gif.load()
            palettes.add(bytes(gif.global_palette.palette) if gif.global_palette else None)
            assert not gif.tile or gif.disposal_method is not None
    assert len(palettes) == 1


@pytest.mark.parametrize("suffix", ["gif", "webp", "mp4"])
def test_a_size_limit_is_met(suffix, tmp_path):
    free = export(noise(), tmp_path / f"free.{suffix}").stat().st_size
    limit = free / 5e6
    small = export(noise(), tmp_path / f"small.{suffix}", megabytes=limit)
    assert small.stat().st_size <= limit * 1e6
    frames = list(iio.imiter(small))
    assert len(frames) >= 10 and min(frames[0].shape[:2]) >= 32
    with pytest.raises(clipgen.ClipgenError, match="cannot be made smaller than"):
        export(noise(3), tmp_path / f"tiny.{suffix}", megabytes=0.0001)
    assert not list(tmp_path.glob(".*")) and not (tmp_path / f"tiny.{suffix}").exists()


@pytest.mark.parametrize("suffix", ["png", "gif", "webp"])
def test_settings_travel_in_the_file(suffix, tmp_path):
    settings = {"prompt": 'a "cat" 🐈 <b>&amp; | dog:-1', "steps": 3, "size": [64, 64], "changes": [{"step": 1}]}
    file = export(colours(), tmp_path / f"a.{suffix}", settings)
    assert settings_of(file) == settings


@pytest.mark.parametrize("text", ["", "hello", "[1]", "{", "[" * 100_000, '{"a": "' + "x" * 2_000_000 + '"}', "null"])
def test_foreign_metadata_is_refused(text, tmp_path):
    picture = Image.new("RGB", (8, 8))
    chunk = PngInfo()
    chunk.add_text("clipgen", text, zip=len(text) > 10_000)
    picture.save(tmp_path / "a.png", pnginfo=chunk)
    with pytest.raises(clipgen.ClipgenError, match=r"carries no settings|cannot be read") as caught:
        settings_of(tmp_path / "a.png")
    assert "\n" not in str(caught.value)


def test_bad_numbers(tmp_path):
    for options in ({"fps": 0}, {"fps": 99}, {"hold": -1}, {"megabytes": 0}, {"fps": float("nan")}):
        with pytest.raises(clipgen.ClipgenError):
            export(colours(), tmp_path / "a.gif", **options)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(tmp_path):
    code = """
import resource, signal, sys
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
import clipgen
from clipgen.export import export
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
pictures = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8)) for i in range(4)]
for suffix in ("png", "gif", "webp"):
    try:
        export(pictures, f"{sys.argv[1]}/a.{suffix}")
    except clipgen.ClipgenError as error:
        print("refused", error)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.count("refused") == 3 and not done.stderr, done.stderr
    assert not list(tmp_path.iterdir())


def test_before_and_after():
    made = strip([Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")], ["before", "after"])
    assert made.size == (2 * (256 + 8) + 8, 256 + 2 * 8 + 26)
    assert made.getpixel((100, 100)) == (255, 0, 0) and made.getpixel((8 + 256 + 8 + 128, 100)) == (0, 0, 255)
    with pytest.raises(clipgen.ClipgenError, match="a label for each"):
        strip([Image.new("RGB", (9, 9))], ["a", "b"])
