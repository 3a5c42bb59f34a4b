"""What a run has made is written in a thread where a GPU computes: the same files, in the same order."""

import time

import pytest

import clipgen
from clipgen.runs import run as runs
from clipgen.runs.frames import FrameWriter
from clipgen.runs.journal import Journal

QUICK = {"steps": 9, "every": 1, "cutouts": 2, "size": (64, 64), "init": "perlin"}


@pytest.fixture
def beside(monkeypatch):
    monkeypatch.setattr(runs, "FrameWriter", lambda journal, in_background: FrameWriter(journal, in_background=True))


def files(run):
    found = {str(file.relative_to(run.journal.folder)): file.read_bytes() for file in run.journal.folder.rglob("*.*")}
    return {name: content for name, content in found.items() if name != "settings.json"}


@pytest.mark.slow
def test_a_slow_disk_keeps_the_same_and_whoever_reads_waits(tmp_path, beside, monkeypatch):
    whole, order = Journal._replace, []

    def slow(self, name, content):
        time.sleep(0.05)
        whole(self, name, content)
        order.append(name)

    monkeypatch.setattr(Journal, "_replace", slow)
    run = clipgen.Run("a cat", folder=tmp_path, **QUICK)
    for frame in run:
        if frame.step % 3 == 0:
            assert run.journal.steps[-1] == run.journal.scores[-1]["step"] == frame.step
            assert run.journal.load_state()[0] == frame.step
            assert run.journal.frame(frame.step).tobytes() == frame.image.tobytes()
    monkeypatch.undo()
    plain = clipgen.generate("a cat", folder=tmp_path, progress=False, like=run, **QUICK)
    assert files(run) == files(plain)
    expected = [
        (f"latents/{n:05d}.npy", f"frames/{n:05d}.png", "scores.csv", "state.safetensors") for n in range(1, 10)
    ]
    assert order[1:] == [name for names in expected for name in names]


def test_a_full_disk_is_told_once(tmp_path, beside, monkeypatch):
    run = clipgen.Run("a cat", folder=tmp_path, **QUICK)
    frames = iter(run)
    next(frames)
    assert run.journal.steps == [1]
    monkeypatch.setattr(Journal, "_replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.warns(UserWarning, match="cannot be saved any more") as said:
        last = list(frames)[-1]
    assert run.finished and len(said) == 1 and run.image is last.image and run.journal.steps == [1]
