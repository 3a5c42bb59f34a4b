"""Colab: its packages are left alone, and its own ways are used. Colab itself cannot be run here."""

import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

COLAB = Path(__file__).parent / "colab"


def versions():
    """What Colab has, as {name: version}."""
    return dict(re.findall(r"^([\w-]+)==(.+)$", (COLAB / "constraints.txt").read_text(), re.M))


def test_what_clipgen_needs_accepts_colabs_packages(dependencies, extras):
    """Without an index: what clipgen requires, and in turn what is installed here and Colab lacks, by its metadata."""
    has, seen, waiting = versions(), set(), [*dependencies, *extras["vae"], *extras["siglip"]]
    colab = {"python_version": "3.13", "python_full_version": "3.13.0", "extra": ""}
    while waiting:
        required = waiting.pop()
        package = canonicalize_name(required.name)
        if required.marker and not required.marker.evaluate(colab):
            continue
        if package in has:
            assert required.specifier.contains(has[package]), f"{required}, and Colab has {has[package]}"
        elif package not in seen:
            waiting += map(Requirement, requires(package) or [])
        seen.add(package)
    assert seen >= has.keys() & {"torch", "numpy", "pillow", "timm", "transformers", "diffusers", "huggingface-hub"}


@pytest.mark.slow
def test_clipgen_leaves_colabs_packages_as_they_are(resolve, wheel):
    """There is a solution with exactly Colab's versions; no restart of the runtime is needed then."""
    has = versions()
    found = resolve("3.13", [f"clipgen-notebook @ {wheel.as_uri()}"], constraints=COLAB / "constraints.txt")
    wanted = found.keys() & has.keys()
    assert {name: found[name] for name in wanted} == {name: has[name] for name in wanted}
    assert wanted >= {"torch", "torchvision", "numpy", "pillow", "ipywidgets", "anywidget", "traitlets", "ipython"}


@pytest.mark.slow
def test_the_wheel_has_the_built_in_models_and_not_their_training(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "clipgen/mini/weights/clip.safetensors" in names and not any("mini/training" in name for name in names)


SCRIPT = """
from google.colab import files, output
import clipgen

studio = clipgen.Studio("a red apple", steps=9, size=(64, 64), cutouts=4, init="perlin")
assert output.managers  # anywidget calls it, too
studio.generate()
studio.wait()

def button(widget):
    found = [widget] if getattr(widget, "description", "") == "Export" else []
    return found + [each for child in getattr(widget, "children", ()) for each in button(child)]

button(studio)[0].click()
assert not studio.preview.error.value, studio.preview.error.value
((name, begin),) = files.downloaded
assert name.endswith("a-red-apple.gif") and begin == b"GIF89a", files.downloaded
"""


@pytest.mark.slow
def test_the_studio_in_colab(tmp_path):
    """With the stand-in for google.colab loaded, as Colab's kernel loads the real one before any cell runs."""
    environment = os.environ | {"PYTHONPATH": str(COLAB)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
