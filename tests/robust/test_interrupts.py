"""Ctrl-C at any moment: exit code 130, the folder is named, what can be exported is, and no part of a file stays."""

import re
import signal
import subprocess
import sys
import threading

import pytest
from PIL import Image

import clipgen
from clipgen.cli import main
from clipgen.export import export
from clipgen.export.formats import Gif
from clipgen.inits import Random
from clipgen.runs import run as runs
from clipgen.runs.frames import FrameWriter
from clipgen.runs.journal import Journal

SMALL = ["--generator", "pixels", "--init", "random", "--size", "32", "--cutouts", "2", "--every", "1"]
FILM = ["--generator", "pixels", "--size", "32", "--cutouts", "2"]


@pytest.fixture(autouse=True)
def interruptible():
    """A shell's background jobs ignore SIGINT, and so would the tests that one starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def press(monkeypatch):
    """Ctrl-C as soon as a method is entered: real signals, at a moment that is known."""

    def press_at(owner, name, count=1, when=lambda *_: True):
        plain = getattr(owner, name)

        def pressed(*args, **options):
            for _ in range(count if when(*args) else 0):
                signal.raise_signal(signal.SIGINT)
            return plain(*args, **options)

        monkeypatch.setattr(owner, name, pressed)

    return press_at


@pytest.fixture
def interrupted(tmp_path, monkeypatch, capsys):
    """Runs a command that is interrupted; returns the run folder that it names."""
    monkeypatch.chdir(tmp_path)

    def command(*words):
        return check(main([*words, "--quiet"]), *capsys.readouterr(), tmp_path)

    return command


def check(code, out, err, folder):
    assert code == 130 and "Traceback" not in out + err, out + err
    (run,) = (folder / "clipgen-runs").iterdir()
    assert f"clipgen resume clipgen-runs/{run.name}" in out + err
    assert not [file for file in folder.rglob("*") if ".part" in file.name]
    return run


def test_two_presses(interrupted, press, tmp_path):
    press(Journal, "save_state", 2, lambda journal, step, *_: step == 3)
    run = interrupted("a cat", *SMALL, "--steps", "500", "-o", "cat.gif")
    assert Image.open(tmp_path / "cat.gif").n_frames == 3
    assert clipgen.Run.resume(run).step == 2, "the state of the step in the making was not written"


def test_a_second_press_during_the_export(interrupted, press, tmp_path):
    press(Journal, "save_state", 1, lambda journal, step, *_: step == 3)
    press(Gif, "write")
    run = interrupted("a cat", *SMALL, "--steps", "500", "-o", "cat.gif")
    assert not (tmp_path / "cat.gif").exists() and clipgen.Run.resume(run).step == 3


def test_during_the_export_of_a_finished_run(interrupted, press, tmp_path):
    press(Gif, "write")
    run = interrupted("a cat", *SMALL, "--steps", "2", "-o", "cat.png", "-o", "cat.gif")
    assert (tmp_path / "cat.png").exists() and not (tmp_path / "cat.gif").exists()
    assert clipgen.Run.resume(run).finished


@pytest.mark.parametrize("more", [[], ["--batch", "2"]], ids=["one", "batch"])
@pytest.mark.parametrize("presses", [1, 2])
def test_while_the_draft_is_drawn(presses, more, interrupted, press, tmp_path):
    press(Random, "latent", presses)
    run = interrupted("a cat", *SMALL, "--steps", "2", *more, "-o", "cat.gif")
    assert not (tmp_path / "cat.gif").exists() and clipgen.Run.resume(run).step == 0


@pytest.fixture
def film(tmp_path):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "green", "blue", "white")]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:], duration=100)
    return str(tmp_path / "film.gif")


def in_film(journal):
    """Whether a journal is that of a film, not of the run of one of its frames."""
    return journal.folder.parent.name == "clipgen-runs"


@pytest.mark.parametrize("frames", [1, 3])
def test_a_film_that_is_interrupted_goes_on_to_the_same_frames(frames, film, interrupted, press, tmp_path):
    settings = ["--film", film, *FILM, "--steps", "2"]
    assert main(["a cat", *settings, "--quiet", "--folder", str(tmp_path / "whole"), "-o", "whole.gif"]) == 0
    once = [frames + 1]
    press(Journal, "add", 1, lambda journal, step, *_: in_film(journal) and step in once and once.pop())
    run = interrupted("a cat", *settings, "-o", "part.gif")
    assert Image.open(tmp_path / "part.gif").n_frames == frames and Journal.open(run).steps == [*range(1, frames + 1)]
    assert main(["resume", str(run), "whole-too.gif", "--quiet"]) == 0
    assert Image.open(tmp_path / "whole-too.gif").n_frames == 4 and not (run / "film").exists()
    (whole,) = (tmp_path / "whole").iterdir()
    assert [one.tobytes() for one in Journal.open(run).frames()] == [
        one.tobytes() for one in Journal.open(whole).frames()
    ]
    assert Journal.open(run).scores == Journal.open(whole).scores


def test_a_film_before_its_first_frame(film, interrupted, press, tmp_path):
    press(Random, "latent", 1)
    press(Journal, "add", 1, lambda journal, *_: in_film(journal))
    run = interrupted("a cat", "--film", film, *FILM, "--steps", "2", "-o", "part.gif")
    assert not (tmp_path / "part.gif").exists() and Journal.open(run).steps == []


def test_a_key_press_of_a_terminal(tmp_path):
    """A real signal from outside, twice, at moments that nobody knows."""
    words = ["a cat", *SMALL, "--steps", "100000", "-o", "cat.png"]
    pipe = subprocess.PIPE
    start = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    start += "from clipgen.cli import main; sys.exit(main(sys.argv[1:]))"
    with subprocess.Popen(
        [sys.executable, "-c", start, *words], cwd=tmp_path, stdout=pipe, stderr=pipe, text=True
    ) as process:
        assert process.stderr and process.stdout
        text = ""
        while not re.search(r"clip=", text):  # the progress bar of a step that was made
            text += process.stderr.read(1)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    check(process.returncode, out, text + err, tmp_path)


def test_a_killed_exports_part_is_cleared_at_the_next_one(tmp_path):
    pictures = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    code = """
import os, sys
from pathlib import Path
from PIL import Image
from clipgen.export import export
def frames():
    yield Image.new("RGB", (32, 32))
    os.kill(os.getpid(), 9)
export(frames(), sys.argv[1])
"""
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "a.gif"]).returncode == -9
    (tmp_path / ".mine.part.gif").write_bytes(b"of somebody else")
    assert len([*tmp_path.iterdir()]) == 2

    def meanwhile():
        yield pictures[0]
        export(pictures, tmp_path / "other.gif")
        yield pictures[1]

    export(meanwhile(), tmp_path / "b.gif")
    assert sorted(file.name for file in tmp_path.iterdir()) == [".mine.part.gif", "b.gif", "other.gif"]
    assert Image.open(tmp_path / "b.gif").n_frames == 2, "a part that is being written stays"


HANDLER = """
import importlib.util, signal, sys
spec = importlib.util.find_spec("_signal")
spec.loader.exec_module(importlib.util.module_from_spec(spec))  # as a program has it that Python is a part of
assert signal.getsignal(signal.SIGINT) is None
import clipgen
run = clipgen.generate("a cat", generator="pixels", init="random", size=(32, 32), steps=2, cutouts=2, progress=False)
assert run.finished and signal.getsignal(signal.SIGINT) is None
"""


def test_a_handler_that_is_not_pythons_is_left_alone(tmp_path):
    said = subprocess.run([sys.executable, "-c", HANDLER], cwd=tmp_path, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr


def test_a_process_that_ignores_interrupts_goes_on(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run = clipgen.Run("a cat", generator="pixels", init="random", size=(32, 32), steps=3, every=1, folder=tmp_path)
        plain = run.models.generator.project_

        def project_(latent):
            signal.raise_signal(signal.SIGINT)
            return plain(latent)

        run.models.generator.project_ = project_
        assert clipgen.finish(run, progress=False).finished
    finally:
        signal.signal(signal.SIGINT, before)


def test_whoever_stops_iterating_ends_the_thread_that_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(
        runs, "FrameWriter", lambda journal, in_background: FrameWriter(journal, in_background=True)
    )  # as a GPU has it
    run = clipgen.Run("a cat", generator="pixels", init="random", size=(32, 32), steps=3, every=1, folder=tmp_path)
    frames = iter(run)
    next(frames)
    frames.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("clipgen journal")]
    assert run.journal.steps == [1] and not (run.journal.folder / ".lock").exists()
