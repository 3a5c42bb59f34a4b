"""Every notebook: run from its first cell to its last in a fresh kernel, and as it lies in the repository."""

from __future__ import annotations

import ast
import base64
import inspect
import io
import json
import re
import shutil
import time
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image, ImageSequence

from clipgen.optimize import Optimization

ROOT = Path(__file__).resolve().parents[2]
REPORTS = ROOT / "tests" / "reports"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FILMS = ("00", "04", "05")  # these make a GIF
HOSTS = {"github.com", "huggingface.co", "www.w3.org"}  # that outputs may name


def read(file):
    import nbformat  # takes seconds: not when tests are collected

    return nbformat.read(file, as_version=4)


@pytest.fixture(params=NOTEBOOKS, ids=lambda file: file.stem, scope="module")
def file(request):
    return request.param


@pytest.fixture(scope="module")
def stored(file):
    return read(file)


@pytest.fixture(scope="module")
def executed(file, tmp_path_factory):
    """The notebook after a run in a copy of its folder, beside the package as in a clone; and that copy."""
    from nbclient import NotebookClient

    tree = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "notebooks", tree / "notebooks", ignore=shutil.ignore_patterns("clipgen-runs"))
    (tree / "clipgen").symlink_to(ROOT / "clipgen")
    (tree / "pyproject.toml").symlink_to(ROOT / "pyproject.toml")
    notebook = read(file)
    for cell in code(notebook):
        cell.outputs = []
    place = {"metadata": {"path": str(tree / "notebooks")}}
    began = time.monotonic()
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place).execute()
    report({file.name: round(time.monotonic() - began, 1)})
    return notebook, tree / "notebooks"


def report(seconds):
    """Seconds are looked at by people, not asserted: machines differ."""
    REPORTS.mkdir(exist_ok=True)
    known = REPORTS / "notebooks.json"
    seconds = (json.loads(known.read_text()) if known.exists() else {}) | seconds
    known.write_text(json.dumps(seconds, indent=1))


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook):
    return [output for cell in code(notebook) for output in cell.outputs]


def pictures(notebook):
    """The pictures among the outputs, also those in HTML, as bytes."""
    found = []
    for data in (output.get("data", {}) for output in outputs(notebook)):
        found += [text for kind, text in data.items() if kind.startswith("image/") and kind != "image/svg+xml"]
        found += re.findall(r"data:image/\w+;base64,([\w+/=]+)", data.get("text/html", ""))
    return [base64.b64decode(text) for text in found]


def texts(notebook):
    """All that the outputs say, without the pictures in it."""
    said = [output.get("text", "") for output in outputs(notebook)]
    for data in (output.get("data", {}) for output in outputs(notebook)):
        said += [text for kind, text in data.items() if isinstance(text, str) and not kind.startswith("image/")]
    return re.sub(r"base64,[\w+/=]+", "", "\n".join(said))


def trees(notebook):
    """The syntax trees of the cells, without their magics."""
    return [ast.parse(re.sub(r"^( *)%.*", r"\1pass", cell.source, flags=re.M)) for cell in code(notebook)]


def different_frames(gif):
    with Image.open(gif) as film:
        return len({frame.convert("RGB").tobytes() for frame in ImageSequence.Iterator(film)})


def test_all_are_there():
    assert [file.name[:2] for file in NOTEBOOKS] == ["00", "01", "02", "04", "05", "06", "07", "08"]


@pytest.mark.slow
def test_runs_and_shows_what_it_makes(file, executed):
    notebook, folder = executed
    shown = [io.BytesIO(picture) for picture in pictures(notebook)]
    assert shown
    for picture in shown:
        with Image.open(picture) as image:
            image.seek(getattr(image, "n_frames", 1) - 1)  # a film begins with an empty page
            assert len(image.convert("RGB").getcolors(2**24)) > 10
    assert " at 0x" not in texts(notebook)
    warned = [o.text for o in outputs(notebook) if o.output_type == "stream" and o.name == "stderr"]
    assert not re.findall(r".*Warning\b.*", "".join(warned))
    if file.name[:2] in FILMS:
        made = [gif for gif in folder.rglob("*.gif") if not (ROOT / "notebooks" / gif.relative_to(folder)).exists()]
        assert max(map(different_frames, [*shown, *made])) > 10


def test_lies_in_the_repository_with_its_pictures(file, stored):
    import nbformat

    assert file.stat().st_size < 3_000_000
    assert file.read_text(encoding="utf-8") == nbformat.writes(stored) + "\n"  # a line of a cell is a line of the file
    assert pictures(stored)
    assert [cell.execution_count for cell in code(stored)] == list(range(1, len(code(stored)) + 1))
    assert not [output for output in outputs(stored) if output.output_type == "error"]


def test_says_nothing_of_the_machine_it_was_run_on(stored):
    said = texts(stored)
    assert not re.findall(r"(?<![\w.:/-])(?:/[\w.-]+){2,}/?|[A-Z]:\\\w+", re.sub(r"</?\w+", "", said))
    assert set(re.findall(r"https?://([\w.-]+)", said)) <= HOSTS
    assert " at 0x" not in said


def test_begins_as_the_others_do(stored):
    first = code(read(NOTEBOOKS[0]))[0]
    assert code(stored)[0].source == first.source
    assert stored.metadata.kernelspec.name == "python3"


def test_imports_what_there_is(stored):
    for node in (node for tree in trees(stored) for node in ast.walk(tree)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("clipgen"):
            for alias in node.names:
                assert hasattr(import_module(node.module), alias.name), f"{node.module}.{alias.name}"


def test_reaches_into_nothing(stored):
    found = [node.attr for tree in trees(stored) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    assert not [name for name in found if name == "net" or name.startswith("_")]


@pytest.mark.parametrize("lesson", NOTEBOOKS[1:], ids=lambda lesson: lesson.stem)
def test_teaches(lesson):
    """The loop's drawing, something to predict, three exercises with folded answers, and folded code of figures."""
    notebook = read(lesson)
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "image/svg+xml" in {kind for output in outputs(notebook) for kind in output.get("data", {})}
    assert "**Predict first.**" in prose
    assert prose.count("<details><summary>Answer</summary>") == prose.count("</details>") == 3
    for cell in code(notebook):
        folded = cell.metadata.get("cellView") == "form" and cell.metadata.jupyter.source_hidden
        assert cell.source.startswith("# @title ") == bool(folded)
    assert sum(cell.source.startswith("# @title ") for cell in code(notebook)) >= 3


def test_the_loop_built_up_from_nothing_is_the_packages():
    notebook = read(NOTEBOOKS[4])
    printed = "\n".join(output.get("text", "") for output in outputs(notebook))
    loop = Optimization
    parts = [
        inspect.getsource(part)
        for part in (loop.begin_step, loop.render_for_loss, loop.compute_gradient, loop.update_latent)
    ]
    assert all(part.strip() in printed for part in [inspect.getsource(loop.advance), *parts])
    made = next(node for tree in trees(notebook) for node in ast.walk(tree) if getattr(node, "name", "") == "make")
    assert step(ast.unparse(made)) == step("\n".join(parts))


def step(source):
    """What makes a step, in the order in which it stands."""
    names = r"\.(zero_grad|image|requires_grad_|project_|lerp_|(?<=optimizer\.)step)\b|\b(backward)\("
    found = [method or function for method, function in re.findall(names, source)]
    return found[found.index("zero_grad") : found.index("lerp_") + 1]
