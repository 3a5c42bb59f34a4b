from __future__ import annotations

import json
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
def wheels(tmp_path_factory):
    """A folder of wheels: clipgen's, and that of a dependency of omegaconf which is published as source only."""
    folder = tmp_path_factory.mktemp("wheels")
    made = pip("wheel", "--no-deps", "--wheel-dir", folder, ROOT, "antlr4-python3-runtime==4.9.3")
    if "No matching distribution" in made.stderr or "Connection" in made.stderr:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("the package index cannot be reached")
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture(scope="session")
def resolve(wheels):
    """``resolve(python, *requirements)``: what pip would install for that Python, as {name: version}."""

    def resolved(python, *requirements, constraints=os.devnull):
        where = "--python-version", python, "--only-binary=:all:", "--target", wheels / "nowhere"
        options = "--dry-run", "--ignore-installed", "--report=-", "--find-links", wheels, "--constraint", constraints
        done = pip("install", *options, *where, *requirements)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)["install"]
        return {name(each["metadata"]["name"]): each["metadata"]["version"] for each in report}

    return resolved


def pip(*arguments):
    command = [sys.executable, "-m", "pip", "--quiet", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def name(text):
    """The one spelling of a distribution's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", text).lower()
