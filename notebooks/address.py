"""Write the address of the repository into the notebooks and pyproject.toml, once there is one.

    python notebooks/address.py                               # print it
    python notebooks/address.py https://github.com/you/clipgen

The notebooks then have badges for Colab and Binder, and their first cell installs clipgen from there.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = ROOT / "pyproject.toml"
GITHUB = re.compile(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?")
URLS = re.compile(r'\[project\.urls\]\nRepository = "https://github\.com/(.+)"\n\n')
COLAB = "https://colab.research.google.com"
BINDER = "https://mybinder.org"


def read_address() -> str:
    """Return ``owner/name`` from pyproject.toml, or an empty string."""
    match = URLS.search(PROJECT.read_text(encoding="utf-8"))
    return match[1] if match else ""


def write_project(name: str) -> None:
    """Write ``owner/name`` to pyproject.toml."""
    text = URLS.sub("", PROJECT.read_text(encoding="utf-8"))
    urls = f'[project.urls]\nRepository = "https://github.com/{name}"\n\n'
    PROJECT.write_text(text.replace("[project.scripts]", urls + "[project.scripts]"), encoding="utf-8", newline="\n")


def write_notebook(file: Path, name: str) -> None:
    """Write the badges and the source of the package into a notebook's first two cells."""
    notebook = json.loads(file.read_text(encoding="utf-8"))
    title, install = notebook["cells"][:2]
    lines = [line for line in "".join(title["source"]).splitlines() if not line.startswith("[![")]
    while not lines[-1]:
        lines.pop()
    colab = f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({COLAB}/github/{name}/blob/main/notebooks/{file.name})"
    binder = f"[![Binder]({BINDER}/badge_logo.svg)]({BINDER}/v2/gh/{name}/main?labpath=notebooks/{file.name})"
    title["source"] = "\n".join([*lines, "", colab, binder]).splitlines(keepends=True)
    source = f'SOURCE = "git+https://github.com/{name}"'
    code = re.sub(r'^SOURCE = ".*"', source, "".join(install["source"]), flags=re.M)
    install["source"] = code.splitlines(keepends=True)
    text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    file.write_text(text, encoding="utf-8", newline="\n")


def main(arguments: list[str]) -> None:
    """Print the address, or write the given one."""
    match = GITHUB.fullmatch(arguments[0]) if arguments else None
    if len(arguments) > 1 or (arguments and not match):
        sys.exit(f"{' '.join(arguments)}: give one address, such as https://github.com/you/clipgen")
    if match:
        write_project(match[1])
        for file in sorted((ROOT / "notebooks").glob("*.ipynb")):
            write_notebook(file, match[1])
    address = read_address()
    print(
        f"https://github.com/{address}"
        if address
        else "no address yet; give one, such as https://github.com/you/clipgen"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
