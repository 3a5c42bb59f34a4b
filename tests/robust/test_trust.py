"""What a file names is taken from the run's own inputs; what lies outside is named, and read where it is trusted."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import clipgen
from clipgen.cli import main
from clipgen.images.reading import to_picture
from clipgen.runs.journal import Journal
from clipgen.storage import network
from clipgen.studies.films import finish_film
from clipgen.studio.gallery import read_settings

SMALL = {"generator": "pixels", "init": "random", "size": (32, 32), "cutouts": 2, "steps": 2, "every": 1}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """What the next two fixtures copy: files of this machine, and a run stopped after one step of two."""
    folder = tmp_path_factory.mktemp("originals")
    home = folder / "home"
    home.mkdir()
    Image.new("RGB", (32, 32), "red").save(home / "private.png")
    Image.linear_gradient("L").resize((32, 32)).save(home / "mask.png")
    np.save(home / "latent.npy", np.zeros((1, 3, 32, 32), np.float16))
    clipgen.generate("a cat", folder=home / "runs", progress=False, **SMALL).journal.folder.rename(home / "run")
    run = clipgen.Run("a cat", folder=folder / "sent", **SMALL)
    for _ in run:
        run.stop()
    return folder


@pytest.fixture
def private(originals, tmp_path):
    """Files on this machine that a stranger might guess the names of."""
    return shutil.copytree(originals / "home", tmp_path / "home")


CASES = {
    "prompt": {"prompt": "{}/private.png | a cat"},
    "weighted prompt": {"prompt": "a cat | {}/private.png:2@0-1"},
    "negative": {"negative": "{}/private.png"},
    "where": {"prompt": "a cat [{}/mask.png]"},
    "not where": {"prompt": "a cat [not {}/mask.png]"},
    "mask": {"mask": "{}/mask.png"},
    "not mask": {"mask": "not not {}/mask.png"},
    "init": {"init": "{}/private.png"},
    "latent": {"init": "{}/latent.npy"},
    "run folder": {"init": "{}/run"},
    "address": {"prompt": "a cat | http://127.0.0.1:9/x.png"},
    "address of a start": {"init": "https://127.0.0.1:9/x.png"},
}


@pytest.fixture
def stranger(originals, tmp_path):
    """A run folder that somebody sent, stopped after one step of two."""
    return next(shutil.copytree(originals / "sent", tmp_path / "sent").iterdir())


def write(folder, change, private):
    asked = {name: value.format(private) for name, value in change.items()}
    saved = json.loads((folder / "settings.json").read_text())
    (folder / "settings.json").write_text(json.dumps(saved | asked))
    return "127.0.0.1:9/x.png" if "://" in str(asked) else str(private)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("how", ["resume", "replay"])
def test_a_folder_that_names_what_it_has_not(how, case, stranger, private, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(network, "_is_public", lambda address: asked.append(address) or False)
    named = write(stranger, CASES[case], private)
    before = sorted(stranger.rglob("*"))
    with pytest.raises(clipgen.ClipgenError, match="does not bring along; pass trust=True, or --trust") as caught:
        clipgen.Run.resume(stranger) if how == "resume" else clipgen.Run.replay(stranger, folder=tmp_path / "new")
    assert named in str(caught.value) and str(stranger) in str(caught.value)
    assert not asked and sorted(stranger.rglob("*")) == before and not (tmp_path / "new").exists()


@pytest.mark.parametrize("case", ["prompt", "where", "not mask", "init", "latent", "run folder"])
def test_it_is_taken_with_trust(case, stranger, private, tmp_path):
    write(stranger, CASES[case], private)
    run = clipgen.finish(clipgen.Run.replay(stranger, folder=tmp_path / "new", trust=True), progress=False)
    assert run.finished
    shutil.rmtree(private)  # a copy is kept: the new run is one's own
    assert clipgen.finish(clipgen.Run.replay(run.journal.folder, folder=tmp_path), progress=False).finished


def test_resumed_with_trust_it_is_kept(stranger, private):
    write(stranger, CASES["prompt"], private)
    assert clipgen.finish(clipgen.Run.resume(stranger, trust=True), progress=False).finished
    shutil.rmtree(private)
    assert clipgen.Run.resume(stranger).finished


@pytest.mark.parametrize("change", [{"prompt": "{}/private.png"}, {"mask": "{}/mask.png"}])
def test_a_change_that_names_what_it_has_not(change, stranger, private, tmp_path):
    asked = {name: value.format(private) for name, value in change.items()}
    (stranger / "changes.jsonl").write_text(json.dumps({"step": 1, **asked}) + "\n")
    for open_ in (clipgen.Run.resume, clipgen.Run.replay):
        with pytest.raises(clipgen.ClipgenError, match=r"names '.*home.*trust"):
            open_(stranger)
    assert clipgen.finish(clipgen.Run.replay(stranger, folder=tmp_path, trust=True), progress=False).finished


def test_an_array_is_no_copy_of_a_picture(stranger, private):
    """It would be no copy that is used, and the file of that name on this machine would be read instead."""
    write(stranger, {"prompt": "a cat | {}/private.png"}, private)
    (stranger / "inputs").mkdir(exist_ok=True)
    np.save(stranger / "inputs/copy.npy", np.zeros((1, 3, 32, 32), np.float16))
    (stranger / "inputs/names.json").write_text(json.dumps({f"{private}/private.png": "copy.npy"}))
    with pytest.raises(clipgen.ClipgenError, match=r"private\.png: its copy is a latent, but must be a picture"):
        clipgen.Run.resume(stranger)


def test_an_exported_picture_that_names_files(stranger, private, tmp_path, capsys):
    saved = json.loads((stranger / "settings.json").read_text())
    files = [f"{private}/private.png", f"{private}/mask.png"]
    hostile = saved | {"prompt": f"a cat | {files[0]}", "mask": files[1]}
    clipgen.export.export([Image.new("RGB", (32, 32))], tmp_path / "sent.png", hostile)
    assert main(["replay", str(tmp_path / "sent.png"), "--folder", str(tmp_path / "new"), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert all(file in said for file in files) and "--trust" in said and not (tmp_path / "new").exists()
    command = ["replay", str(tmp_path / "sent.png"), str(tmp_path / "made.png"), "--folder", str(tmp_path / "new")]
    assert main([*command, "--quiet", "--trust"]) == 0


def test_the_command_resumes_with_trust(stranger, private, tmp_path, capsys):
    write(stranger, CASES["prompt"], private)
    command = ["resume", str(stranger), str(tmp_path / "made.png"), "--quiet"]
    assert main(command) == 2 and "--trust" in capsys.readouterr().err
    assert main([*command, "--trust"]) == 0


def test_ordinary_runs_need_none(private, tmp_path):
    """All that a person named is copied into the run, and so belongs to it."""
    files = {"prompt": f"a cat | {private}/private.png [not {private}/mask.png]", "mask": f"{private}/mask.png"}
    run = clipgen.Run(**SMALL | files | {"init": str(private / "run"), "steps": 3, "near": 0}, folder=tmp_path / "runs")
    for frame in run:
        if frame.step == 1:
            run.change(prompt=["a dog", str(private / "private.png"), to_picture(private / "private.png")])
        if frame.step == 2:
            run.stop()
    shutil.rmtree(private)
    run = clipgen.finish(clipgen.Run.resume(run.journal.folder), progress=False)
    again = clipgen.finish(clipgen.Run.replay(run.journal.folder, folder=tmp_path), progress=False)
    assert run.finished and [one.tobytes() for one in again.journal.frames()] == [
        one.tobytes() for one in run.journal.frames()
    ]
    assert clipgen.finish(again.branch(2, folder=tmp_path, steps=1), progress=False).finished


def test_what_is_asked_for_now_is_no_stranger(stranger, private):
    run = clipgen.Run.resume(stranger)
    run.change(prompt=["a dog", str(private / "private.png")])
    assert clipgen.finish(run, progress=False).finished
    assert Path(stranger / "inputs/names.json").exists() and clipgen.Run.resume(stranger).finished


@pytest.mark.parametrize("case", CASES)
def test_a_studio_does_not_take_it_into_its_controls(case, stranger, private, tmp_path):
    """Where Generate would read it, from a field that may be folded away."""
    write(stranger, CASES[case], private)
    with pytest.raises(clipgen.ClipgenError, match="does not bring along"):
        read_settings(Journal.open(stranger), tmp_path)
    assert not (tmp_path / "uploads").exists()


# --- redrawn films: their source is a run folder of its own --------------------------------------------


@pytest.fixture
def film(tmp_path, monkeypatch):
    """A film that somebody sent, of which one frame of two is redrawn."""
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    add = Journal.add

    def lose(journal, step, *frame):
        if step == 2 and (journal.folder / "film").exists():
            raise SystemError("lost")
        add(journal, step, *frame)

    monkeypatch.setattr(Journal, "add", lose)
    asked = {name: value for name, value in SMALL.items() if name not in ("init", "every")}
    with pytest.raises(SystemError):
        clipgen.restyle(frames, "a cat", folder=tmp_path / "films", progress=False, **asked)
    monkeypatch.undo()
    (folder,) = (tmp_path / "films").iterdir()
    return folder


FILM_CASES = ["prompt", "weighted prompt", "negative", "where", "not where", "mask", "address"]


@pytest.mark.parametrize("case", FILM_CASES)
def test_a_film_that_names_what_it_has_not(case, film, private, monkeypatch):
    asked = []
    monkeypatch.setattr(network, "_is_public", lambda address: asked.append(address) or False)
    named = write(next((film / "film").iterdir()), CASES[case], private)
    with pytest.raises(clipgen.ClipgenError, match="does not bring along; pass trust=True, or --trust") as caught:
        finish_film(Journal.open(film), progress=False)
    assert named in str(caught.value) and str(film) in str(caught.value) and not asked
    assert Journal.open(film).steps == [1] and (film / "film").exists()


def test_a_film_is_taken_with_trust(film, private, tmp_path):
    write(next((film / "film").iterdir()), CASES["prompt"], private)
    assert main(["resume", str(film), "--quiet", str(tmp_path / "a.gif")]) == 2
    assert main(["resume", str(film), "--quiet", "--trust", str(tmp_path / "a.gif")]) == 0
    assert Journal.open(film).steps == [1, 2] and not (film / "film").exists()


@pytest.mark.parametrize("link", ["film", "source"])
def test_a_source_elsewhere_is_not_read(link, film, tmp_path):
    original = film / "film" if link == "film" else next((film / "film").iterdir())
    outside = original.rename(tmp_path / "outside")
    original.symlink_to(outside)
    with pytest.raises(clipgen.ClipgenError, match="link leads out of the run folder"):
        finish_film(Journal.open(film), progress=False)
    assert Journal.open(film).steps == [1] and outside.exists()


DAMAGE = [
    {"film": None},
    {"film": []},
    {"film": {}},
    {"film": {"carry": 2, "frames": 2}},
    {"film": {"carry": "x", "frames": 2}},
    {"film": {"carry": 0.5, "frames": -1}},
    {"film": {"carry": 0.5, "frames": 10**12}},
    {"film": {"carry": 0.5, "frames": [2]}},
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_source(damage, film):
    file = next((film / "film").iterdir()) / "settings.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | damage))
    with pytest.raises(clipgen.ClipgenError, match="redraw the film from its beginning"):
        finish_film(Journal.open(film), progress=False)
    assert Journal.open(film).steps == [1] and (film / "film").exists()
