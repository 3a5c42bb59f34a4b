from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="session")
def dependencies():
    """The dependencies in pyproject.toml, as [Requirement]."""
    return [Requirement(line) for line in PROJECT["dependencies"]]


@pytest.fixture(scope="session")
def extras():
    """The optional dependencies in pyproject.toml, as {name: [Requirement]}."""
    return {name: [Requirement(line) for line in lines] for name, lines in PROJECT["optional-dependencies"].items()}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """clipgen's wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    uv("build", "--wheel", "--no-cache", "--out-dir", folder, ROOT)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="session")
def resolve(pytestconfig):
    """``resolve(python, requirements)``: what would be installed for that Python, as {name: version}."""

    def resolved(python, requirements, constraints=os.devnull):
        # omegaconf needs a package that is published as source only.
        built = "--only-binary=:all:", "--no-binary=antlr4-python3-runtime"
        plain = "--no-annotate", "--no-header", "--constraint", constraints, "--python-version", python
        cache = "--cache-dir", pytestconfig.cache.mkdir("uv")  # metadata is asked for once
        done = uv("pip", "compile", "-", *built, *plain, *cache, input="\n".join(requirements))
        return dict(re.findall(r"^(\S+)==(\S+)$", done, re.M))

    return resolved


def uv(*arguments, **options):
    """What uv prints; it reads the metadata of wheels without fetching the wheels."""
    command = [sys.executable, "-m", "uv", "--quiet", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, **options)
    if "error sending request" in done.stderr:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("the package index cannot be reached")
    assert done.returncode == 0, done.stderr
    return done.stdout
