"""Exports are for others: they name files by their base names, in every format that carries settings."""

import re

import numpy as np
import pytest
from PIL import Image

import clipgen
from clipgen.cli import main
from clipgen.export import settings_of

SMALL = {"size": (32, 32), "cutouts": 2, "steps": 2, "every": 1, "generator": "pixels"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("somebody") / "private"
    folder.mkdir()
    Image.linear_gradient("L").resize((32, 32)).convert("RGB").save(folder / "me.png")
    Image.linear_gradient("L").resize((32, 32)).save(folder / "a:mask.png")
    np.save(folder / "latent.npy", np.zeros((1, 3, 32, 32), np.float16))
    return folder


@pytest.fixture(scope="module")
def run(home, tmp_path_factory):
    prompt = f"a cat / a dog | {home}/me.png:2@0-1 | sky [not {home}/a:mask.png]"
    asked = SMALL | {"init": f"{home}/latent.npy", "mask": f"{home}/me.png", "near": 0}  # no draft
    made = clipgen.Run(prompt, folder=tmp_path_factory.mktemp("runs"), **asked)
    for frame in made:
        if frame.step == 1:
            made.change(prompt=f"a cat | {home}/me.png")
    return made


@pytest.mark.parametrize("suffix", [".png", ".gif", ".webp", ".html"])
def test_base_names_in_exports(suffix, run, home, tmp_path):
    file = run.export(tmp_path / f"out{suffix}")
    carried = settings_of(file)
    assert carried["prompt"] == "a cat / a dog | me.png:2@0-1 | sky [not a:mask.png]"
    assert (carried["init"], carried["mask"]) == ("latent.npy", "me.png")
    assert [change["prompt"] for change in carried["changes"]] == ["a cat | me.png"]
    assert b"private" not in file.read_bytes() and str(home) in run.journal.settings["prompt"]


def test_base_names_in_a_drawing(home, tmp_path):
    asked = SMALL | {"generator": "strokes:4", "init": "random"}
    run = clipgen.generate(f"a cat | {home}/me.png", folder=tmp_path / "runs", progress=False, **asked)
    text = run.export(tmp_path / "out.svg").read_text()
    assert "private" not in text and "a cat | me.png" in text


def test_base_names_in_a_film(home, tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "film.gif")
    options = ["--size", "32", "--cutouts", "2", "--generator", "pixels", "--folder", str(tmp_path / "runs"), "--quiet"]
    asked = [f"a cat | {home}/me.png", "--film", str(tmp_path / "film.gif"), "-o", str(tmp_path / "out.png")]
    assert main([*asked, *options]) == 0
    assert settings_of(tmp_path / "out.png")["prompt"] == "a cat | me.png"


def test_base_names_in_a_page_of_a_study(home, tmp_path, inline_workers):
    table = [{"prompt": "a cat", "init": f"{home}/me.png"}, {"prompt": f"{home}/me.png", "init": "random"}]
    made = clipgen.study(table=table, folder=tmp_path / "rows", progress=False, workers=1, **SMALL)
    text = made.export(tmp_path / "study.html").read_text()
    assert "me.png" in text and not re.search("private", text)
