"""Every kind of file is read back by another reader than its writer, or by hand."""

import json
import math
import subprocess
import sys
import weakref
from collections import Counter
from itertools import pairwise

import imageio.v3 as iio
import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

import clipgen
from clipgen.cli import main
from clipgen.export import export, settings_of
from clipgen.images.sheets import enlarge

SETTINGS = {"prompt": 'a "cat" 🐈 <b>&amp;</b> \\ | dög:-1\n', "steps": 3, "size": [64, 64], "changes": [{"step": 1}]}
FILMS = ["gif", "webp", "mp4"]


def colours(count=5, size=(64, 48)):
    return [Image.new("RGB", size, (40 * i, 20, 200)) for i in range(count)]


def noise(count=20, side=64):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(count)]


def shown(file):
    """(red of a pixel, milliseconds) of every frame of a GIF or WebP."""
    with Image.open(file) as film:
        frames = []
        for i in range(film.n_frames):
            film.seek(i)
            film.load()
            frames.append((film.convert("RGB").getpixel((9, 9))[0], film.info["duration"]))
        return frames


def gif_blocks(file):
    """What the GIF specification says is in the file: colour tables, delays, extensions by their first bytes."""
    data, found = file.read_bytes(), Counter()
    assert data[:6] == b"GIF89a" and data[10] & 128
    at = 13 + 3 * 2 ** ((data[10] & 7) + 1)
    while (kind := data[at]) != 0x3B:
        if kind == 0x2C:
            found["frame"] += 1
            found["local table"] += data[at + 9] >> 7
            at += 11 + (3 * 2 ** ((data[at + 9] & 7) + 1) if data[at + 9] & 128 else 0)
        else:
            assert kind == 0x21
            found[data[at + 1]] += 1
            at += 2
        while data[at]:
            at += data[at] + 1
        at += 1
    assert at == len(data) - 1
    return found


# --- films --------------------------------------------------------------------------------------------


def test_the_gif_of_a_run_reads_back(run, tmp_path):
    file = run.export(tmp_path / "a.gif")
    with Image.open(file) as gif:
        assert gif.size == (256, 256)
        assert gif.info["loop"] == 0
        frames = set()
        for i in range(gif.n_frames):
            gif.seek(i)
            frames.add(gif.convert("RGB").tobytes())
        assert 20 < len(frames) <= len(run.journal.film), "a picture that has settled repeats itself"
        assert gif.info["duration"] >= 2000, "the last frame is held, and those that equal it"
        last = np.asarray(gif.convert("RGB"), float)
    assert abs(last - np.asarray(enlarge(run.image), float)).mean() < 6
    assert settings_of(file)["prompt"] == "a red apple"


def test_a_gif_has_one_palette(tmp_path):
    blocks = gif_blocks(export(noise(6), tmp_path / "a.gif", SETTINGS))
    assert blocks["frame"] == 6 and blocks["local table"] == 0
    assert blocks[0xFE] == 1 and blocks[0xFF] == 1, "the comment and the loop"


def test_the_palette_is_made_of_all_frames(tmp_path):
    greys = [Image.new("RGB", (32, 32), (grey, grey, grey)) for grey in range(0, 250, 10)]
    file = export([*greys[:12], Image.new("RGB", (32, 32), "lime"), *greys[12:]], tmp_path / "a.gif")
    with Image.open(file) as gif:
        gif.seek(12)
        assert gif.convert("RGB").getpixel((5, 5)) == (0, 255, 0)


@pytest.mark.parametrize(
    "suffix, fps, expected",
    [
        ("gif", 10, [100] * 4 + [1500]),
        ("gif", 15, [70, 60, 70, 70, 1500]),  # 1/15 s is no whole number of hundredths: no drift
        ("gif", 60, [20] * 4 + [1500]),  # faster is slowed down by browsers
        ("webp", 15, [67, 66, 67, 67, 1500]),
    ],
)
def test_durations(suffix, fps, expected, tmp_path):
    film = shown(export(colours(), tmp_path / f"a.{suffix}", fps=fps, hold=1.5))
    assert [duration for _, duration in film] == expected


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_loop_or_once(suffix, tmp_path):
    with Image.open(export(colours(), tmp_path / f"a.{suffix}")) as film:
        assert film.info["loop"] == 0 and film.n_frames == 5
    with Image.open(export(colours(), tmp_path / f"b.{suffix}", loop=False)) as film:
        assert film.info.get("loop", 1) == 1 and film.n_frames == 5


def test_a_boomerang_comes_back(tmp_path):
    frames = shown(export(colours(4), tmp_path / "a.gif", boomerang=True, fps=10, hold=1))
    assert frames == [(0, 100), (40, 100), (80, 100), (120, 1000), (80, 100), (40, 100)], "and the loop shows 0 again"
    frames = shown(export(colours(4), tmp_path / "b.gif", boomerang=True, loop=False, hold=0))
    assert [red for red, _ in frames] == [0, 40, 80, 120, 80, 40, 0]
    film = iio.imread(export(colours(4), tmp_path / "a.mp4", boomerang=True, fps=10, hold=0.3)).astype(int)
    assert len(film) == 9 and abs(film - film[::-1]).max() < 12
    assert shown(export(colours(1), tmp_path / "one.gif", boomerang=True))[0][0] == 0


def test_the_mp4_plays(tmp_path):
    file = export(colours(), tmp_path / "a.mp4", SETTINGS, fps=10, hold=1)
    info = iio.immeta(file)
    assert info["codec"] == "h264" and info["fps"] == 10 and info["size"] == (384, 288)
    assert info["pix_fmt"].startswith("yuv420p")
    frames = iio.imread(file).astype(int)
    assert len(frames) == 4 + 10, "the last one is shown for a second"
    assert abs(frames[0, 100, 100] - (0, 20, 200)).max() < 6 and abs(frames[-1, 100, 100] - (160, 20, 200)).max() < 6
    data = file.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), "it plays before all of it is loaded"
    notes = subprocess.run([get_ffmpeg_exe(), "-v", "error", "-i", file, "-f", "ffmetadata", "-"], capture_output=True)
    line = next(line for line in notes.stdout.decode().split("\n") if line.startswith("comment="))
    assert '"steps": 3' in line


def test_odd_sides_and_mixed_frames(tmp_path):
    frames = [Image.new("RGB", (301, 257), "red"), Image.new("RGBA", (64, 64), "blue"), Image.new("L", (301, 257), 90)]
    assert iio.immeta(export(frames, tmp_path / "a.mp4"))["size"] == (302, 258)
    for suffix in ("gif", "webp"):
        with Image.open(export(frames, tmp_path / f"a.{suffix}")) as film:
            assert film.size == (301, 257) and film.n_frames == 3


@pytest.mark.parametrize("suffix", ["mp4", "html", "png"])
def test_one_frame_is_held_at_a_time(suffix, tmp_path):
    alive, most = weakref.WeakValueDictionary(), 0

    def frames():
        nonlocal most
        for i in range(50):
            picture = alive[i] = Image.new("RGB", (64, 64))
            most = max(most, len(alive))
            yield picture

    export(frames(), tmp_path / f"a.{suffix}", hold=0)
    assert most <= 4


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["png", "gif", "webp", "mp4"])
def test_twice_as_large(suffix, tmp_path):
    """Smooth between the frame's own pixels: Lanczos, from the frame and not from what is shown of it."""
    file = export(noise(2, 160), tmp_path / f"a.{suffix}", upscale=2 if suffix == "gif" else 2.0)
    assert iio.imread(file, index=0).shape[:2] == (640, 640), "it is shown at 320, and is twice that"
    if suffix == "png":
        wanted = noise(2, 160)[-1].resize((640, 640), Image.Resampling.LANCZOS)
        with Image.open(file) as png:
            assert png.tobytes() == wanted.tobytes()
    for wrong in (0, 3, -2, 1.5, True):
        with pytest.raises(clipgen.ClipgenError, match=rf"upscale={wrong}: choose one of"):
            export(noise(1), tmp_path / f"b.{suffix}", upscale=wrong)


# --- a size limit -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("suffix", FILMS)
def test_a_size_limit_is_met(suffix, tmp_path):
    free = export(noise(), tmp_path / f"free.{suffix}").stat().st_size
    for share in (0.9, 0.4):
        file = export(noise(), tmp_path / f"small.{suffix}", megabytes=share * free / 1e6)
        assert 0.4 * share * free < file.stat().st_size <= share * free
        with iio.imopen(file, "r") as film:
            count, side = sum(1 for _ in film.iter()), min(film.read(index=0).shape[:2])
        assert count >= 16 and side >= 64
        assert share < 0.9 or suffix == "mp4" or side == 256, "frames go first"
    with pytest.raises(clipgen.ClipgenError, match=r"^megabytes=0.0001: .*cannot be made smaller than .* allow more$"):
        export(noise(3), tmp_path / f"tiny.{suffix}", megabytes=0.0001)
    assert not list(tmp_path.glob(".*")) and not (tmp_path / f"tiny.{suffix}").exists()


@pytest.mark.slow
def test_frames_go_evenly_and_in_the_same_time(tmp_path):
    rng = np.random.default_rng(0)
    frames = []
    for i in range(40):
        pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        pixels[:8, :8] = (6 * i, 0, 0)
        frames.append(Image.fromarray(pixels))
    whole = export(frames, tmp_path / "a.webp", fps=10)
    part = export(frames, tmp_path / "b.webp", fps=10, megabytes=whole.stat().st_size / 2e6)
    kept = [round(red / 6) for red, _ in shown(part)]
    assert 16 <= len(kept) <= 20 and kept[0] <= 1 and kept[-1] >= 38
    gaps = [b - a for a, b in pairwise(kept)]
    assert min(gaps) > 0 and max(gaps) - min(gaps) <= 3  # a compressed red is one or two off
    assert sum(duration for _, duration in shown(part)) == sum(duration for _, duration in shown(whole)) == 5900


@pytest.mark.slow
def test_a_limited_boomerang_is_whole(tmp_path):
    frames = [Image.new("RGB", (64, 64), (6 * i, 20, 200)) for i in range(40)]
    free = export(frames, tmp_path / "a.gif", boomerang=True).stat().st_size
    reds = [red for red, _ in shown(export(frames, tmp_path / "b.gif", boomerang=True, megabytes=free / 2e6))]
    assert 16 <= len(reds) < 50 and reds[1:] == reds[:0:-1] and reds[0] == 0 and max(reds) == 6 * 39


def test_a_limit_for_a_picture(tmp_path):
    with Image.open(export(noise(1, 256), tmp_path / "a.png", SETTINGS, megabytes=0.05)) as png:
        assert 64 <= png.width < 256
    assert (tmp_path / "a.png").stat().st_size <= 50_000 and settings_of(tmp_path / "a.png") == SETTINGS


# --- settings in the file -----------------------------------------------------------------------------


def test_the_png_carries_its_settings(run, tmp_path):
    with Image.open(run.export(tmp_path / "a.png")) as png:
        assert png.size == (256, 256)
        assert json.loads(png.text["clipgen"])["prompt"] == "a red apple"


@pytest.mark.parametrize("suffix", ["png", "gif", "webp"])
def test_settings_travel_in_the_file(suffix, tmp_path):
    for count in (1, 5):
        assert settings_of(export(colours(count), tmp_path / f"a.{suffix}", SETTINGS)) == SETTINGS
    large = SETTINGS | {"changes": [{"step": step, "prompt": "ü" * 50} for step in range(500)]}
    assert settings_of(export(colours(), tmp_path / f"a.{suffix}", large)) == large
    with pytest.raises(clipgen.ClipgenError, match="carries no settings; choose a PNG"):
        settings_of(export(colours(), tmp_path / f"b.{suffix}"))


HOSTILE = [
    "",
    "hello",
    "[1]",
    "null",
    "{",
    "{}",
    "[" * 100_000,
    '{"a": ' + "9" * 10_000 + "}",
    '{"a": "' + "x" * 5_000_000 + '"}',
    "\x00\xff",
]


@pytest.mark.parametrize("suffix", ["png", "gif", "webp"])
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_foreign_metadata_is_refused(suffix, text, tmp_path):
    picture, file, chunk, exif = Image.new("RGB", (8, 8)), tmp_path / f"a.{suffix}", PngInfo(), Image.Exif()
    chunk.add_text("clipgen", text, zip=len(text) > 10_000)
    exif[ExifTags.Base.ImageDescription] = text
    options = {"png": {"pnginfo": chunk}, "gif": {"comment": text.encode()}, "webp": {"exif": exif}}[suffix]
    picture.save(file, **options)
    refused = r"carries no settings; choose|cannot be read as a picture"
    with pytest.raises(clipgen.ClipgenError, match=refused) as caught:
        settings_of(file)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow, about damaged Exif
@pytest.mark.parametrize("suffix", ["png", "gif", "webp"])
def test_damaged_files_are_refused_or_read(suffix, tmp_path):
    data, rng = export(colours(2), tmp_path / f"a.{suffix}", SETTINGS).read_bytes(), np.random.default_rng(0)
    file = tmp_path / f"b.{suffix}"
    for i in range(120):
        hurt = bytearray(data)
        for place in rng.integers(0, len(data), 3):
            hurt[place] = rng.integers(256)
        file.write_bytes(hurt if i % 2 else data[: rng.integers(len(data))])
        try:
            assert isinstance(settings_of(file), dict)
        except clipgen.ClipgenError as error:
            assert "\n" not in str(error)


def test_what_is_no_picture_is_refused(tmp_path):
    (tmp_path / "a.png").write_text("hello")
    film = export(colours(), tmp_path / "a.mp4", SETTINGS)
    for file in (tmp_path / "a.png", tmp_path, tmp_path / "missing.gif", film):
        with pytest.raises(clipgen.ClipgenError, match=r"cannot be read as a picture .*choose one that clipgen wrote"):
            settings_of(file)


# --- nothing by halves --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, value",
    [
        *(("fps", value) for value in (0, -1, 61, math.nan)),
        *(("hold", value) for value in (-1, math.inf)),
        *(("megabytes", value) for value in (0, -1, math.nan)),
    ],
)
def test_bad_values_write_nothing(name, value, tmp_path):
    with pytest.raises(clipgen.ClipgenError, match=name):
        export(colours(), tmp_path / "a.gif", **{name: value})
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_writes_nothing(tmp_path):
    with pytest.raises(clipgen.ClipgenError, match=r"use one of \.png"):
        export(colours(), tmp_path / "a.bmp")
    for suffix in ("png", *FILMS, "html"):
        with pytest.raises(clipgen.ClipgenError, match="no frames yet; let it"):
            export([], tmp_path / f"a.{suffix}")
        with pytest.raises(clipgen.ClipgenError, match="can be written"):
            export(iter(lambda: pytest.fail("too late"), 0), tmp_path / "missing" / f"a.{suffix}")
    (tmp_path / "folder.gif").mkdir()
    with pytest.raises(clipgen.ClipgenError, match="can be written"):
        export(colours(), tmp_path / "folder.gif")
    assert [file.name for file in tmp_path.iterdir()] == ["folder.gif"]


@pytest.mark.parametrize("trouble", [KeyboardInterrupt, clipgen.ClipgenError("frame 3 is damaged")])
@pytest.mark.parametrize("suffix", [*FILMS, "html"])
def test_an_interrupt_leaves_the_old_file(suffix, trouble, tmp_path):
    def frames():
        yield from noise(3)
        raise trouble

    file = tmp_path / f"a.{suffix}"
    file.write_bytes(b"old")
    with pytest.raises((KeyboardInterrupt, clipgen.ClipgenError)):
        export(frames(), file)
    assert file.read_bytes() == b"old" and list(tmp_path.iterdir()) == [file]


@pytest.mark.slow
def test_a_full_disk_leaves_the_old_file(tmp_path):
    """No file may grow over 20 kB in a process of its own: the writers meet the error that a full disk gives."""
    code = """
import resource, signal, subprocess, sys
import numpy as np
from PIL import Image
import clipgen
from clipgen.export import export
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
popen = subprocess.Popen
subprocess.Popen = lambda *a, **k: popen(*a, **k, restore_signals=False)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
pictures = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8)) for i in range(9)]
for suffix in ("png", "gif", "webp", "mp4", "html"):
    try:
        export(pictures, f"{sys.argv[1]}/a.{suffix}")
    except clipgen.ClipgenError as error:
        print(error)
"""
    (tmp_path / "a.mp4").write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert done.stdout.count("File too large); choose a place that can be written and has room\n") == 5, done
    assert not done.stderr and len(done.stdout.splitlines()) == 5
    assert (tmp_path / "a.mp4").read_bytes() == b"old" and [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.slow
def test_the_command_exports(run, tmp_path, capsys):
    files = [tmp_path / "a.gif", tmp_path / "a.mp4"]
    assert main(["export", str(run.journal.folder), *map(str, files), "--boomerang", "--megabytes", "1.5"]) == 0
    assert all(0 < file.stat().st_size <= 1_500_000 for file in files)
    assert main(["export", str(run.journal.folder), str(tmp_path / "b.gif"), "--fps", "0"]) == 2
    assert "fps=0" in capsys.readouterr().err and not (tmp_path / "b.gif").exists()
