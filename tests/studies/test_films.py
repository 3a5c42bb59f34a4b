"""Films and batches by an engine's workers."""

import numpy as np
import pytest
import torch

import clipgen
from clipgen.errors import ClipgenError
from clipgen.runs.journal import Journal
from clipgen.studies import local, reel
from clipgen.studies.worker import Maker

SMALL = {"size": (64, 64), "cutouts": 2, "steps": 2, "seed": 3, "progress": False}


@pytest.fixture
def one_core(monkeypatch):
    """As many threads here as in each worker, so that sums are rounded alike."""
    monkeypatch.setattr(local, "cores", lambda: 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def equal(some, others):
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(some, others, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("carry", [0.0, 0.5])
def test_a_film_in_parts_is_the_film(carry, film, one_core, tmp_path):
    """With frames of their own it is the same; with an overlap back to the beginning it is, too."""
    whole = clipgen.restyle(film, "a red apple", carry=carry, folder=tmp_path / "whole", **SMALL)
    parts = clipgen.restyle(film, "a red apple", carry=carry, folder=tmp_path, workers=2, **SMALL)
    assert parts.steps == whole.steps == list(range(1, 8)) and parts.scores == whole.scores
    assert equal(parts.frames(), whole.frames())
    assert not (parts.folder / reel.PARTS).exists()
    assert parts.settings["init"] == "film" and "film" not in parts.settings


@pytest.mark.slow
def test_a_short_overlap_settles(film, one_core, tmp_path):
    whole = clipgen.restyle(film, "a red apple", folder=tmp_path / "whole", **SMALL)
    parts = clipgen.restyle(film, "a red apple", folder=tmp_path, workers=2, overlap=1, **SMALL)
    first, later = (
        [np.abs(np.asarray(a, int) - np.asarray(b, int)).mean() for a, b in zip(*both)]
        for both in zip(*([[*x.frames()][:4], [*x.frames()][4:]] for x in (whole, parts)))
    )
    assert max(first) == 0 < max(later) < 25


def test_a_part_goes_on_after_its_worker_is_lost(film, tmp_path):
    spec = clipgen.Run("a red apple", folder=tmp_path / "any", init=film[0], **_run()).spec
    parent = Journal.create(tmp_path, "film", spec.notes | {"init": reel.FILM})
    parts = [reel._part(parent, spec, film, 0.5, 1, 3, 0) for _ in range(2)]
    next(reel.go_on(parts[0].folder, None))
    assert parts[0].steps == [1]
    frames = parts[0].folder / "frames"  # and of the next one the worker was lost before its scores were written
    (frames / "00002.png").write_bytes((frames / "00001.png").read_bytes())
    Maker(1).make([parts[0].folder])
    Maker(1).make([parts[1].folder])
    assert parts[0].steps == parts[1].steps == [1, 2, 3] and equal(parts[0].frames(), parts[1].frames())
    assert len(parts[0].scores) == 3


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
    monkeypatch.setattr(local.Local, "start", lambda self: pytest.fail("nothing should begin"))
    with pytest.raises(ClipgenError, match="stay in this process"):
        clipgen.batch("a cat", 2, workers=2, losses=[lambda *_: 0], folder=tmp_path)
    with pytest.raises(ClipgenError, match="stay in this process"):
        clipgen.restyle(film, "a cat", engine="local", losses=[lambda *_: 0], folder=tmp_path)
    with pytest.raises(ClipgenError, match="overlap=-1"):
        clipgen.restyle(film, "a cat", engine="local", overlap=-1, folder=tmp_path)
    with pytest.raises(ClipgenError, match="engine='lokal' is unknown; did you mean local"):
        clipgen.restyle(film, "a cat", engine="lokal", folder=tmp_path)
    with pytest.raises(ClipgenError, match="no frames"):
        clipgen.restyle([], "a cat", workers=2, folder=tmp_path)
    with pytest.raises(ClipgenError, match="workers=0"):
        clipgen.batch("a cat", 2, workers=0, folder=tmp_path)
    with pytest.raises(ClipgenError, match="workers=0"):
        clipgen.restyle(film, "a cat", engine="local", workers=0, folder=tmp_path)
    assert not [*tmp_path.rglob("*.png")]


def _run():
    return {name: value for name, value in SMALL.items() if name != "progress"} | {"every": 2}
