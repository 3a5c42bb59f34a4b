"""The repository's address stands in one place, and everything that repeats it can be rewritten."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BADGES = (
    "https://colab.research.google.com/github/{}/blob/main/notebooks/{}",
    "https://mybinder.org/v2/gh/{}/main?labpath=notebooks/{}",
)


def address(folder, *arguments):
    command = [sys.executable, folder / "notebooks" / "address.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def own():
    return re.search(r'^Repository = "https://github\.com/(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)[1]


@pytest.fixture
def copy(tmp_path):
    """The checkout's files that git knows or would add, without the weights."""
    known = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    for name in known.splitlines():
        if (ROOT / name).is_file() and Path(name).suffix in {".toml", ".md", ".ipynb", ".py", ".yml"}:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.name)
def test_badges_and_install_cells_have_the_address(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    first = "".join(cells[0]["source"])
    assert all(f"({badge.format(own(), notebook.name)})" in first for badge in BADGES)
    install = next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert set(re.findall(r"https://github\.com/([\w.-]+/[\w-]+)", install)) == {own()}


def test_the_address_stands_nowhere_else(copy):
    places = {"pyproject.toml", "README.md", *(f"notebooks/{file.name}" for file in NOTEBOOKS)}
    found = {str(file.relative_to(copy)) for file in copy.rglob("*.*") if file.is_file() and own() in file.read_text()}
    assert found <= places


def test_another_address_everywhere(copy):
    old, new = own(), "some-one/their.clip"
    before = {file: file.read_text() for file in copy.rglob("*.*") if file.is_file()}
    done = address(copy, f"https://github.com/{new}.git")
    assert done.returncode == 0, done.stderr
    for file, text in before.items():
        assert file.read_text() == text.replace(old, new)
    assert address(copy, f"https://github.com/{old}").returncode == 0
    assert {file: file.read_text() for file in before} == before


def test_where_it_stands(copy):
    lines = address(copy).stdout.splitlines()
    assert lines[0] == f"pyproject.toml: 1 x {own()}"
    assert len(lines) == 2 + len(NOTEBOOKS)


@pytest.mark.parametrize("arguments", [["https://example.com/you/clipgen"], ["you/clipgen"], ["--help"], ["a", "b"]])
def test_bad_addresses(copy, arguments):
    before = (copy / "README.md").read_text()
    done = address(copy, *arguments)
    assert done.returncode == 1 and "such as https://github.com/you/clipgen" in done.stderr
    assert (copy / "README.md").read_text() == before
