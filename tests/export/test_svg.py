"""Drawings as vectors: rendered by resvg they are the raster, and a browser's film of them ends as it should."""

import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from PIL import Image

import clipgen
from clipgen.cli import main
from clipgen.export import export, settings_of
from clipgen.export.formats import Drawing, Mark
from clipgen.generators.catalogue import load_generator
from clipgen.mini.training.data import render

FAMILIES = ["strokes:60", "shapes:60", "pen:60"]
SVG = "{http://www.w3.org/2000/svg}"
MARKS = (
    Mark("stroke", ((8, 8), (30, 8), (30, 50), (56, 50)), (200, 30, 30), 0.7, 6),
    Mark("ellipse", ((40, 24), (60, 30), (36, 34)), (20, 120, 220), 0.5),
    Mark("polygon", ((10, 60), (30, 34), (50, 58)), (30, 160, 60)),
)


@pytest.fixture(scope="module", params=FAMILIES)
def made(request, tmp_path_factory):
    """A short run of every family."""
    folder, small = tmp_path_factory.mktemp("runs"), {"steps": 6, "every": 2, "cutouts": 4, "init": "random"}
    return clipgen.generate(
        'a "red" <heart>', generator=request.param, folder=folder, size=(96, 96), progress=False, **small
    )


def rendered(file, side):
    """(side, side, 3) in [0, 1], by resvg."""
    rgba = render(file.read_text(), side)
    assert (rgba[..., 3] == 255).all(), "paper everywhere"
    return rgba[..., :3] / 255.0


@pytest.mark.parametrize("side", [96, 256])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_file_is_the_raster(name, side, tmp_path):
    family = load_generator(name)
    latent = family.start((side, side), torch.Generator().manual_seed(0))
    file = export([family.drawing(latent)], tmp_path / "a.svg")
    wanted = family.image(latent)[0].permute(1, 2, 0).numpy()
    assert wanted.std() > 0.2 and abs(rendered(file, side) - wanted).mean() < 0.03
    large = family.unpack(family.pack(latent), (2 * side, 2 * side))
    assert abs(rendered(file, 2 * side) - family.image(large)[0].permute(1, 2, 0).numpy()).mean() < 0.03, "at any size"


def test_a_run_is_exported(made, tmp_path):
    file = made.export(tmp_path / "a.svg")
    assert abs(rendered(file, 96) - np.asarray(made.image) / 255).mean() < 0.03
    root = ET.fromstring(file.read_text())
    kinds = {element.tag.removeprefix(SVG) for element in root.iter()} - {"svg", "metadata", "g"}
    assert kinds == ({"path", "ellipse", "polygon"} if "shapes" in made.settings.generator else {"path"})
    assert settings_of(file)["prompt"] == 'a "red" <heart>' and "animate" not in file.read_text()
    if "pen" in made.settings.generator:
        looks = {(e.get("stroke"), e.get("stroke-width"), e.get("stroke-opacity")) for e in root.iter(f"{SVG}path")}
        assert len(looks - {(None, None, None)}) == 1, "one pen"


def test_the_film_of_its_making(made, tmp_path):
    """Every ``animate`` begins with the first frame's value and ends with the element's own, which is the last's."""
    still = made.export(tmp_path / "a.svg")
    file = made.export(tmp_path / "b.svg", animate=True, fps=10, hold=1)
    assert abs(rendered(file, 96) - rendered(still, 96)).mean() < 0.001, "where films are not played, the last frame"
    root, moving = ET.fromstring(file.read_text()), 0
    for element in root.iter():
        for animate in (
            element.iter(f"{SVG}animate") if element.tag != f"{SVG}svg" and "id" not in element.attrib else ()
        ):
            if animate not in list(element):
                continue
            values, times = animate.get("values").split(";"), [float(t) for t in animate.get("keyTimes").split(";")]
            assert len(values) == len(times) and times == sorted(times) and (times[0], times[-1]) == (0, 1)
            assert values[-1] == element.get(animate.get("attributeName")), "and as it stands, it ends"
            assert len({len(re.findall(r"[\d.]+", value)) for value in values if value[0] != "#"}) <= 1
            assert animate.get("dur") == f"{(len(made.journal.steps) - 1) / 10 + 1:.3f}s"
            moving += 1
    assert moving >= 60
    first = made.export(tmp_path / "c.svg", animate=True, loop=False)
    assert 'fill="freeze"' in first.read_text() and "indefinite" not in first.read_text()


def test_marks_are_written_by_the_letter(tmp_path):
    text = export([Drawing((64, 64), MARKS)], tmp_path / "a.svg", {"prompt": "</metadata><script>&amp;"}).read_text()
    assert '<path d="M8 8C30 8 30 50 56 50" stroke="#c81e1e" stroke-opacity="0.7" stroke-width="6"/>' in text
    assert 'rx="1" ry="1" transform="matrix(20 6 -4 10 40 24)" fill="#1478dc" fill-opacity="0.5"' in text
    assert '<polygon points="10 60 30 34 50 58" fill="#1ea03c" fill-opacity="1"/>' in text
    assert "<script" not in text and settings_of(tmp_path / "a.svg") == {"prompt": "</metadata><script>&amp;"}
    moved = tuple(mark._replace(points=tuple((x + 4, y) for x, y in mark.points)) for mark in MARKS)
    film = export([Drawing((64, 64), some) for some in (moved, MARKS)], tmp_path / "b.svg", animate=True)
    assert abs(rendered(film, 64) - rendered(tmp_path / "a.svg", 64)).mean() < 0.002, "an ellipse of four curves"
    assert film.read_text().count("<animate ") == 3, "what does not change is not told"


def test_what_has_no_vectors_is_refused_before_anything(run, tmp_path, monkeypatch, capsys):
    file = tmp_path / "a.svg"
    with pytest.raises(clipgen.ClipgenError, match=r"stack' makes pixels, no vectors; .*'strokes' or 'shapes'"):
        run.export(file)
    with pytest.raises(clipgen.ClipgenError, match="vectors are sharp at any size"):
        export([Drawing((64, 64), MARKS)], file, upscale=2)
    with pytest.raises(clipgen.ClipgenError, match="needs drawings"):
        export([Image.new("RGB", (8, 8))], file)
    with pytest.raises(clipgen.ClipgenError, match="needs pictures"):
        export([Drawing((64, 64), MARKS)], tmp_path / "a.png")
    with pytest.raises(clipgen.ClipgenError, match=r"animate=True: is for \.svg"):
        run.export(tmp_path / "a.gif", animate=True)
    monkeypatch.chdir(tmp_path)
    for line in (["a cat"], ["dalle", "a cat"], ["a cat", "--generator", "fft"], ["a cat", "--film", "film.gif"]):
        assert main([*line, "-o", "a.svg"]) == 2 and "pixels, no vectors" in capsys.readouterr().err
    assert main(["export", str(run.journal.folder), "a.svg"]) == 2
    small = {"steps": 1, "cutouts": 2, "size": (64, 64), "init": "random"}
    masked = clipgen.generate("a cat", generator="strokes:5", mask="left", folder=tmp_path, progress=False, **small)
    with pytest.raises(clipgen.ClipgenError, match="a run with a mask contains pixels"):
        masked.export(file)
    assert not file.exists()


def test_the_command_writes_vectors(made, tmp_path):
    files = [tmp_path / "a.svg", tmp_path / "a.png"]
    assert main(["export", str(made.journal.folder), *map(str, files)]) == 0
    assert abs(rendered(files[0], 288) - np.asarray(Image.open(files[1])) / 255).mean() < 0.1
    assert main(["export", str(made.journal.folder), str(tmp_path / "b.svg"), "--animate", "--boomerang"]) == 0
    assert "<animate" in (tmp_path / "b.svg").read_text()


@pytest.mark.parametrize("text", ["", "hello", "<svg/>", '<svg><metadata id="clipgen">{</metadata></svg>', "\x00\xff"])
def test_a_foreign_file_is_refused(text, tmp_path):
    (tmp_path / "a.svg").write_text(text)
    with pytest.raises(clipgen.ClipgenError, match=r"carries no settings|cannot be read as a picture"):
        settings_of(tmp_path / "a.svg")


@pytest.mark.slow
def test_a_run_of_marks_goes_on_branches_and_is_replayed(made, tmp_path):
    frames = [frame.tobytes() for frame in made.journal.frames()]
    again = clipgen.finish(clipgen.Run.replay(made.export(tmp_path / "a.svg"), folder=tmp_path), progress=False)
    assert [frame.tobytes() for frame in again.journal.frames()] == frames, "from the file alone"
    half = clipgen.Run.replay(made.journal.folder, folder=tmp_path)
    for frame in half:
        if frame.step == 4:
            half.stop()
    whole = clipgen.finish(clipgen.Run.resume(half.journal.folder), progress=False)
    assert [frame.tobytes() for frame in whole.journal.frames()] == frames
    larger = made.branch(6, size=(144, 120), steps=1, lr=1e-6, folder=tmp_path)
    picture = next(iter(larger)).image
    assert picture.size == (144, 120), "vectors fit any sheet"
    same = np.abs(np.subtract(picture.resize((96, 96)), made.image, dtype=float, casting="unsafe")).mean()
    assert same < 20
    assert json.loads((larger.journal.folder / "settings.json").read_text())["init"].startswith("tokens-")
