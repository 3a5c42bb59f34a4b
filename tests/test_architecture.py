"""Who may know whom: the "not" column of .github/CONTRIBUTING.md, read from the imports themselves."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "clipgen"
ROOMS = {
    "registry.py": {"clipgen"},
    "setting.py": {"clipgen"},
    "progress.py": {"clipgen"},
    "images": {"clipgen.models", "clipgen.optvis", "clipgen.runs", "clipgen.export", "clipgen.studio", "clipgen.mini"},
    "storage": {"clipgen.models", "clipgen.optvis", "clipgen.runs", "clipgen.export", "clipgen.studio", "clipgen.mini"},
    "models": {
        "clipgen.setting",
        "clipgen.optvis",
        "clipgen.seeing",
        "clipgen.runs",
        "clipgen.export",
        "clipgen.studio",
        "clipgen.mini",
    },
    "optvis": {
        "clipgen.seeing",
        "clipgen.runs",
        "clipgen.export",
        "clipgen.studio",
        "clipgen.mini",
        "threading",
        "pathlib",
        "os",
        "json",
    },
    "seeing": {"clipgen.optvis", "clipgen.runs", "clipgen.export", "clipgen.studio", "clipgen.mini", "ipywidgets"},
    "runs": {"clipgen.studio", "clipgen.mini", "ipywidgets"},
    "export": {"clipgen.models", "clipgen.optvis", "clipgen.runs", "clipgen.studio", "clipgen.mini", "torch"},
    "studies": {"clipgen.models", "clipgen.optvis", "clipgen.storage", "clipgen.studio", "clipgen.mini"},
    "studio": {"torch", "clipgen.optvis", "clipgen.models", "clipgen.storage", "clipgen.mini"},
    "cli.py": {"torch", "clipgen.mini", "clipgen.optvis"},
    "__init__.py": {"torch", "clipgen.mini", "clipgen.optvis"},
}
ALLOWED = {
    "registry.py": {"clipgen.errors"},
    "setting.py": {"clipgen.errors"},
    "studio": {
        "clipgen.models.parameterisations.catalogue",
        "clipgen.models.perceptors.catalogue",
        "clipgen.optvis.prompt",
    },
}


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
    """What a source of a room imports and may not."""

    def within(name: str, places: set[str]) -> bool:
        return any(name == place or name.startswith(f"{place}.") for place in places)

    return {n for n in imported(source) if within(n, ROOMS[room]) and not within(n, ALLOWED.get(room, set()))}


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_know_only_what_they_may(room):
    files = [PACKAGE / room] if room.endswith(".py") else sorted((PACKAGE / room).rglob("*.py"))
    assert files
    broken = {str(file.relative_to(PACKAGE)): names for file in files if (names := forbidden(room, file.read_text()))}
    assert not broken


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("optvis", "from clipgen.mini.collage import Collage"),
        ("optvis", "def f():\n    from clipgen.runs import settings"),
        ("models", "import clipgen.mini.clip"),
        ("images", "from clipgen import runs"),
        ("studio", "import torch"),
        ("studio", "from clipgen.models.parameterisations.vqgan import VQModel"),
        ("registry.py", "from clipgen.optvis.starts import Random"),
    ],
)
def test_a_forbidden_import_is_seen(room, line):
    assert forbidden(room, line)


def test_every_room_has_its_rule():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms - ROOMS.keys() == {"mini"}, "mini may know everybody, and nobody knows it"


def test_no_file_is_long():
    lines = {str(file.relative_to(PACKAGE)): len(file.read_text().splitlines()) for file in PACKAGE.rglob("*.py")}
    assert not {file: count for file, count in lines.items() if count > 330}
