"""The repository's address, which badges and install cells need: where it stands, and another one everywhere.

    python notebooks/address.py                               # where it stands
    python notebooks/address.py https://github.com/you/clipgen

It is taken from ``Repository`` in pyproject.toml; badges name it without its host, as ``owner/name``.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GITHUB = r"https://github\.com/([\w.-]+/[\w.-]+?)"


def repository() -> str:
    """``owner/name``, as pyproject.toml has it."""
    # Without tomllib, which Python 3.10 does not have.
    found = re.search(rf'^Repository = "{GITHUB}"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    if not found:
        sys.exit('pyproject.toml: [project.urls] needs a line Repository = "https://github.com/owner/name"')
    return found[1]


def standing(name: str) -> re.Pattern[str]:
    """Matches ``owner/name`` where it is the address of a repository: of GitHub, Colab, Binder..."""
    return re.compile(rf"(github\.com/|usercontent\.com/|/github/|/gh/){re.escape(name)}(?![\w-]|\.(?!git\b)\w)")


def files() -> list[Path]:
    """Where the address may stand."""
    return [ROOT / "pyproject.toml", ROOT / "README.md", *sorted((ROOT / "notebooks").glob("*.ipynb"))]


def main(arguments: list[str]) -> None:
    """Say where the address stands, or put another in its place."""
    old = repository()
    new = re.fullmatch(rf"{GITHUB}(\.git)?/?", arguments[0]) if arguments else None
    if len(arguments) > 1 or (arguments and not new):
        sys.exit(f"{' '.join(arguments)}: give one address, such as https://github.com/you/clipgen")
    for file in files():
        text = file.read_text(encoding="utf-8")
        text, count = standing(old).subn(rf"\g<1>{new[1] if new else old}", text)
        if new:
            file.write_text(text, encoding="utf-8", newline="\n")
        print(f"{file.relative_to(ROOT)}: {count} x {new[1] if new else old}")


if __name__ == "__main__":
    main(sys.argv[1:])
