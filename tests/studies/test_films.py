"""Batches made here or by workers, and redrawn films that go on."""

import numpy as np
import pytest
import torch

import clipgen
from clipgen.errors import ClipgenError
from clipgen.runs.journal import Journal
from clipgen.studies import executor, local
from clipgen.studies.films import finish_film

SMALL = {"size": (64, 64), "cutouts": 2, "steps": 2, "seed": 3, "progress": False}


@pytest.fixture
def one_core(monkeypatch):
    """As many threads here as in each worker, so that sums are rounded alike."""
    monkeypatch.setattr(executor, "count_cores", lambda: 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def equal(some, others):
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(some, others, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("carry", [0.0, 0.5])
def test_a_film_goes_on_after_its_process_is_lost(carry, film, tmp_path, monkeypatch):
    whole = clipgen.restyle(film[:4], "a red apple", carry=carry, folder=tmp_path / "whole", **SMALL)
    assert whole.steps == [1, 2, 3, 4] and not (whole.folder / "film").exists()
    assert whole.settings["init"] == "film" and "film" not in whole.settings
    add = Journal.add

    def lost(journal, step, *frame):
        if step == 3 and (journal.folder / "film").exists():
            raise SystemError("lost")
        add(journal, step, *frame)

    monkeypatch.setattr(Journal, "add", lost)
    with pytest.raises(SystemError):
        clipgen.restyle(film[:4], "a red apple", carry=carry, folder=tmp_path / "lost", **SMALL)
    monkeypatch.undo()
    (folder,) = (tmp_path / "lost").iterdir()
    frames = folder / "frames"  # of the third frame the picture was written, but not its scores
    (frames / "00003.png").write_bytes((frames / "00001.png").read_bytes())
    made = finish_film(Journal.open(folder), progress=False)
    assert made.steps == whole.steps and made.scores == whole.scores
    assert equal(made.frames(), whole.frames()) and not (folder / "film").exists()


@pytest.mark.slow
def test_a_batch_by_workers(one_core, tmp_path):
    asked = {**SMALL, "seed": 5, "init": "perlin"}
    alone = clipgen.batch("a cat", 3, folder=tmp_path / "alone", **asked)
    runs = clipgen.batch("a cat", 3, workers=2, folder=tmp_path, **asked)
    assert [run.settings.seed for run in runs] == [5, 6, 7] and all(run.finished for run in runs)
    assert equal([run.image for run in runs], [run.image for run in alone])
    assert runs[0].models is runs[2].models
    assert clipgen.best(runs)[0].settings.seed == clipgen.best(alone)[0].settings.seed


def test_mistakes_are_named_before_anything_is_computed(film, tmp_path, monkeypatch):
    monkeypatch.setattr(local.ProcessExecutor, "start_worker", lambda *_: pytest.fail("nothing should begin"))
    with pytest.raises(ClipgenError, match="stay in this process"):
        clipgen.batch("a cat", 2, workers=2, losses=[lambda *_: 0], folder=tmp_path)
    with pytest.raises(ClipgenError, match="engine='lokal' is unknown; did you mean local"):
        clipgen.batch("a cat", 2, engine="lokal", folder=tmp_path)
    with pytest.raises(ClipgenError, match="no frames"):
        clipgen.restyle([], "a cat", folder=tmp_path)
    with pytest.raises(ClipgenError, match="carry=2"):
        clipgen.restyle(film, "a cat", carry=2, folder=tmp_path)
    with pytest.raises(ClipgenError, match="workers=0"):
        clipgen.batch("a cat", 2, workers=0, folder=tmp_path)
    assert not [*tmp_path.rglob("*.png")]
