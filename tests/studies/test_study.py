"""A study of real runs: made by processes, each row an ordinary run; looked at as a table and a sheet."""

import contextlib
import io
import os
import shutil
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from PIL import Image

import clipgen
from clipgen.errors import ClipgenError
from clipgen.runs.journal import Journal
from clipgen.studies import page
from clipgen.studies.executor import RayExecutor, count_cores, plan_workers
from clipgen.studies.grid import expand_grid
from clipgen.studies.row import Row, StudyStorage
from clipgen.studies.study import Study


@pytest.fixture(scope="module")
def study(quick, tmp_path_factory):
    """Two by two rows, one worker with one thread each."""
    folder = tmp_path_factory.mktemp("study")
    asked = {"thing": ["cat", "boat"], "seed": range(2), "steps": 4, "workers": min(2, count_cores())}
    return clipgen.study("a {thing}", folder=folder, **asked, **quick)


def test_each_row_is_an_ordinary_run(study, quick, same, tmp_path):
    assert study.finished and study.varied == ["thing", "seed"] and len(study.rows) == 4
    assert repr(study) == f"<Study of 4 rows in {study.folder}: 4 made, 0 failed>"
    with contextlib.chdir(study.folder.parent):
        assert repr(study) == f"<Study of 4 rows in {study.folder.name}: 4 made, 0 failed>"
    row, before = study.rows[3], torch.get_num_threads()
    torch.set_num_threads(row.journal.settings["machine"]["threads"])
    try:
        alone = clipgen.generate("a boat", seed=1, steps=4, folder=tmp_path, **quick)
    finally:
        torch.set_num_threads(before)
    same(row.folder, alone.journal.folder)
    assert row.journal.settings["prompt"] == "a boat" and clipgen.Run.resume(row.folder).finished


@pytest.mark.parametrize("here", [True, False])
def test_the_table(here, study, monkeypatch):
    if here:
        pytest.importorskip("pandas")
    else:
        monkeypatch.setitem(sys.modules, "pandas", None)
    table = study.table
    assert isinstance(table, list) != here
    lines = table.to_dict("records") if here else table
    assert [(line["prompt"], line["seed"]) for line in lines] == [
        ("a cat", 0),
        ("a cat", 1),
        ("a boat", 0),
        ("a boat", 1),
    ]
    for line, row in zip(lines, study.rows):
        assert line["clip"] == Journal(line["folder"]).scores[-1]["clip"] and line["folder"] == str(row.folder)
        assert line["seconds"] > 0 and line["error"] == ""
    assert study.best().scores["clip"] == max(line["clip"] for line in lines)
    assert study.best("loss").scores["loss"] == max(line["loss"] for line in lines)
    with pytest.raises(ClipgenError, match="there are clip, loss"):
        study.best("beauty")


def where(sheet, picture):
    """The corners of the places where a picture is in a sheet."""
    whole, part = np.asarray(sheet, int), np.asarray(picture.resize((256, 256), Image.Resampling.LANCZOS), int)
    spots = [(x, y) for x in range(sheet.width - 255) for y in range(sheet.height - 255)]
    return [
        (x, y)
        for x, y in spots
        if abs(whole[y, x] - part[0, 0]).max() == 0 and (whole[y : y + 256, x : x + 256] == part).all()
    ]


@pytest.mark.slow
def test_the_sheet(study):
    sheet = study.sheet()
    (first,), (right,), (below,) = (where(sheet, study.rows[place].image) for place in (0, 1, 2))
    assert right == (first[0] + 264, first[1]) and below == (first[0], first[1] + 264)
    (turned,) = where(study.sheet("thing", "seed"), study.rows[1].image)
    assert turned[1] == first[1] + 264
    narrow = study.sheet(down="thing")
    assert narrow.size == sheet.size
    with Image.open(io.BytesIO(study._repr_png_())) as shown:
        assert shown.size == sheet.size
    with pytest.raises(ClipgenError, match="there is thing, seed"):
        study.sheet("steps")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_sheet_without_frames(zipped, tmp_path):
    points = expand_grid("a cat", {"seed": range(3), "steps": [1, 2, 3]}, zipped=zipped)
    with pytest.raises(ClipgenError, match="no row has a frame yet"):
        Study([Row(point, tmp_path) for point in points], StudyStorage(tmp_path)).sheet()


def test_a_page_has_the_aspect_of_the_first_picture(study, tmp_path):
    empty = Row(expand_grid("a failure", {})[0], tmp_path)
    page.write_page([empty, *study.rows], [], "a study", tmp_path / "page.html")
    assert "64 / 64" in (tmp_path / "page.html").read_text("utf-8")


@pytest.mark.slow
def test_started_again_it_makes_only_what_is_missing(study, quick, inline_workers):
    asked = {"thing": ["cat", "boat"], "steps": 4, "folder": study.folder, "workers": 1, **quick}
    before = {row.folder: (row.folder / "row.json").stat().st_mtime_ns for row in study.rows}
    again = clipgen.study("a {thing}", seed=range(2), **asked)
    assert {row.folder: (row.folder / "row.json").stat().st_mtime_ns for row in again.rows} == before
    more = clipgen.study("a {thing}", seed=[1, 2], **asked)
    assert [row.folder in before for row in more.rows] == [True, True, False, False] and more.finished
    assert all((folder / "row.json").stat().st_mtime_ns == time for folder, time in before.items())


def test_a_bad_row_is_told_before_anything_is_made(quick, tmp_path):
    with pytest.raises(ClipgenError, match=r"study, seed=-1: seed=-1: must be"):
        clipgen.study("a cat", seed=[2, -1], folder=tmp_path / "study", **quick)
    with pytest.raises(ClipgenError, match="did you mean"):
        clipgen.study("a cat", cutoutz=[2, 3], folder=tmp_path / "study", **quick)
    with pytest.raises(ClipgenError, match="engine='locale' is unknown; did you mean local"):
        clipgen.study("a cat", engine="locale", folder=tmp_path / "study", **quick)
    for engine in ("local:foo", "local://foo", "ray:head:10001"):
        with pytest.raises(ClipgenError, match=f"engine='{engine}' is unknown"):
            clipgen.study("a cat", engine=engine, folder=tmp_path / "study", **quick)
    with pytest.raises(ClipgenError, match="write one as a text"):
        clipgen.study("a cat", folder=Path("s3://bucket/study"), **quick)
    with pytest.raises(ClipgenError, match="workers=0"):
        clipgen.study("a cat", workers=0, folder=tmp_path / "study", **quick)
    assert not list(tmp_path.iterdir())


def test_two_processes_do_not_make_the_same_study(quick, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        with pytest.raises(ClipgenError, match="this study is in progress, in another process"):
            clipgen.study("a cat", folder=tmp_path, **quick)
    finally:
        os.close(held)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3])
def test_a_row_that_fails_is_a_row_and_the_others_go_on(batch, quick, tmp_path, inline_workers):
    poison = np.zeros((1, 3, 5, 5), np.float16)  # a latent that the generator refuses as soon as it is there
    asked = quick | {"generator": "pixels", "init": ["perlin", poison, "noise"], "steps": 2}
    study = clipgen.study("a cat", folder=tmp_path, workers=1, batch=batch, **asked)
    states = [row.state for row in study.rows]
    assert [state.done for state in states] == [True, False, True] and not study.finished
    assert "needs (1, 3, 64, 64)" in states[1].error and not states[0].error and study.rows[1].image is None
    assert study.sheet().width > 512 and study.best() in (study.rows[0], study.rows[2])


@pytest.mark.slow
def test_pictures_go_along_and_the_originals_may_go(quick, tmp_path, inline_workers):
    photo = tmp_path / "photo.png"
    Image.new("RGB", (64, 64), "red").save(photo)
    blue = Image.new("RGB", (64, 64), "blue")
    asked = quick | {"init": [str(photo), blue], "steps": 1}
    study = clipgen.study("a cat", folder=tmp_path / "study", generator="pixels", workers=1, **asked)
    red, blue = (np.asarray(row.image).reshape(-1, 3).mean(0) for row in study.rows)
    assert red[0] > 150 > red[2] and blue[2] > 150 > blue[0]


@pytest.mark.parametrize(
    ("asked", "rows", "gpus"), [(None, 100, 0), (2, 100, 0), (1, 9, 0), (None, 1, 0), (None, 9, 3)]
)
def test_no_core_has_two_threads(asked, rows, gpus):
    cores = count_cores()
    workers, threads = plan_workers(asked, rows, gpus, cores)
    assert workers <= rows and threads >= 1 and (workers * threads <= cores or threads == 1)
    assert workers == (asked or gpus or min(rows, cores, max(2, cores // 4)))


@pytest.mark.parametrize(("asked", "workers", "share"), [(None, 2, 1), (6, 6, 1 / 3)])
def test_workers_of_ray_share_its_gpus(asked, workers, share, monkeypatch):
    """With a stand-in for its cluster: two cards in nodes of 16 cores each."""
    options, ray = [], MagicMock(**{"nodes.return_value": [{"Alive": True, "Resources": {"CPU": 16, "GPU": 1}}] * 2})
    ray.remote.return_value.options = lambda **given: options.append(given) or MagicMock()
    monkeypatch.setitem(sys.modules, "ray", ray)
    engine = RayExecutor(asked, 1000, [])
    engine.start_worker(0)
    assert engine.workers == workers and options[0]["num_gpus"] == share
    assert options[0]["num_cpus"] == engine.threads and engine.threads * workers <= 32 and engine.threads <= 16


def test_the_live_grid_fills(study, monkeypatch):
    grid = page.LiveGrid(study.rows, study.varied)
    assert grid.image.layout.display == "none" and not grid.image.value
    grid.update([row.state for row in study.rows])
    with Image.open(io.BytesIO(grid.image.value)) as shown:
        assert shown.size == study.sheet().size and grid.image.layout.display == ""
        assert np.abs(np.asarray(shown, int) - np.asarray(study.sheet(), int)).mean() < 3
    before = grid.image.value
    monkeypatch.setattr(page, "TILES", 1)
    grid.update([row.state for row in study.rows])
    assert grid.image.value is before, "nothing has changed"
    less = page.LiveGrid(study.rows, study.varied)
    less.update([row.state for row in study.rows])
    with Image.open(io.BytesIO(less.image.value)) as shown:
        assert shown.width < study.sheet().width


def test_a_row_without_scores_is_in_the_sheet(study, quick, tmp_path):
    """As one that was interrupted between its first picture and its scores."""
    shutil.copytree(study.folder, tmp_path / "copy")
    asked = {"thing": ["cat", "boat"], "seed": range(2), "steps": 4}
    copy = clipgen.study("a {thing}", folder=tmp_path / "copy", **asked, **quick)
    (copy.rows[3].folder / "scores.csv").unlink()
    assert copy.sheet().tobytes() == study.sheet().tobytes() and copy.best() in copy.rows[:3]
    assert copy.rows[3].journal.steps == study.rows[3].journal.steps and not copy.rows[3].scores


@pytest.mark.slow
def test_rows_in_one_tensor(study, quick, tmp_path, inline_workers):
    asked = quick | {"thing": ["cat", "boat"], "seed": range(2), "steps": 4, "workers": 1, "batch": 3}
    made = clipgen.study("a {thing}", folder=tmp_path / "study", **asked)
    assert made.finished
    for row, alone in zip(made.rows, study.rows):
        assert row.folder.name == alone.folder.name and row.journal.steps == alone.journal.steps
        assert row.state.step == 4 and row.state.seconds > 0
        assert abs(np.asarray(row.image, int) - np.asarray(alone.image, int)).mean() < 1
    with pytest.raises(ClipgenError, match="batch=0"):
        clipgen.study("a {thing}", folder=tmp_path / "none", **asked | {"batch": 0})
