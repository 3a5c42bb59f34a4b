from __future__ import annotations

import pytest

import clipgen


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """One finished default run, shared by the tests that only look at it."""
    return clipgen.generate("a red apple", seed=0, progress=False, folder=tmp_path_factory.mktemp("runs"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Empty cache folders, clipgen's own and the hub's; the former's path."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("CLIPGEN_CACHE", str(folder))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    return folder
