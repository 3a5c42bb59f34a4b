"""Symbolic links in a run folder that somebody sent: nothing outside of the folder is read, written or deleted."""

import os
import shutil
from pathlib import Path

import pytest

import clipgen
from clipgen.runs.journal import Journal
from clipgen.studies.row import RowState

SMALL = {"generator": "pixels", "init": "random", "size": (32, 32), "cutouts": 2, "steps": 3, "every": 1}


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run folder that was stopped after two of its three steps."""
    run = clipgen.Run("a cat", folder=tmp_path_factory.mktemp("runs"), **SMALL)
    for frame in run:
        if frame.step == 2:
            run.stop()
    return run.journal.folder


@pytest.fixture
def folder(begun, tmp_path):
    return Path(shutil.copytree(begun, tmp_path / "run"))


@pytest.fixture
def outside(tmp_path):
    """Somebody's own files, beside the run folder; nothing in them may change."""
    home = tmp_path / "home"
    (home / "pictures").mkdir(parents=True)
    for number in range(1, 9):
        (home / "pictures" / f"{number:05d}.png").write_bytes(b"mine")
        (home / "pictures" / f"{number:05d}.npy").write_bytes(b"mine")
    (home / "notes.txt").write_text("mine")
    yield home
    files = [file for file in home.rglob("*") if file.is_file()]
    assert len(files) == 17 and {file.read_bytes() for file in files} == {b"mine"}


def resume(folder):
    return clipgen.finish(clipgen.Run.resume(folder), progress=False)


PARTS = ["state.safetensors.part", "scores.csv.part", "frames/00003.png.part", "latents/00003.npy.part"]


@pytest.mark.parametrize("name", PARTS)
def test_a_half_file_that_is_a_link_is_not_written_through(name, folder, outside):
    (folder / name).symlink_to(outside / "notes.txt")
    assert resume(folder).finished and not (folder / name).exists()


@pytest.mark.parametrize("name", ["changes.jsonl.part", "inputs/names.json.part"])
def test_nor_by_a_change(name, folder, outside, tmp_path):
    (folder / name).symlink_to(outside / "notes.txt")
    run = clipgen.Run.resume(folder)
    run.change(prompt=["a cat", run.image])
    assert clipgen.finish(run, progress=False).journal.changes and not (folder / name).is_symlink()


@pytest.mark.parametrize("name", ["frames", "latents"])
def test_a_folder_that_is_a_link_is_not_emptied(name, folder, outside):
    shutil.rmtree(folder / name)
    (folder / name).symlink_to(outside / "pictures")
    with pytest.raises(clipgen.ClipgenError, match=f"{name}.*link leads out of the run folder"):
        resume(folder)


def test_nor_by_the_note_of_a_study(folder, outside):
    (folder / "row.json.part").symlink_to(outside / "notes.txt")
    RowState(step=2).write(folder)
    assert RowState.read(folder).step == 2


FILES = ["settings.json", "state.safetensors", "scores.csv", "changes.jsonl", "inputs/names.json", "frames/00001.png"]


@pytest.mark.parametrize("name", [*FILES, "frames/00003.png", "latents/00003.npy"])
def test_a_file_that_is_a_link_is_not_followed(name, folder, outside):
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(outside / "notes.txt")
    with pytest.raises(clipgen.ClipgenError, match=f"{Path(name).name}.*link leads out of the run folder"):
        list(resume(folder).journal.frames())


def test_a_picture_outside_is_not_read_as_a_frame(folder, tmp_path):
    Journal.open(folder).frame(1).save(tmp_path / "private.png")
    (folder / "frames/00001.png").unlink()
    (folder / "frames/00001.png").symlink_to("../../private.png")
    with pytest.raises(clipgen.ClipgenError, match="link leads out"):
        Journal.open(folder).frame(1)


def test_links_in_a_circle_and_pipes(folder):
    (folder / "changes.jsonl").symlink_to(folder / "changes.jsonl")
    with pytest.raises(clipgen.ClipgenError, match=r"changes\.jsonl"):
        resume(folder)
    (folder / "changes.jsonl").unlink()
    os.mkfifo(folder / "changes.jsonl")
    with pytest.raises(clipgen.ClipgenError, match="not a regular file"):
        resume(folder)


def test_links_within_and_to_the_folder_are_followed(folder, tmp_path):
    (folder / "frames/00001.png").unlink()
    (folder / "frames/00001.png").symlink_to("00002.png")
    (tmp_path / "link").symlink_to(folder)
    assert len(list(resume(tmp_path / "link").journal.frames())) == 3
