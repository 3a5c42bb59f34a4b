"""Earlier runs, opened, resumed and made again."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image
from studio_hands import SMALL, blue, click, named, put

import clipgen
from clipgen.prompts import Prompt, parse
from clipgen.studio.gallery import read_settings, save_inputs


def test_a_kept_picture_in_a_negative_prompt_has_its_weights(tmp_path):
    settings = {"prompt": "a cat", "negative": "picture-0.png | blurry:1"}
    named_there = save_inputs(settings, {"picture-0.png": Image.new("RGB", (8, 8))}, tmp_path)
    assert [prompt.weight for prompt in parse("a cat", named_there["negative"])] == [1, -0.5, -1]


@pytest.mark.slow
def test_earlier_runs_are_opened_and_replayed(tmp_path):
    picture = Image.open(io.BytesIO(blue()))
    old = clipgen.generate([picture, "a fish:-0.5"], steps=3, folder=tmp_path, progress=False, **SMALL)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "settings.json").write_text("{")
    studio = clipgen.Studio(folder=tmp_path, **SMALL)
    assert len(named(studio.gallery, "Open")) == 1
    click(studio.gallery, "Open")
    assert studio.preview.timeline.max == 3 and "step 3/3" in studio.preview.status.value
    shown, fish = parse(studio.controls.rows.line)
    assert Path(shown.text).is_file() and fish == Prompt("a fish", -0.5), "the picture has a file of its own now"
    assert named(studio, "Weight 2")[0].value == -0.5
    click(studio.gallery, "Replay")
    again = studio.wait()
    assert again.journal.folder != old.journal.folder and again.image.tobytes() == old.image.tobytes()


@pytest.fixture
def older(tmp_path):
    """A run folder of a version that had fewer settings, stopped on its way."""
    run = clipgen.Run("a star", steps=8, seed=3, folder=tmp_path, **SMALL)
    for frame in run:
        if frame.step == 4:
            run.stop()
    folder = run.journal.folder
    settings = run.journal.settings
    del settings["padding"]
    (folder / "settings.json").write_text(json.dumps(settings))
    return run.journal


@pytest.mark.slow
def test_runs_with_fewer_settings_are_read(older, tmp_path):
    studio = clipgen.Studio(folder=tmp_path, padding="grey", **SMALL)
    made = older.steps[-1]
    click(studio.gallery, "Open")
    assert studio.preview.timeline.max == len(older.film) and made >= 4
    asked = studio.controls.values
    assert (asked["padding"], asked["seed"]) == ("border", 3), "the default, whatever is set now"
    put(studio, steps=2)
    click(studio, "Branch from here")
    (tokens,) = studio.wait().journal.inputs().values()
    assert (tokens == older.latent(made)).all()
    click(studio.gallery.children[1].children[-1], "Resume")
    resumed = studio.wait()
    assert resumed.finished and resumed.journal.folder == older.folder


def test_pictures_of_a_run_are_found_whatever_their_names(tmp_path, monkeypatch):
    """One name is the end of another, or stands in a text; they are in every setting that can name a picture."""
    monkeypatch.chdir(tmp_path)
    names = "a.png", "aa.png", "n.png", "m.png", "w.png"
    for name in names:
        Image.new("RGB", (32, 32), "black" if name == "m.png" else "white").save(name)
    prompt = "a.png:2 | aa.png | a drawing of a.png things | fire [w.png]"
    run = clipgen.generate(
        prompt,
        negative="n.png:0.3",
        mask="not m.png",
        folder="runs",
        progress=False,
        **(SMALL | {"steps": 1, "init": "perlin", "near": 0.0}),
    )
    for name in names:
        Path(name).unlink()
    settings = read_settings(run.journal, run.journal.folder.parent)
    prompts = parse(settings["prompt"], settings["negative"])
    files = [prompts[0].text, prompts[1].text, prompts[3].where, prompts[4].text, settings["mask"].removeprefix("not ")]
    assert all(Path(file).exists() for file in files) and len(set(files)) == 5
    assert prompts[2].text == "a drawing of a.png things" and [one.weight for one in prompts] == [2, 1, 1, 1, -0.3]


def test_a_studio_takes_what_a_run_takes(tmp_path):
    picture = Image.new("RGB", (32, 32), "red")
    studio = clipgen.Studio([picture, "a cat"], init=picture, mask=picture, folder=tmp_path, **(SMALL | {"steps": 1}))
    values = studio.controls.values
    image, text = parse(values["prompt"])
    assert image.is_image and Path(image.text).exists() and text.text == "a cat"
    assert Path(values["init"]).exists() and Path(values["mask"]).exists()
    with pytest.raises(clipgen.ClipgenError, match=r"folder=None"):
        clipgen.Studio(folder=None)
    with pytest.raises(clipgen.ClipgenError, match=r"seed=1152921504606846976: .*use clipgen.Run"):
        clipgen.Studio("a cat", seed=2**60, folder=tmp_path)
