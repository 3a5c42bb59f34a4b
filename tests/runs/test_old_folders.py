"""A run folder that version 0.1 wrote (``format1``, interrupted at step 4 of 6): read, gone on with, made again."""

import json
import shutil
from pathlib import Path

import pytest

import clipgen
from clipgen.runs.journal import Journal
from clipgen.studio.gallery import settings_of

OLD = Path(__file__).parent / "format1"


def grey(image, latent, step):
    return image.mean()


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(OLD, tmp_path / "old"))


def test_it_is_read(folder, tmp_path):
    journal = Journal.open(folder)
    assert journal.steps == [1, 2, 4] and journal.latent(4).shape == (4, 4) and journal.frame(2).size == (32, 32)
    assert [row["step"] for row in journal.scores] == [1, 2, 4] and journal.changes == [
        {"step": 2, "lr": 0.1, "tv": 0.2}
    ]
    assert settings_of(journal, tmp_path)["tv"] == 0.2


def test_it_goes_on(folder):
    with pytest.raises(clipgen.ClipgenError, match=r"followed 1 losses of its own \(1\), and 0 are given"):
        clipgen.Run.resume(folder)
    run = clipgen.Run.resume(folder, losses=[grey])
    assert run.step == 4 and run.settings.lr == 0.1 and run.settings.augment == "flip,affine,noise"
    assert [frame.step for frame in run] == [6] and run.finished
    assert run.journal.steps == [1, 2, 4, 6] and run.journal.latent(6).shape == (4, 4)
    assert not (folder / "latents").exists(), "one folder has one format"


def test_it_is_made_again_and_branched(folder, tmp_path):
    run = clipgen.finish(clipgen.Run.replay(folder, losses=[grey], folder=tmp_path), progress=False)
    assert run.journal.settings["format"] == 2 and run.journal.changes == Journal.open(folder).changes
    branch = clipgen.Run.resume(folder, losses=[grey], like=run).branch(2, steps=2, folder=tmp_path)
    assert [frame.step for frame in branch] == [1, 2] and branch.models is run.models


def test_strengths_that_were_settings_are_read_into_augment(folder, tmp_path):
    journal = folder / "settings.json"
    saved = json.loads(journal.read_text())
    journal.write_text(json.dumps(saved | {"augment": "flip,shift,grain", "noise": 0.2, "shift": 0.1}))
    (folder / "changes.jsonl").write_text(json.dumps({"step": 2, "noise": 0.3}) + "\n")
    run = clipgen.Run.replay(folder, losses=[grey], folder=tmp_path)
    assert run.settings.augment == "flip, shift=0.1, grain=0.2"
    assert clipgen.finish(run, progress=False).settings.augment == "flip, shift=0.1, grain=0.3"
