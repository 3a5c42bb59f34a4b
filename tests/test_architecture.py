"""Who may know whom: the "not" column of .github/CONTRIBUTING.md, read from the imports themselves."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "clipgen"
FLOORS = (  # from the ground up: a room imports from its own floor's earlier rooms and from the floors below
    ("errors",),
    ("registry", "setting", "progress"),
    ("storage", "device", "fast"),
    ("precision", "images"),
    ("generators", "clip", "export"),
    ("priors", "prompts", "optimizers"),
    ("cutouts", "losses"),
    ("inits", "memory", "optimize", "inspect"),
    ("runs",),
    ("studies",),
    ("studio", "cli", "commands", "__init__", "__main__"),
)
LIBRARIES = {  # what a room must not import, whatever it knows of clipgen
    "optimize": {"threading", "pathlib", "os", "json"},
    "losses": {"threading", "pathlib", "os", "json"},
    "cutouts": {"threading", "pathlib", "os", "json"},
    "inspect": {"ipywidgets"},
    "runs": {"ipywidgets"},
    "export": {"torch"},
    "studio": {"torch", "clipgen.storage.remote", "clipgen.storage.weights"},
    "cli": {"torch"},
    "commands": {"torch"},
    "__init__": {"torch"},
}
ROOMS = [room for floor in FLOORS for room in floor]
ROOFS = {"generators", "clip", "priors"}  # the Studio reads their catalogues, and knows no net


def imported(source: str) -> set[str]:
    """The dotted names of everything that a source imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def forbidden(room: str, source: str) -> set[str]:
    """Return what a source of a room imports and may not."""
    floor = next(i for i, rooms in enumerate(FLOORS) if room in rooms)
    above = {name for rooms in FLOORS[floor + 1 :] for name in rooms} | {"mini"}
    wrong = {f"clipgen.{name}" for name in above} | LIBRARIES.get(room, set())
    if room in ("registry", "setting", "progress"):
        wrong |= {f"clipgen.{name}" for name in ROOMS if name not in ("errors", room)}
    if room == "studio":
        wrong |= {f"clipgen.{name}.{file.stem}" for name in ROOFS for file in (PACKAGE / name).glob("*.py")}
        wrong -= {f"clipgen.{name}.catalogue" for name in ROOFS}
    return {name for name in imported(source) if any(f"{name}.".startswith(f"{w}.") for w in wrong)}


def files(room: str) -> list[Path]:
    file = PACKAGE / f"{room}.py"
    return [file] if file.exists() else sorted((PACKAGE / room).rglob("*.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_from_below(room):
    assert files(room)
    broken = {
        str(file.relative_to(PACKAGE)): names for file in files(room) if (names := forbidden(room, file.read_text()))
    }
    assert not broken


def test_no_rooms_import_each_other():
    """No circles: on a floor, too, imports go one way."""
    known = {
        room: {
            name.split(".")[1]
            for file in files(room)
            for name in imported(file.read_text())
            if name.startswith("clipgen.")
        }
        - {room}
        for room in ROOMS
    }
    circles = {(a, b) for a in ROOMS for b in known[a] if b in ROOMS and a in known[b]}
    assert not circles


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("optimize", "from clipgen.mini.drafts import draft"),
        ("losses", "def f():\n    from clipgen.runs import settings"),
        ("generators", "import clipgen.mini.clip"),
        ("images", "from clipgen import runs"),
        ("studio", "import torch"),
        ("studio", "from clipgen.generators.vqgan import VQModel"),
        ("registry", "from clipgen.inits import Random"),
    ],
)
def test_a_forbidden_import_is_seen(room, line):
    assert forbidden(room, line)


def test_every_room_has_its_floor():
    rooms = {path.stem for path in PACKAGE.iterdir() if path.is_dir() or path.suffix == ".py"} - {"__pycache__"}
    assert rooms - set(ROOMS) == {"mini"}, "mini may know everybody, and nobody knows it"


def test_nobody_imports_the_training():
    """The wheel is built without it."""
    files = [file for file in PACKAGE.rglob("*.py") if "training" not in file.parts]
    assert not [file for file in files if any("mini.training" in name for name in imported(file.read_text()))]


def test_no_file_is_long():
    lines = {str(file.relative_to(PACKAGE)): len(file.read_text().splitlines()) for file in PACKAGE.rglob("*.py")}
    assert not {file: count for file, count in lines.items() if count > 330}
