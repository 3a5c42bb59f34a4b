"""What is written to stdout and stderr: inert, in what can be told, and to whoever still listens."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

import clipgen
from clipgen.cli import main

SMALL = ["--generator", "pixels", "--init", "random", "--size", "32", "--steps", "1", "--cutouts", "2"]
SETTINGS = {"generator": "pixels", "init": "random", "size": (32, 32), "steps": 1, "cutouts": 2}
CLIPGEN = f"{sys.executable} -m clipgen"
# A title that is set, a screen that is cleared (C0, DEL, C1), and text that is turned around.
HOSTILE = "\x1b]0;owned\x07 \x1b[2J \x08\x00 \x7f \x9b2J \x85 \u202e \u2066 \u200f \u2028"


def is_inert(text):
    controls = {*map(chr, range(32)), *map(chr, range(127, 160)), *"\u202e\u2066\u200f\u2028"} - {*"\n\t\r"}
    return not controls & set(text)


def shell(line, cwd, **around):
    """(exit status of clipgen, what it says on stderr) of a line in which clipgen's own is kept."""
    script = f"{line}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=cwd, capture_output=True, text=True, env=os.environ | around, timeout=120
    )
    return done.returncode, done.stderr


def test_a_loss_of_a_run_folder_reaches_the_terminal_inert(tmp_path, capsys):
    run = clipgen.generate("a cat", folder=tmp_path, progress=False, **SETTINGS)
    file = run.journal.folder / "settings.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"losses": [HOSTILE]}))
    assert main(["resume", str(run.journal.folder)]) == 2
    told = capsys.readouterr().err
    assert is_inert(told) and ascii(HOSTILE)[1:-1] in told


def test_labels_reach_the_terminal_inert(tmp_path, monkeypatch, capsys, inline_workers):
    monkeypatch.chdir(tmp_path)
    words = {"prompt": "a {thing}", "thing": [HOSTILE, f"{HOSTILE}s"]} | SETTINGS | {"size": "32x32", "folder": "rows"}
    (tmp_path / "study.yaml").write_text(json.dumps(words))
    main(["study", "study.yaml", "--quiet"])
    told = capsys.readouterr()
    assert "best: thing=\\x1b]0;owned" in told.out and is_inert(told.out) and is_inert(told.err)


@pytest.mark.parametrize(
    "words",
    [
        ["a cat", "--\x1b[2J"],
        ["a", "\x1b[2J\x9b"],
        ["\x1b[2J", "-o", "\x1b[2J\u202e.xyz"],
        ["resume", "\x1b[2J\u202e"],
        ["resume", "x", "--\x1b[2J"],
        ["export", "x", "y.gif", "--what", "\x9b\u202e"],
        ["describe", "\x1b[2J\x7f"],
    ],
    ids=ascii,
)
def test_mistakes_reach_the_terminal_inert(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        status = main(words)
    except SystemExit as done:
        status = done.code
    told = capsys.readouterr()
    assert status == 2 and told.err and is_inert(told.err) and is_inert(told.out)


def test_words_and_files_reach_the_terminal_inert(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (32, 32), "red").save("red.png")
    assert main(["describe", "red.png", "--vocabulary", "red\x1b[2J, apple\x9b, sky\u202e, a"]) == 0
    assert main(["explain", "red.png", "a red\x1b[2J apple", "-o", "\x1b[31mwhy.png"]) == 0
    told = capsys.readouterr().out
    assert r"\x1b[2J" in told and r"\x1b[31mwhy.png" in told and is_inert(told)


def test_what_people_write_stays_as_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (32, 32), "red").save("red.png")
    assert main(["explain", "red.png", "naïve 猫 👩‍🚀 عربي", "-o", "why.png"]) == 0
    assert "naïve 猫 👩‍🚀 عربي" in capsys.readouterr().out


def test_a_bar_stays_on_its_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["a cat", *SMALL]) == 0
    told = capsys.readouterr().err
    assert "\r" in told and "\\r" not in told and "1/1" in told


@pytest.mark.skipif(os.name != "posix", reason="pipes of a POSIX shell")
@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("models | true", 141),
        ("'a cat' {small} 2>&1 | true", 141),
        ("'a cat' {small} >&- 2>&- <&-", 0),
        ("2>&-", 2),
    ],
)
def test_closed_streams(line, status, tmp_path):
    """The work is done, nobody is told of it, and nothing is raised."""
    found, told = shell(f"{CLIPGEN} {line.format(small=' '.join(SMALL))}", tmp_path, CLIPGEN_CACHE=str(tmp_path / "c"))
    assert "Traceback" not in told and "Exception" not in told and "Error" not in told
    assert found == status
    if "a cat" in line:
        assert {path.name for path in tmp_path.iterdir()} == {"a-cat.png", "a-cat.gif", "clipgen-runs"}
        with Image.open(tmp_path / "a-cat.png") as picture:
            picture.load()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a disk that is full is Linux's")
def test_a_full_disk_behind_stdout(tmp_path):
    status, told = shell(f"{CLIPGEN} cache > /dev/full", tmp_path, CLIPGEN_CACHE=str(tmp_path))
    assert status == 2 and told.splitlines() == ["clipgen: output cannot be written (No space left on device)"]


def test_a_name_is_told_in_what_the_terminal_can_show(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "clipgen", "猫 café", *SMALL, "--quiet"],
        cwd=tmp_path,
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "cp1252"},
    )
    assert done.returncode == 0 and not done.stderr
    assert done.stdout.decode("cp1252").startswith(r"\u732b-café.png and ")
    assert (tmp_path / "猫-café.png").exists()
