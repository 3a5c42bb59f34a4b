from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # share the cores; read when torch is first imported
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import clipgen

HERE = Path(__file__).parent


class InlineWorker:
    """Makes the rows of a study in this process, where a test is not about processes: starting one takes seconds."""

    def call(self, function, *arguments):
        return function(*arguments)

    def kill(self):
        pass

    close = kill


@pytest.fixture
def inline_workers(monkeypatch):
    from clipgen.studies import worker
    from clipgen.studies.executor import ProcessExecutor

    monkeypatch.setattr(ProcessExecutor, "start_worker", lambda self, slot: InlineWorker())
    monkeypatch.setattr(worker, "_last_run", None)  # put back at the end: models are not kept


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """One finished run, a draft but for its size, shared by the tests that only look at it."""
    less = {"steps": 24, "cutouts": 4, "progress": False}
    return clipgen.generate("a red apple", seed=0, folder=tmp_path_factory.mktemp("runs"), **less)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Empty cache folders, clipgen's own and the hub's; the former's path."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("CLIPGEN_CACHE", str(folder))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    return folder


WORLD = (  # what is marked ``world``: how published models, their weights and Colab's front end are out there
    "world/",
    "browser/test_colab_page.py",
    "generators/test_codebook.py",
    "clip/test_families.py",
    "clip/test_next_open_clip.py",
    "generators/test_mixed_precision.py",
    "test_loss_scaler.py",
    "runs/test_precision.py",
    "runs/test_schedules.py",
    "storage/",
    "studio/test_connection.py",
    "studio/test_loading.py",
    "test_device.py",
)


LONGEST = (  # they begin first, in this order, so that no worker is left with one of them at the end
    "notebooks/test_notebooks.py",
    "browser/",
    "runs/test_abilities.py",
    "studies/test_ray.py",
    "generators/test_mixed_precision.py",
    "world/",
    "mini/training/",
    "card/",
    "studies/",
    "environments/",
    "studio/",
)


def rank(file):
    return next((place for place, longest in enumerate(LONGEST) if file.startswith(longest)), len(LONGEST))


def pytest_ignore_collect(collection_path, config):
    """Do not import what is slow as a whole while writing: some of it takes seconds."""
    if config.option.markexpr != "not slow" or collection_path.suffix != ".py":
        return None
    marked = "\npytestmark = pytest.mark.slow\n" in collection_path.read_text(encoding="utf-8")
    return marked or "robust" in collection_path.parts or None


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: rank(item.path.relative_to(HERE).as_posix()))
    for item in items:
        if item.path.relative_to(HERE).as_posix().startswith(WORLD):
            item.add_marker("world")
        if "robust" in item.path.parts:  # run by themselves: pytest tests/robust
            item.add_marker("slow")


def pytest_collection_finish():
    """Set aside what libraries made: tests that look for what is left would go through it each time."""
    gc.collect()
    gc.freeze()
