"""No identifier of the package has a word that the glossary of CONTRIBUTING retired.

``python tests/test_words.py clipgen/studies`` lists those of a folder or a file.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "clipgen"
RETIRED = set(
    re.findall(
        r"\w+",
        """
    place places look looks looking seen seeing said told asked made known found here there much wanted worth
    settle kept keeper going alone together alike apart parted course liked moved turn trouble slower stuck
    shown rerun follow knob suited fixed moment goal goals scene spot spots descent nearness scaling relieve
    scarce computing spare narrow resting awake sieve fuse unsnapped wide maker reel crew bearing taught calm
    sure having tint twin twins inert sealed drip silence some shot shots
""",
    )
)
# Rooms that still have some.
UNFINISHED: list[str] = []
STORED = {"narrow"}  # parameters of the stored weights


def words(name: str) -> set[str]:
    """Return the words of an identifier in snake or camel case, in small letters."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def defined(source: str) -> Iterator[tuple[str, int]]:
    """Yield the names that a source defines, with their lines: functions, classes, arguments, variables, attributes."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno


def retired(path: Path) -> list[str]:
    """Return ``file:line: name`` for each name with a retired word, in a file or below a folder."""
    files = [path] if path.suffix == ".py" else sorted(path.rglob("*.py"))
    files = [file for file in files if "training" not in file.parts]
    faults = [(file, *item) for file in files for item in [(file.stem, 1), *defined(file.read_text())]]
    return [f"{file}:{line}: {name}" for file, name, line in faults if words(name) & RETIRED and name not in STORED]


def test_no_retired_words():
    assert not [fault for room in PACKAGE.iterdir() if room.name not in UNFINISHED for fault in retired(room)]


def test_a_retired_word_is_noticed(tmp_path):
    file = tmp_path / "good.py"
    file.write_text("def replace(x): self.replaced = x\nclass MadeUp: pass\ndef f(what_is_said): there = 1\n")
    assert [fault.split()[-1] for fault in retired(file)] == ["MadeUp", "what_is_said", "there"]


if __name__ == "__main__":
    print(*(fault for path in sys.argv[1:] for fault in retired(Path(path))), sep="\n")
