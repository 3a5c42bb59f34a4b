"""``clipgen study`` and the files it writes."""

import csv

import pytest
from PIL import Image

from clipgen.cli import main

STUDY = """
prompt: a {thing}
thing: [cat, boat]
seed: [1, 2]
size: 64x64
steps: 2
cutouts: 2
init: perlin
generator: pixels
workers: 1
"""


@pytest.mark.slow
def test_a_file_becomes_a_page_a_sheet_and_a_table(tmp_path, monkeypatch, capsys, inline_workers):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(STUDY)
    files = ["-o", "study.html", "-o", "sheet.png", "-o", "table.csv"]
    assert main(["study", "study.yaml", "--workers", "2", *files]) == 0
    said = capsys.readouterr()
    assert "rows=4/4" in said.err
    first, best = said.out.splitlines()
    assert first == "study.html and sheet.png and table.csv (done); the runs are kept in clipgen-runs/study-a-thing"
    with (tmp_path / "table.csv").open(newline="") as lines:
        table = list(csv.DictReader(lines))
    assert [(line["thing"], line["seed"]) for line in table] == [
        ("cat", "1"),
        ("cat", "2"),
        ("boat", "1"),
        ("boat", "2"),
    ]
    winner = max(table, key=lambda line: float(line["clip"]))
    assert best.startswith(f"best: thing={winner['thing']}, seed={winner['seed']} (clip {float(winner['clip']):.3f}")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height > 512
    assert (tmp_path / "study.html").read_text().count("<li ") == 4
    assert {path.name for path in tmp_path.iterdir()} == {
        "study.yaml",
        "study.html",
        "sheet.png",
        "table.csv",
        "clipgen-runs",
    }


@pytest.mark.parametrize(
    ("text", "arguments", "remedy"),
    [
        (STUDY, ["-o", "study.gif"], "use .html, .png, .csv"),
        (STUDY, ["-o", "missing/study.html"], "choose a file in a folder"),
        (STUDY, ["--engine", "rain"], "engine='rain' is unknown"),
        (STUDY + "stepz: 3", [], "did you mean steps?"),
        (STUDY.replace("cutouts: ", "cutouts: [0.5] # "), [], "cutouts=0.5"),
        ("- a cat", [], "must be names with values"),
        ("a: [", [], "write a YAML file"),
    ],
)
def test_bad_input(text, arguments, remedy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(text)
    assert main(["study", "study.yaml", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert remedy in line
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]
