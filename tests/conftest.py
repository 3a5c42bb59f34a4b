from __future__ import annotations

import pytest

import clipgen


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """One finished default run, shared by the tests that only look at it."""
    return clipgen.generate("a red apple", seed=0, progress=False, folder=tmp_path_factory.mktemp("runs"))
