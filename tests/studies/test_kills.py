"""Workers killed at random moments, and the study itself: nothing is lost, and the frames are the same."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import killed_study
import pytest

from clipgen.runs.journal import Journal
from clipgen.studies import executor, study
from clipgen.studies.executor import ProcessExecutor, ProcessWorker
from clipgen.studies.row import RowState, StudyStorage
from clipgen.studies.study import ATTEMPTS, make_batches

pytestmark = pytest.mark.slow


def steps(folder):
    """How many frames there are in all rows."""
    return sum(len(list((row / "frames").glob("*.png"))) for row in folder.glob("*-*"))


def until(what, seconds=120):
    """Wait for something to be so."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.01)


def test_workers_are_killed(whole, same, tmp_path, monkeypatch):
    monkeypatch.setattr(executor, "count_cores", lambda: 1)
    monkeypatch.setattr(study, "TICK", 0.01)
    engine, folders = ProcessExecutor(2, 3, []), [tmp_path / row.folder.name for row in whole.rows]
    due = killed_study.kills(ProcessWorker, monkeypatch, 3)
    for row in killed_study.rows(tmp_path):
        row.begin(1)
    killed = set()
    for _ in make_batches(engine, [[folder] for folder in folders], StudyStorage(tmp_path)):
        for worker in due():
            worker.process.send_signal(signal.SIGKILL)
            killed.add(worker)
    engine.shutdown()
    assert 2 <= len(killed) <= 3 and {worker.process.wait() for worker in killed} == {-signal.SIGKILL}
    for made, row in zip(folders, whole.rows):
        assert RowState.read(made).done
        same(made, row.folder)


def test_the_study_is_killed_and_its_workers_end(whole, same, tmp_path):
    mine = Path(killed_study.__file__)
    study = subprocess.Popen([sys.executable, mine, tmp_path, "2"])
    until(lambda: steps(tmp_path) >= 5 or study.poll() is not None)
    assert study.poll() is None
    threads = Path(f"/proc/{study.pid}/task").glob("*/children")
    children = [child for file in threads for child in file.read_text().split()]
    assert 1 <= len(children) <= 2
    study.kill()
    study.wait()
    until(lambda: not any(alive(int(child)) for child in children), 10)
    subprocess.run([sys.executable, mine, tmp_path, "2"], check=True)
    assert {row.name for row in tmp_path.iterdir()} == {row.folder.name for row in whole.rows}
    for row in whole.rows:
        same(tmp_path / row.folder.name, row.folder)


def alive(process):
    """Whether a process still runs: one that nobody has waited for is a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_row_that_takes_its_worker_along_is_given_up(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(executor, "count_cores", lambda: 1)
    call, killed, started = ProcessWorker.call, [], set()

    def poisoned(worker, function, folders, address):
        started.add(worker)
        if folders[0].name == "poison":
            worker.kill()
            killed.append(worker)
        return call(worker, function, folders, address)

    monkeypatch.setattr(ProcessWorker, "call", poisoned)
    (tmp_path / "poison").mkdir()
    engine = ProcessExecutor(1, 2, [])
    list(make_batches(engine, [[tmp_path / "poison", whole.rows[0].folder]], StudyStorage(tmp_path)))
    engine.shutdown()
    state = RowState.read(tmp_path / "poison")
    assert len(set(killed)) == 1 + ATTEMPTS and "3 times in the same step (SIGKILL)" in state.error
    assert RowState.read(whole.rows[0].folder).done and len(Journal(whole.rows[0].folder).steps) == 14
    assert not any(alive(worker.process.pid) for worker in started)
