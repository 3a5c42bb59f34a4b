"""Studies at an address: what was made is there, comes from there, and trouble is told before anything is made."""

import json
import math
import shutil
import sys
from pathlib import Path

import fsspec
import pytest

import clipgen
from clipgen.errors import ClipgenError
from clipgen.studies.grid import expand_grid
from clipgen.studies.row import Row, RowState, StudyStorage
from clipgen.studies.worker import make_rows

TINY = {"seed": range(2), "steps": 2, "generator": "pixels", "workers": 1}


@pytest.fixture(autouse=True)
def desk(tmp_path, monkeypatch):
    """A folder to work in."""
    (tmp_path / "desk").mkdir()
    monkeypatch.chdir(tmp_path / "desk")
    return tmp_path / "desk"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "memory"])
def test_what_is_made_is_at_the_address_and_comes_from_there(kind, desk, tmp_path, quick, same, inline_workers):
    address = f"file://{tmp_path}/far/away/" if kind == "file" else "memory://away"
    study = clipgen.study("a cat", folder=address, **TINY, **quick)
    assert study.finished and study.folder.parent == Path.cwd() / "clipgen-runs"
    files, path = fsspec.core.url_to_fs(address)
    kept = {file.removeprefix(path.rstrip("/")) for file in files.find(path)}
    made = {f"/{file.relative_to(study.folder)}" for file in study.folder.rglob("*") if file.is_file()}
    assert kept == made and len(kept) > 10

    study.folder.rename(desk / "before")
    again = clipgen.study("a cat", folder=address, **TINY | {"seed": range(3)}, **quick)
    assert again.finished and [row.folder.name in kept_names(kept) for row in again.rows] == [True, True, False]
    for row in again.rows[:2]:
        same(row.folder, desk / "before" / row.folder.name)
        assert row.state == RowState.read(desk / "before" / row.folder.name), "fetched, not made again"

    gone = again.rows[2].folder.name
    files.rm(f"{path.rstrip('/')}/{gone}", recursive=True)
    clipgen.study("a cat", folder=address, **TINY | {"seed": range(3)}, **quick)
    assert files.exists(f"{path.rstrip('/')}/{gone}/row.json"), "what is here comes along"


def kept_names(files):
    return {file.split("/")[1] for file in files}


def test_a_machine_that_does_not_see_the_folder(tmp_path, quick, same):
    storage = StudyStorage(f"file://{tmp_path}/away")
    asked = {name: value for name, value in (TINY | quick).items() if name not in ("workers", "progress")}
    rows = [Row(one, storage.folder) for one in expand_grid("a cat", asked)]
    with storage.locked():
        for row in rows:
            row.begin(1)
            storage.upload(row.folder)
    elsewhere = [tmp_path / "nowhere" / row.folder.name for row in rows]
    make_rows(elsewhere, storage.address)
    assert not (tmp_path / "nowhere").exists() and not any(row.state.done for row in rows)
    for row in rows:
        storage.sync_row(row.folder)
        assert row.state.done and row.journal.steps == [1, 2]
    poison = rows[0].folder.with_name("poison-0")
    shutil.copytree(rows[0].folder, poison)
    (poison / "settings.json").write_text("{")
    (poison / "row.json").unlink()
    storage.upload(poison)
    make_rows([tmp_path / "nowhere" / "poison-0"], storage.address)
    storage.sync_row(poison)
    assert "damaged" in RowState.read(poison).error


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("s3://bucket/study", "a package is missing: .*s3fs"),
        ("rain://cloud/study", "cannot be written .*rain"),
        ("file:///dev/null/study", "cannot be written .*null"),
    ],
)
def test_an_address_that_cannot_be(address, said, desk, quick, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ClipgenError, match=said):
        clipgen.study("a cat", folder=address, **TINY, **quick)
    assert not list(desk.iterdir())


@pytest.mark.slow
def test_an_address_that_is_gone_on_the_way(tmp_path, quick, inline_workers):
    def full(*_, **__):
        raise OSError("no room")

    address = f"file://{tmp_path}/away"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fsspec.implementations.local.LocalFileSystem.put", full)
        with pytest.raises(ClipgenError, match=r"the rows are saved locally and uploaded on the next run .*no room"):
            clipgen.study("a cat", folder=address, **TINY, **quick)
    assert clipgen.study("a cat", folder=address, **TINY, **quick).finished
    assert len(list((tmp_path / "away").glob("*/row.json"))) == 2


@pytest.mark.parametrize(
    "values",
    [
        *({"step": value} for value in (-5, "3", 2.7, True)),
        *({"seconds": math.nan}, {"seconds": math.inf}, {"done": 1}, {"error": None}, {"error": [1]}, {"more": 1}),
    ],
    ids=str,
)
def test_a_state_of_wrong_types_is_a_new_one(values):
    content = json.dumps({"step": 3, "seconds": 1.5, "done": False, "error": ""} | values)
    assert RowState.read(content.encode()) == RowState()
    assert RowState.read(b'{"step": 3, "seconds": 1.5}') == RowState(step=3, seconds=1.5)
