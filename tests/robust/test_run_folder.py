"""A run folder: its scores are read as far as they are whole, and it works for one run at a time."""

import contextlib
import csv
import socket
import subprocess
import sys
import threading

import pytest
import yaml
from PIL import Image

import clipgen
from clipgen.cli import main
from clipgen.losses import Loss
from clipgen.runs.journal import Journal
from clipgen.studies.row import Row

SMALL = {"generator": "pixels", "init": "random", "size": (32, 32), "steps": 4, "every": 1, "cutouts": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return clipgen.generate("a cat", progress=False, folder=tmp_path_factory.mktemp("runs"), **SMALL)


def copy(run, folder):
    """The folder of a run, to be damaged."""
    import shutil

    return shutil.copytree(run.journal.folder, folder / "run")


@pytest.mark.parametrize(
    "cut", ["4,", "4,0.25,", "4,0.25", "4,0.25,0.", "4,0.25,0.5", "4", "4,0.25,0.\0\0\0\0", "\0\0"]
)
def test_half_a_row_at_the_end_is_no_row(cut, made, tmp_path):
    folder = copy(made, tmp_path)
    rows = Journal.open(folder).scores
    whole = (folder / "scores.csv").read_bytes()
    (folder / "scores.csv").write_bytes(b"".join(whole.splitlines(keepends=True)[:4]) + cut.encode())
    assert Journal.open(folder).scores == rows[:3]
    again = clipgen.Run.resume(folder, like=made)
    assert again.journal.scores == rows[:3] and again.journal.steps == [1, 2, 3, 4]
    journal = Journal.open(folder)
    journal.add(5, made.image, made.optimization.packed_latent(), {"clip": 0.5, "loss": 0.25})
    assert journal.scores == [*rows[:3], {"step": 5, "clip": 0.5, "loss": 0.25}]


@pytest.mark.parametrize("cut", ["4,0.2", "4,"])
def test_a_row_after_half_a_row_stays_whole(cut, made, tmp_path):
    folder = copy(made, tmp_path)
    rows = Journal.open(folder).scores
    with (folder / "scores.csv").open("a") as table:
        table.write(cut)
    journal = Journal.open(folder)
    journal.add(5, made.image, made.optimization.packed_latent(), {"clip": 0.5, "loss": 0.25})
    assert journal.scores == [*rows, {"step": 5, "clip": 0.5, "loss": 0.25}]


class Late(Loss):
    """Scores some of the steps."""

    name = "late"

    def __init__(self, steps):
        self.steps = steps

    def loss(self, moment):
        if moment.step + 1 in self.steps:
            moment.scores["late"] = moment.image.detach().mean()
        return 0 * moment.image.mean()


@pytest.mark.parametrize("steps", [(3, 4), (1, 2), (2,), (1, 4)], ids=str)
def test_a_score_may_come_and_go(steps, tmp_path):
    run = clipgen.generate("a cat", progress=False, folder=tmp_path, losses=[Late(steps)], **SMALL)
    rows = run.journal.scores
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["step"] for row in rows if "late" in row] == list(steps)
    assert all(0 < row.get("late", 0.5) < 1 and -1 <= row["clip"] <= 1 and row["loss"] > 0 for row in rows)
    table = list(csv.reader((run.journal.folder / "scores.csv").read_text().splitlines()))
    assert {len(line) for line in table} == {4} and sorted(table[0]) == ["clip", "late", "loss", "step"]
    again = clipgen.Run.resume(run.journal.folder, losses=[Late(steps)], like=run)
    assert again.finished and again.journal.scores == rows
    assert again.export(tmp_path / "film.html").exists(), "whoever reads them can"


def test_rows_with_moved_columns_are_read_as_far_as_they_are_right(made, tmp_path):
    folder = copy(made, tmp_path)
    lines = ["step,clip,loss", "1,0.1,0.9", "2,0.2,0.5,0.8", "3,0.3,0.5,0.7"]
    (folder / "scores.csv").write_text("\r\n".join(lines) + "\r\n")
    rows = Journal.open(folder).scores
    assert rows == [{"step": 1, "clip": 0.1, "loss": 0.9}, {"step": 2, "clip": 0.2}, {"step": 3, "clip": 0.3}]


def stopped(folder):
    """The folder of a run that has made one of its steps."""
    run = clipgen.Run("a cat", folder=folder, **SMALL)
    for _ in run:
        run.stop()
    return run.journal.folder


def in_thread(work):
    """What a function raises in a thread of its own."""
    errors = []

    def attempt():
        try:
            work()
        except clipgen.ClipgenError as error:
            errors.append(str(error))

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return errors


def test_a_second_thread_is_told_so_too(tmp_path):
    folder = stopped(tmp_path)
    run, other = clipgen.Run.resume(folder), clipgen.Run.resume(folder)
    frames = iter(run)
    next(frames)
    for work in (lambda: clipgen.Run.resume(folder, like=run), lambda: next(iter(other))):
        (error,) = in_thread(work)
        assert "this run is in progress, in thread 'MainThread' of this process" in error
    assert len([*frames]) == 2 and [row["step"] for row in run.journal.scores] == [1, 2, 3, 4]


def test_a_run_that_went_on_elsewhere_is_not_made_twice(tmp_path):
    folder = stopped(tmp_path)
    run, late = clipgen.Run.resume(folder), clipgen.Run.resume(folder)
    assert len([*run]) == 3
    with pytest.raises(clipgen.ClipgenError, match="saved at step 4, and this Run object is at step 1"):
        next(iter(late))
    assert [row["step"] for row in run.journal.scores] == [1, 2, 3, 4]


def test_an_iteration_that_was_given_up_holds_nothing(tmp_path):
    folder = stopped(tmp_path)
    left = clipgen.Run.resume(folder)
    frames = iter(left)
    next(frames)
    again = clipgen.Run.resume(folder, like=left)
    assert len([*again]) == 2 and again.finished
    with pytest.raises(clipgen.ClipgenError, match="another Run object has continued"):
        next(frames)
    assert [row["step"] for row in again.journal.scores] == [1, 2, 3, 4]
    folder = stopped(tmp_path)
    ended = clipgen.Run.resume(folder, like=left)
    assert not in_thread(lambda: next(iter(ended))), "and a thread that has ended holds nothing"
    assert len([*clipgen.Run.resume(folder, like=left)]) == 2


STEP = """
import sys, clipgen
frames = iter(clipgen.Run.resume(sys.argv[1]))
next(frames)
print("going on", flush=True)
sys.stdin.read()
"""


def test_a_second_process_says_who_goes_on_until_that_is_killed(tmp_path, capsys):
    folder = stopped(tmp_path)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", STEP, folder], **pipes) as first:
        try:
            assert first.stdout.readline().strip() == b"going on"
            assert main(["resume", str(folder), str(tmp_path / "a.png")]) == 2
            said = capsys.readouterr().err
            assert f"this run is in progress, in process {first.pid} on {socket.gethostname()}" in said
        finally:
            first.kill()
    (folder / "frames" / "00003.png.part").write_bytes(b"half")
    run = clipgen.Run.resume(folder)
    assert [*run] and run.finished
    assert [row["step"] for row in run.journal.scores] == run.journal.steps == [1, 2, 3, 4], "each row once"
    names = {file.name for file in folder.rglob("*")}
    assert not [name for name in names if name.endswith((".part", ".lock"))]


@contextlib.contextmanager
def full_disk(size):
    """No file may grow over so many bytes."""
    resource = pytest.importorskip("resource", reason="limits of files are POSIX's")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("beginning", [1, 2])
def test_a_full_disk_loses_no_frame_of_a_film(beginning, tmp_path):
    run = clipgen.Run("a cat", folder=tmp_path, **SMALL)
    frames = iter(run)
    made = [next(frames).image for _ in range(beginning)]
    with full_disk(500), pytest.warns(UserWarning, match="cannot be saved any more") as said:
        made += [frame.image for frame in frames]
    assert run.finished and len(said) == 1 and len(made) == 4
    assert [frame.tobytes() for frame in run.journal.frames()] == [image.tobytes() for image in made]
    assert [row["step"] for row in run.journal.scores] == [1, 2, 3, 4]
    assert Image.open(run.export(tmp_path / "film.gif")).n_frames == 4
    assert Journal.open(run.journal.folder).steps == [*range(1, beginning + 1)]


def test_what_had_no_room_comes_along_when_there_is_some_again(tmp_path):
    run = clipgen.Run("a cat", folder=tmp_path, **SMALL)
    frames = iter(run)
    with full_disk(500), pytest.warns(UserWarning, match="cannot be saved any more"):
        next(frames), next(frames)
    assert len([*frames]) == 2 and not run.journal.write_error
    journal = Journal.open(run.journal.folder)
    assert journal.steps == [1, 2, 3, 4] and [row["step"] for row in journal.scores] == [1, 2, 3, 4]
    assert [frame.tobytes() for frame in journal.frames()] == [frame.tobytes() for frame in run.journal.frames()]


def test_nothing_is_left_of_a_run_that_had_no_room_for_its_pictures(tmp_path):
    noise = Image.effect_noise((128, 128), 90).convert("RGB")
    with full_disk(9000), pytest.raises(clipgen.ClipgenError, match=r"folder='.*': File too large; choose a folder"):
        clipgen.Run(["a cat", noise], folder=tmp_path / "runs", **SMALL)
    assert not [*(tmp_path / "runs").iterdir()]


def test_a_change_without_room_for_its_picture_is_refused(tmp_path):
    run = clipgen.Run("a cat", folder=tmp_path, **SMALL)
    frames = iter(run)
    next(frames)
    noise = Image.effect_noise((128, 128), 90).convert("RGB")
    with full_disk(9000), pytest.raises(clipgen.ClipgenError, match="File too large; make room there"):
        run.change(prompt=["a cat", noise])
    assert len([*frames]) == 3 and len(run.prompts) == 1 and not run.journal.changes
    assert clipgen.Run.resume(run.journal.folder, like=run).finished


def test_a_study_says_that_frames_have_no_room(tmp_path, inline_workers):
    with full_disk(5500):  # settings fit, latents do not
        study = clipgen.study("a cat", folder=tmp_path / "study", workers=1, progress=False, **SMALL)
    assert "File too large" in study.rows[0].state.error


def test_a_study_says_that_a_folder_cannot_be_written(tmp_path, monkeypatch, capsys, inline_workers):
    begin = Row.begin

    def begun(row, threads):
        begin(row, threads)
        (row.folder / "row.json").mkdir()  # where a worker would write how far it is

    monkeypatch.setattr(Row, "begin", begun)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({"prompt": "a cat", **SMALL, "size": "32x32"}))
    assert main(["study", "study.yaml", "--workers", "1", "--quiet"]) == 2
    said = capsys.readouterr()
    assert "its folder cannot be written (Is a directory)" in said.err and "interrupted" not in said.out + said.err
