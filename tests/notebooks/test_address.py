"""The repository has no address yet; ``notebooks/address.py`` writes one everywhere it is needed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BADGES = (
    "https://colab.research.google.com/github/{}/blob/main/notebooks/{}",
    "https://mybinder.org/v2/gh/{}/main?labpath=notebooks/{}",
)


def address(folder, *arguments):
    command = [sys.executable, folder / "notebooks" / "address.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def copy(tmp_path):
    (tmp_path / "notebooks").mkdir()
    for file in (ROOT / "pyproject.toml", ROOT / "notebooks" / "address.py", *NOTEBOOKS):
        shutil.copy(file, tmp_path / file.relative_to(ROOT))
    return tmp_path


def cells(file):
    return ["".join(cell["source"]) for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]]


def contents(folder):
    return {file: file.read_bytes() for file in folder.rglob("*.*") if file.is_file() and file.suffix != ".pyc"}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.name)
def test_no_badge_is_dead(notebook):
    title, install = cells(notebook)[:2]
    assert "[![" not in title and 'SOURCE = ""' in install
    assert install == cells(NOTEBOOKS[0])[1], "all notebooks install alike"


@pytest.mark.slow
def test_an_address_everywhere(copy):
    import nbformat

    for name in ("some-one/their.clip", "you/clipgen"):  # the second replaces the first
        done = address(copy, f"https://github.com/{name}.git")
        assert done.returncode == 0 and done.stdout == f"https://github.com/{name}\n"
        assert f'\n[project.urls]\nRepository = "https://github.com/{name}"\n' in (copy / "pyproject.toml").read_text()
        for notebook in copy.glob("notebooks/*.ipynb"):
            nbformat.validate(nbformat.read(notebook, 4))
            title, install = cells(notebook)[:2]
            assert title.count("[![") == 2 and f'SOURCE = "git+https://github.com/{name}"\n' in install
            assert all(f"({badge.format(name, notebook.name)})" in title for badge in BADGES)
    assert not any(b"some-one" in text for text in contents(copy).values())


def test_an_address_changes_nothing_else(copy):
    before = {file.name: cells(file)[2:] for file in copy.glob("notebooks/*.ipynb")}
    assert address(copy).stdout.startswith("no address yet")
    address(copy, "https://github.com/you/clipgen")
    assert address(copy).stdout == "https://github.com/you/clipgen\n"
    assert {file.name: cells(file)[2:] for file in copy.glob("notebooks/*.ipynb")} == before


@pytest.mark.parametrize("arguments", [["https://example.com/you/clipgen"], ["you/clipgen"], ["--help"], ["a", "b"]])
def test_bad_addresses(copy, arguments):
    before = contents(copy)
    done = address(copy, *arguments)
    assert done.returncode == 1 and "such as https://github.com/you/clipgen" in done.stderr
    assert contents(copy) == before


def install(tmp_path, monkeypatch, source=""):
    """Return what the first code cell hands to pip where clipgen is not installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    shell, lines = InteractiveShell(), []
    shell.register_magic_function(lines.append, "line", "pip")
    shell.run_cell(cells(NOTEBOOKS[0])[1].replace('SOURCE = ""', f'SOURCE = "{source}"')).raise_error()
    return lines


def test_the_first_cell_takes_a_wheel(tmp_path, monkeypatch):
    (tmp_path / "clipgen_notebook-0.5.0-py3-none-any.whl").touch()
    (line,) = install(tmp_path, monkeypatch, "git+https://github.com/you/clipgen")
    assert line == f'install -q "{tmp_path / "clipgen_notebook-0.5.0-py3-none-any.whl"}"'


def test_the_first_cell_takes_the_address(tmp_path, monkeypatch):
    (line,) = install(tmp_path, monkeypatch, "git+https://github.com/you/clipgen")
    assert line == 'install -q "clipgen-notebook @ git+https://github.com/you/clipgen"'


def test_the_first_cell_says_what_is_missing(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="upload clipgen_notebook"):
        install(tmp_path, monkeypatch)
