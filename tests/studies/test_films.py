"""Redrawn films that go on."""

import numpy as np
import pytest

import clipgen
from clipgen.errors import ClipgenError
from clipgen.runs.journal import Journal
from clipgen.studies.films import finish_film

SMALL = {"size": (64, 64), "cutouts": 2, "steps": 2, "seed": 3, "progress": False}


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
    (folder / "film" / ".DS_Store").write_bytes(b"")  # of macOS
    frames = folder / "frames"  # of the third frame the picture was written, but not its scores
    (frames / "00003.png").write_bytes((frames / "00001.png").read_bytes())
    made = finish_film(Journal.open(folder), progress=False)
    assert made.steps == whole.steps and made.scores == whole.scores
    assert equal(made.frames(), whole.frames()) and not (folder / "film").exists()


def test_mistakes_are_named_before_anything_is_computed(film, tmp_path):
    with pytest.raises(ClipgenError, match="no frames"):
        clipgen.restyle([], "a cat", folder=tmp_path)
    with pytest.raises(ClipgenError, match="carry=2"):
        clipgen.restyle(film, "a cat", carry=2, folder=tmp_path)
    with pytest.raises(ClipgenError, match="leave every out"):
        clipgen.restyle(film, "a cat", every=2, folder=tmp_path)
    assert not [*tmp_path.rglob("*.png")]


@pytest.mark.slow
def test_a_run_that_diverges_does_not_end_the_batch(tmp_path):
    def nan(image, latent, step):
        return image.sum() * float("nan")

    with pytest.warns(UserWarning, match="not finite"):
        runs = clipgen.batch("a cat", 3, losses={"n": nan}, generator="pixels", folder=tmp_path, **SMALL | {"steps": 5})
    assert len(runs) == 3 and all(run.diverged for run in runs)
