"""Films keep their time and their stillness, and their frames are read as still pictures are."""

import json
import os
import re
import stat
import threading

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image, ImageSequence

import clipgen
from clipgen.cli import main
from clipgen.export import export

TINY = {"generator": "pixels", "size": (32, 32), "steps": 1, "cutouts": 1, "lr": 1e-4}
WHITE, RED, BLUE = (255, 255, 255), (200, 30, 40), (20, 40, 220)
TIMES = [200, 50, 130, 200]  # milliseconds


def redrawn(film, folder):
    """Return the run folder of a film of which next to nothing is changed."""
    return clipgen.restyle(film, "a cat", carry=0.0, folder=folder, progress=False, **TINY)


def seen(journal):
    """Return the colours of every frame, in its left and in its right half."""
    frames = [np.asarray(frame, int) for frame in journal.frames()]
    return [tuple(tuple(frame[8:24, x : x + 8].mean((0, 1)).round()) for x in (4, 20)) for frame in frames]


def near(one, other, most=6):
    return np.abs(np.asarray(one, float) - np.asarray(other, float)).max() <= most


def half(colour, size=(32, 32)):
    """Return a picture that is transparent on its right."""
    picture = Image.new("RGBA", size, (0, 0, 0, 0))
    picture.paste((*colour, 255), (0, 0, size[0] // 2, size[1]))
    return picture


# --- frames are read as stills are ----------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_a_transparent_film_is_on_white(suffix, tmp_path):
    frames = [half(RED), half(BLUE)]
    frames[0].save(
        tmp_path / f"f.{suffix}", save_all=True, append_images=frames[1:], duration=100, disposal=2, lossless=True
    )
    made = seen(redrawn(tmp_path / f"f.{suffix}", tmp_path))
    assert near(made, [(RED, WHITE), (BLUE, WHITE)])


def test_pictures_with_transparency_are_on_white(tmp_path):
    assert near(seen(redrawn([half(RED), half(BLUE)], tmp_path)), [(RED, WHITE), (BLUE, WHITE)])


def test_files_of_phones_and_of_16_bits_make_a_film(tmp_path):
    upright = Image.new("RGB", (32, 32), BLUE)
    upright.paste(RED, (0, 0, 16, 32))
    exif = Image.Exif()
    exif[274] = 6  # turn right to see it
    upright.rotate(90).save(tmp_path / "phone.jpg", exif=exif, quality=98, subsampling=0)
    ramp = np.zeros((32, 32), np.uint16)
    ramp[:, 16:] = 32768
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    wanted = [(RED, BLUE), ((0, 0, 0), (128, 128, 128)), (RED, BLUE)]
    made = redrawn([tmp_path / "phone.jpg", str(tmp_path / "deep.png"), np.asarray(upright)], tmp_path)
    assert near(seen(made), wanted, 12)
    phone = Image.open(tmp_path / "phone.jpg")
    assert near(seen(redrawn([phone, Image.fromarray(ramp), upright], tmp_path)), wanted, 12)


@pytest.mark.parametrize(
    "film, count",
    [
        (np.zeros((3, 32, 32, 3), np.uint8), 3),
        (torch.zeros(2, 3, 32, 32), 2),
        (np.zeros((32, 32, 3), np.uint8), 1),
        (Image.new("RGB", (32, 32)), 1),
    ],
)
def test_arrays_and_pictures_make_a_film(film, count, tmp_path):
    assert seen(redrawn(film, tmp_path)) == [((0, 0, 0),) * 2] * count or near(seen(redrawn(film, tmp_path)), 0)


@pytest.mark.parametrize(
    "content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"#EXTM3U\nhttp://x.org/a.ts\n", b"hello"]
)
def test_what_is_no_film_is_refused(content, tmp_path):
    (tmp_path / "f.gif").write_bytes(content)
    with pytest.raises(clipgen.ClipgenError, match=r"film=.*cannot be read .*use a video, a GIF or a WebP") as caught:
        redrawn(tmp_path / "f.gif", tmp_path)
    assert "\n" not in str(caught.value)


# --- time -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A GIF whose frames are shown for ``TIMES``."""
    file = tmp_path_factory.mktemp("film") / "f.gif"
    greys = [Image.new("L", (32, 32), 40 * i) for i in range(len(TIMES))]
    greys[0].save(file, save_all=True, append_images=greys[1:], duration=TIMES, loop=0)
    return file


@pytest.fixture(scope="module")
def journal(source, tmp_path_factory):
    return redrawn(source, tmp_path_factory.mktemp("runs"))


def durations(file):
    """Return the milliseconds for which each frame of a file is shown."""
    if file.suffix == ".mp4":
        greys = [frame.mean() for frame in iio.imiter(file)]
        edges = [i for i in range(1, len(greys)) if abs(greys[i] - greys[i - 1]) > 10]
        return [round(1000 * (b - a) / iio.immeta(file)["fps"]) for a, b in zip([0, *edges], [*edges, len(greys)])]
    if file.suffix == ".html":
        order = re.search(r"\[\[0, \d+\](, \[\d+, \d+\])*\]", file.read_text())
        return [milliseconds for _, milliseconds in json.loads(order[0])]
    with Image.open(file) as film:
        return [frame.info["duration"] for frame in ImageSequence.Iterator(film) if not frame.load() or True]


@pytest.mark.parametrize("suffix", ["gif", "webp", "mp4", "html"])
def test_a_redrawn_film_keeps_its_time(suffix, journal, tmp_path):
    assert journal.settings["durations"] == [time / 1000 for time in TIMES]
    file = export(journal.frames(), tmp_path / f"a.{suffix}", journal.settings)
    assert durations(file) == TIMES
    assert main(["export", str(journal.folder), str(tmp_path / f"b.{suffix}")]) == 0
    assert durations(tmp_path / f"b.{suffix}") == TIMES


@pytest.mark.parametrize("options, wanted", [([], TIMES), (["--fps", "10"], [100, 100, 100, 2000])])
def test_the_command_keeps_the_time_of_a_film_unless_it_is_told(options, wanted, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ["--generator", "pixels", "--size", "32x32", "--steps", "1", "--cutouts", "1", "--quiet"]
    assert main(["a cat", "--film", str(source), "-o", "a.gif", *asked, *options]) == 0
    assert durations(tmp_path / "a.gif") == wanted
    folder = next((tmp_path / "clipgen-runs").iterdir())
    assert main(["export", str(folder), "b.gif", "--fps", "20", "--hold", "0"]) == 0
    assert durations(tmp_path / "b.gif") == [50] * 4


@pytest.mark.parametrize("suffix", ["webp", "png"])
def test_the_time_of_other_formats(suffix, tmp_path):
    greys = [Image.new("RGB", (32, 32), (60 * i, 60 * i, 60 * i)) for i in range(3)]
    greys[0].save(tmp_path / f"f.{suffix}", save_all=True, append_images=greys[1:], duration=[70, 200, 0])
    made = redrawn(tmp_path / f"f.{suffix}", tmp_path)
    assert durations(export(made.frames(), tmp_path / "a.gif", made.settings)) == [70, 200, 100], "as browsers show 0"


def test_the_time_of_a_video(tmp_path):
    greys = [Image.new("RGB", (32, 32), (30 * i,) * 3) for i in range(5)]
    film = export(greys, tmp_path / "f.mp4", fps=5, hold=0)
    made = redrawn(film, tmp_path)
    assert len(made.steps) == 5
    assert durations(export(made.frames(), tmp_path / "a.gif", made.settings)) == [200] * 5
    film = export(greys, tmp_path / "f.mp4", fps=60, hold=0)
    made = redrawn(film, tmp_path)
    assert sum(durations(export(made.frames(), tmp_path / "a.gif", made.settings))) == pytest.approx(83, abs=10)


def test_pictures_have_no_time_of_their_own(tmp_path):
    made = redrawn([Image.new("RGB", (32, 32), (60 * i,) * 3) for i in range(3)], tmp_path)
    assert durations(export(made.frames(), tmp_path / "a.webp", made.settings)) == [67, 66, 2000]


def test_fewer_frames_take_the_same_time(tmp_path):
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(30)]
    settings = {"durations": [0.05 + 0.01 * (i % 3) for i in range(30)]}
    whole = export(frames, tmp_path / "a.webp", settings)
    part = export(frames, tmp_path / "b.webp", settings, megabytes=whole.stat().st_size / 2e6)
    assert len(durations(part)) < 25 and sum(durations(part)) == sum(durations(whole)) == 1800


# --- stillness ------------------------------------------------------------------------------------------


def test_what_stands_still_in_a_gif_does_not_flicker(tmp_path):
    """A smooth picture of many colours, of which the upper half is another in every frame."""
    rng, count = np.random.default_rng(0), 6
    small = [Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)) for _ in range(count)]
    smooth = [np.array(picture.resize((256, 256), Image.Resampling.BICUBIC)) for picture in small]
    for picture in smooth:
        picture[128:] = smooth[0][128:]
    file = export(map(Image.fromarray, smooth), tmp_path / "a.gif")
    with Image.open(file) as film:
        dithered = [np.asarray(Image.fromarray(one).quantize(palette=film).convert("RGB"), int) for one in smooth]
        made = [np.asarray(frame.convert("RGB"), int) for frame in ImageSequence.Iterator(film)]
    assert len(made) == count
    assert not any((one[156:] != made[0][156:]).any() for one in made), "no pixel that is kept changes"
    assert all((one[:100] != made[0][:100]).any() for one in made[1:])
    error, each = (np.mean([np.abs(a - b.astype(int)).mean() for a, b in zip(x, smooth)]) for x in (made, dithered))
    assert error < each + 0.01, f"{error:.3f}, and {each:.3f} if each frame is dithered alone"
    assert each < 12, "the palette has the film's colours"


def test_what_a_mask_keeps_does_not_flicker(tmp_path):
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8))
    picture = small.resize((128, 128), Image.Resampling.BICUBIC)
    asked = {"generator": "pixels", "size": (128, 128), "steps": 3, "every": 1, "cutouts": 1, "progress": False}
    run = clipgen.generate(Image.new("RGB", (32, 32), RED), init=picture, mask="top", folder=tmp_path, **asked)
    with Image.open(run.export(tmp_path / "a.gif")) as film:
        made = [np.asarray(frame.convert("RGB"), int) for frame in ImageSequence.Iterator(film)]
    assert len(made) == 3 and all((one[:100] != made[0][:100]).any() for one in made[1:])
    assert not any((one[156:] != made[0][156:]).any() for one in made)


# --- refused before, or right ---------------------------------------------------------------------------


def test_a_film_in_a_batch_is_refused(source, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["a cat", "--film", str(source), "--batch", "3", "--quiet", "--steps", "1", "--size", "32x32"]) == 2
    assert "batch=3" in capsys.readouterr().err and not [*tmp_path.iterdir()]


def test_the_best_of_a_batch_that_follows_a_picture(tmp_path):
    Image.new("RGB", (32, 32), RED).save(tmp_path / "p.png")
    runs = clipgen.batch(str(tmp_path / "p.png"), 2, folder=tmp_path, progress=False, **TINY)
    assert sorted(run.settings.seed for run in clipgen.best(runs)) == [0, 1]
    line = f"a cat:0.1 | {tmp_path / 'p.png'}"
    runs = clipgen.batch(line, 2, init="random", folder=tmp_path, progress=False, **TINY)
    assert len(clipgen.best(runs)) == 2
    with pytest.raises(clipgen.ClipgenError, match="at least one run"):
        clipgen.best([])


def test_the_picture_decides_which_is_best(tmp_path):
    """What each run starts from is nearly what it ends with; the run of the picture itself is the best."""
    red = Image.new("RGB", (32, 32), RED)
    runs = [clipgen.generate(red, init=init, folder=tmp_path, progress=False, **TINY) for init in ("random", red)]
    assert clipgen.best(runs)[0] is runs[1]


# --- ffmpeg ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="a script of the shell")
def test_an_ffmpeg_that_complains_at_length_is_listened_to(tmp_path, monkeypatch):
    """It says more than a pipe holds before it reads a frame, and then works as it does."""
    program = tmp_path / "ffmpeg"
    program.write_text(f'#!/bin/sh\nyes "deprecated pixel format" | head -n 20000 >&2\nexec {get_ffmpeg_exe()} "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    frames = [Image.new("RGB", (256, 256), (9 * i, 0, 0)) for i in range(9)]
    with monkeypatch.context() as changed:
        changed.setenv("IMAGEIO_FFMPEG_EXE", str(program))
        thread = threading.Thread(target=export, args=(frames, tmp_path / "a.mp4"), kwargs={"hold": 0}, daemon=True)
        thread.start()
        thread.join(60)
    assert not thread.is_alive() and len(iio.imread(tmp_path / "a.mp4")) == 9
