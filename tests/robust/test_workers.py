"""Workers of a study: what they import, what they print, and how they end."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import clipgen
from clipgen.studies.executor import ProcessExecutor, ProcessWorker, WorkerLost
from clipgen.studies.grid import expand_grid
from clipgen.studies.row import Row, RowState
from clipgen.studies.worker import make_rows

TINY = {"generator": "pixels", "size": (64, 64), "init": "perlin", "cutouts": 2, "steps": 1, "progress": False}
SHADOWS = "queue", "torch", "json", "linecache", "runpy", "signal", "random", "clipgen", "sitecustomize"


@pytest.fixture
def received(tmp_path, monkeypatch):
    """The current folder, with files that note that they were run; the folder where they note it."""
    folder, notes = tmp_path / "received", tmp_path / "notes"
    folder.mkdir()
    notes.mkdir()
    for name in SHADOWS:
        (folder / f"{name}.py").write_text(f"open({str(notes / name)!r}, 'w')")
    monkeypatch.chdir(folder)
    return notes


def test_a_study_runs_nothing_that_lies_beside_it(received, monkeypatch):
    """Not even where PYTHONPATH has an empty entry, which means the current folder."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep + os.environ.get("PYTHONPATH", ""))
    study = clipgen.study("a cat", workers=1, **TINY)
    assert not list(received.iterdir())
    assert study.finished


def interpreters():
    """Other supported versions of Python on this machine, which need not have torch: their paths."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    paths = [shutil.which(f"python3.{minor}") for minor in range(11, 15)] + sorted(pyenv.glob("3.1[1-4]*/bin/python"))
    others = {}
    for path in filter(None, paths):
        asked = [path, "-I", "-c", "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)"]
        answer = subprocess.run(asked, capture_output=True, text=True)
        if answer.returncode == 0:
            version, executable = answer.stdout.split(maxsplit=1)
            others[version] = executable.strip()
    others.pop("{}.{}".format(*sys.version_info), None)
    return others


@pytest.mark.parametrize("python", [*interpreters().values()], ids=[*interpreters()])
def test_no_python_has_the_current_folder_on_a_workers_path(python, received, tmp_path, monkeypatch):
    """Where torch is missing the worker ends by that: not even then is the file torch.py taken."""
    monkeypatch.setattr(sys, "executable", python)
    with ProcessExecutor(1, 1, []) as engine:
        engine.submit(make_rows, [tmp_path / "no row"]).exception(120)
    assert not list(received.iterdir())


def test_what_a_worker_prints_and_reads_is_no_message_and_the_path_of_a_person_is_kept(tmp_path, monkeypatch):
    """As of a module that prints when it is loaded: the line is no row, and reading takes no order away."""
    started = tmp_path / "started"
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys; print('made'); print('loading...', end='', flush=True); open({str(started)!r}, 'a').write('x');"
        "sys.stdin.readline()"
    )
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), before])))
    study = clipgen.study("a cat", workers=1, folder=tmp_path / "study", **TINY)
    assert started.exists()
    assert study.finished and [row.journal.steps for row in study.rows] == [[1]]


@pytest.mark.skipif(not hasattr(signal, "SIGRTMIN"), reason="this system has no real-time signals")
@pytest.mark.parametrize(("number", "name"), [(40, "signal 40"), (signal.SIGTERM.value, "SIGTERM")])
def test_a_worker_that_any_signal_ends_is_reported(number, name):
    worker = ProcessWorker(1)
    killer = threading.Timer(0.5, os.kill, (worker.process.pid, number))
    killer.start()
    with pytest.raises(WorkerLost, match=f"^{name}"):
        worker.call(time.sleep, 60)
    worker.close()


def test_a_worker_leaves_nothing_open(tmp_path):
    def opened():
        return len(list(Path("/proc/self/fd").iterdir()))

    if not Path("/proc/self/fd").exists():
        pytest.skip("this system does not list what is open")
    before = opened()
    with ProcessExecutor(1, 1, []) as engine:
        assert isinstance(engine.submit(os._exit, 3).exception(120), WorkerLost)
        engine.submit(time.sleep, 60)  # another worker, which ends with the executor
    assert opened() <= before


@pytest.mark.parametrize(
    "note",
    [
        "[]",
        "null",
        "{}",
        '{"step": "3"}',
        '{"step": null, "done": 1}',
        '{"step": true}',
        '{"seconds": "1"}',
        '{"memory": NaN}',
        '{"error": 5}',
        '{"error": null, "done": true}',
        '{"done": "yes"}',
        '{"step": -1}',
        '{"seconds": -Infinity}',
        '{"more": 1}',
        "[" * 100_000,
        '{"step": 1' + "0" * 5000 + "}",
        "\x00",
    ],
)
def test_a_row_whose_note_is_nonsense_is_not_begun(note, tmp_path):
    (tmp_path / "row.json").write_text(note)
    assert RowState.read(tmp_path) == RowState()


def test_a_row_whose_note_is_nonsense_is_made_again(tmp_path, inline_workers):
    asked = {name: value for name, value in TINY.items() if name != "progress"}
    row = Row(expand_grid("a cat", asked)[0], tmp_path)
    row.begin(1)
    (row.folder / "row.json").write_text('{"step": "x", "seconds": null, "done": false, "error": ""}')
    study = clipgen.study("a cat", workers=1, folder=tmp_path, progress=False, **asked)
    assert study.finished and study.rows[0].folder == row.folder and study.rows[0].journal.steps == [1]
