import json

import imageio.v3 as iio
import pytest
from PIL import Image

import clipgen
from clipgen.export import contact_sheet, enlarge, export


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
