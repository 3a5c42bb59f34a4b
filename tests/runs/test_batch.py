"""Several runs in one tensor: their pictures are those that they would be alone, and so are their journals."""

import numpy as np
import pytest

import clipgen
from clipgen.errors import ClipgenError
from clipgen.runs import finish
from clipgen.runs.finish import batch_key, iterate_batch
from clipgen.runs.run import Run

QUICK = {"size": (64, 64), "init": "perlin", "cutouts": 3, "steps": 4, "every": 2}
ASKED = [
    ("a cat", {}),
    ("a boat:2 | a red hat:-0.5 | snow [top]", {"cutouts": 5, "tv": 0.2}),
    ("fire@0-2 | ice@2-", {}),
]


def runs(folder, **settings):
    """The runs of ASKED, which share their models."""
    made = []
    for seed, (prompt, own) in enumerate(ASKED):
        like = made[0] if made else None
        made.append(Run(prompt, folder=folder, like=like, seed=seed, **QUICK | settings | own))
    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"generator": "mini-vqgan", "averaged": 0.5, "passes": 2},
        {"generator": "mini-dvae", "relax": "gumbel", "mask": "bottom", "near": 0.0},
        {"generator": "fft", "camera": "zoom=1.1", "near_space": "clip"},
        {"generator": "strokes:8", "distance": "cosine"},
    ],
    ids=lambda settings: settings["generator"],
)
def test_pictures_are_those_made_singly(settings, tmp_path):
    alone, joined = runs(tmp_path / "alone", **settings), runs(tmp_path / "together", **settings)
    assert len({batch_key(run.spec) for run in joined}) == 1
    told = [(run.settings.seed, frame.step) for run, frame in iterate_batch(joined)]
    assert told == [(seed, step) for step in (1, 2, 4) for seed in range(3)]
    for one, other in zip(alone, joined):
        list(one)
        assert other.finished and other.journal.steps == one.journal.steps
        for step in one.journal.steps:
            away = np.asarray(one.journal.frame(step), int) - np.asarray(other.journal.frame(step), int)
            assert abs(away).mean() < 1
        for row, had in zip(other.journal.scores, one.journal.scores):
            assert row == pytest.approx(had, abs=2e-3, nan_ok=True)


@pytest.mark.slow
def test_one_at_a_time_is_the_same_to_the_byte(tmp_path):
    single = clipgen.generate("a cat", seed=1, progress=False, folder=tmp_path, **QUICK)
    made = clipgen.batch("a cat", 2, batch=1, progress=False, folder=tmp_path, **QUICK)
    assert made[1].image.tobytes() == single.image.tobytes()
    joined = clipgen.batch("a cat", 3, batch=2, progress=False, folder=tmp_path, **QUICK)
    assert [run.settings.seed for run in joined] == [0, 1, 2] and all(run.finished for run in joined)
    assert abs(np.asarray(joined[1].image, int) - np.asarray(single.image, int)).mean() < 1
    with pytest.raises(ClipgenError, match="batch=0"):
        clipgen.batch("a cat", 2, batch=0, folder=tmp_path, **QUICK)


@pytest.mark.slow
def test_what_is_behind_catches_up_and_what_ends_early_is_left_out(tmp_path):
    some = runs(tmp_path)
    some[2].stop()
    frames = iter(some[0])
    assert next(frames).step == 1 and next(frames).step == 2
    some[0].stop()
    assert not list(frames)
    again = [Run.resume(some[0].journal.folder, like=some[0]), some[1], some[2]]
    assert [frame.step for run, frame in iterate_batch(again) if run is again[0]] == [4]
    assert [run.finished for run in again] == [True, True, False] and some[2].step == 0


def test_fewer_go_together_where_memory_is_short(tmp_path, monkeypatch):
    tried, differentiate = [], finish.compute_gradients

    def narrow(renders):
        tried.append(len(renders))
        if len(renders) > 2:
            renders[0].rng.set_state(renders[1].rng.get_state())
            raise RuntimeError("cannot allocate memory")
        return differentiate(renders)

    monkeypatch.setattr(finish, "compute_gradients", narrow)
    settings = QUICK | {"steps": 2, "every": 1}
    made = [Run("a cat", folder=tmp_path, seed=0, **settings)]
    made += [Run("a cat", folder=tmp_path, seed=seed, like=made[0], **settings) for seed in (1, 2, 3)]
    with pytest.warns(UserWarning, match="at most 2 pictures"):
        list(iterate_batch(made))
    assert tried == [4, 2, 2, 2, 2]
    alone = clipgen.generate("a cat", seed=0, progress=False, folder=tmp_path, like=made[0], **settings)
    assert abs(np.asarray(made[0].image, int) - np.asarray(alone.image, int)).mean() < 1
