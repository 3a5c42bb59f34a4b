"""environment.yml names what pyproject.toml does. Conda itself cannot be run where clipgen is developed."""

from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
# conda-forge has other names for these; pytorch-cpu is the metapackage that leaves CUDA out.
CONDA = {"matplotlib": "matplotlib-base", "open_clip_torch": "open-clip-torch", "torch": "pytorch-cpu"}


@pytest.fixture
def environment():
    return yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]


def test_conda_and_pip_agree(environment, dependencies):
    python, *packages, jupyterlab, pip, extra = environment
    assert sorted(packages) == sorted(f"{CONDA.get(each.name, each.name)}{each.specifier}" for each in dependencies)
    assert (python, jupyterlab, pip, extra) == ("python=3.12", "jupyterlab>=4", "pip", {"pip": ["."]})


@pytest.mark.slow
def test_the_environment_can_be_solved(environment, resolve):
    pip_names = {conda: pip for pip, conda in CONDA.items()}
    python, *packages = (line for line in environment if isinstance(line, str) and line != "pip")
    wanted = [Requirement(line) for line in packages]
    found = resolve(python.removeprefix("python="), [f"{pip_names.get(r.name, r.name)}{r.specifier}" for r in wanted])
    assert {"torch", "ipywidgets", "jupyterlab"} <= found.keys()
