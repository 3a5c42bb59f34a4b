"""Folders and files stay where they were when a run began, and `~` is somebody's home everywhere."""

import json
from pathlib import Path

import pytest
from PIL import Image

import clipgen
from clipgen.cli import main
from clipgen.export import settings_of
from clipgen.runs.inputs import Inputs, identify_weights
from clipgen.storage import find_file

SMALL = {"generator": "pixels", "init": "random", "size": (32, 32), "steps": 3, "cutouts": 2, "every": 1}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_a_run_ends_in_the_folder_where_it_began(home, monkeypatch):
    run = clipgen.Run("a cat", **SMALL)
    frames = iter(run)
    next(frames)
    monkeypatch.chdir(home)
    assert len(list(frames)) == 2 and run.journal.steps == [1, 2, 3]
    run.export("cat.gif")
    assert clipgen.Run.resume(run.journal.folder).finished
    assert [path.name for path in home.iterdir()] == ["cat.gif"]


def test_a_run_whose_folder_goes_away_can_be_exported(home):
    run = clipgen.Run("a cat", **SMALL)
    frames = iter(run)
    next(frames)
    run.journal.folder.rename(home / "moved")
    with pytest.warns(UserWarning, match="export them"):
        list(frames)
    file = run.export("cat.gif")
    assert Image.open(file).n_frames >= 2 and settings_of(file)["prompt"] == "a cat"
    other = clipgen.Run("a dog", **SMALL)
    other.journal.folder.rename(home / "other")
    with pytest.raises(clipgen.ClipgenError, match="this folder is gone"):
        list(other)


def test_home_is_known_to_runs_and_exports(home):
    run = clipgen.generate("a cat", folder="~/runs", progress=False, **SMALL)
    assert run.journal.folder.is_relative_to(home / "runs")
    assert run.export("~/cat.gif") == home / "cat.gif" and (home / "cat.gif").exists()
    name = f"~/runs/{run.journal.folder.name}"
    assert clipgen.Run.resume(name).finished
    assert clipgen.Run("a dog", **(SMALL | {"init": name})).journal.inputs()
    run.export("~/cat.png")
    for source in (name, "~/cat.png"):
        assert clipgen.Run.replay(source, folder="~/again").prompts == run.prompts
    latent = f"{name}/latents/00001.npy"
    assert clipgen.Run("a dog", **(SMALL | {"init": latent})).journal.inputs()
    options = ["--generator", "pixels", "--init", "random", "--size", "32", "--steps", "1", "--cutouts", "2", "--quiet"]
    assert main(["a cat", *options, "-o", "~/q.png"]) == 0 and (home / "q.png").exists()
    assert not Path("~").exists()


def test_a_study_knows_home(home, inline_workers):
    study = clipgen.study("a {thing}", thing=["cat"], folder="~/study", workers=1, progress=False, **SMALL)
    assert len(study.rows) == 1 and (home / "study").is_dir() and not Path("~").exists()


def test_a_run_has_no_address(home):
    with pytest.raises(clipgen.ClipgenError, match=r"folder='s3://bucket/runs': .*study"):
        clipgen.Run("a cat", folder="s3://bucket/runs", **SMALL)
    assert not any(path.name.startswith("s3") for path in Path.cwd().iterdir())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("perceptor", "ViT-B-32//etc/passwd"),
        ("perceptor", "mini | ViT-B-32/theirs.pt:0.5"),
        ("perceptor", "local-dir:theirs/model"),
        ("judge", "ViT-B-32/../theirs.safetensors"),
        ("generator", "../theirs.ckpt"),
    ],
)
def test_weights_that_a_file_names_are_not_read(name, value, home):
    run = clipgen.generate("a cat", progress=False, **SMALL)
    file = run.journal.folder / "settings.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))
    for open_run in (clipgen.Run.replay, clipgen.Run.resume):
        with pytest.raises(clipgen.ClipgenError, match="pass trust=True"):
            open_run(run.journal.folder)


def test_weights_of_ones_own_are_read_again(home):
    """The run folder notes which file it was: another one in its place is not read."""
    weights = home / "mine.safetensors"
    weights.write_bytes(b"mine")
    run = clipgen.generate("a cat", progress=False, **SMALL)
    inputs, settings = Inputs(), {"prompt": "a cat", "perceptor": f"ViT-B-32/{weights}"}
    known = identify_weights(settings)
    inputs.check_contained([settings], run.journal.folder, known)
    weights.write_bytes(b"another")
    with pytest.raises(clipgen.ClipgenError, match="pass trust=True"):
        inputs.check_contained([settings], run.journal.folder, known)


def test_a_picture_that_is_only_in_the_run_folder(home):
    run = clipgen.generate(["a cat", Image.new("RGB", (8, 8), "red")], progress=False, **SMALL)
    with pytest.raises(clipgen.ClipgenError, match="only in its run folder"):
        clipgen.Run.replay(run.export("cat.png"))
    assert clipgen.finish(clipgen.Run.replay(run.journal.folder), progress=False).finished


def test_exports_keep_no_secrets(home):
    run = clipgen.generate("a cat", progress=False, **SMALL)
    prompt = "a cat? | https://me:pw@host/a.png?token=1234:2 | https://me:pw@host/b.png?key=5"
    file = run.journal.folder / "settings.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prompt": prompt}))
    exported = settings_of(run.export("cat.png"))
    assert exported["prompt"] == "a cat? | https://host/a.png:2 | https://host/b.png"


def test_exports_name_no_folder_of_weights(home):
    """Neither the settings that name them nor the note of which file it was."""
    run = clipgen.generate("a cat", progress=False, **SMALL)
    file = run.journal.folder / "settings.json"
    mine = str(home / "private" / "mine.pt")
    names = {"perceptor": f"mini | ViT-B-32/{mine}:0.5", "judge": f"ViT-B-32/{mine}", "weights": {mine: "4 bytes, 1"}}
    file.write_text(json.dumps(json.loads(file.read_text()) | names))
    exported = settings_of(run.export("cat.png"))
    assert "private" not in json.dumps(exported)
    assert (exported["perceptor"], exported["judge"]) == ("mini | ViT-B-32/mine.pt:0.5", "ViT-B-32/mine.pt")


@pytest.mark.parametrize("name", ["~a\0/", "~\ud800", "~a\0.png"])
def test_what_begins_like_a_home_and_cannot_be_a_name_is_no_file(name, tmp_path):
    assert find_file(name) is None
    with pytest.raises(clipgen.ClipgenError, match="mask"):
        clipgen.Run("a cat", init="perlin", mask=name, folder=tmp_path)
