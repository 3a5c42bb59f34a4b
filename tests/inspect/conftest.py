from __future__ import annotations

import pytest

import clipgen
from clipgen.mini import held_out


@pytest.fixture(scope="session")
def clip():
    return clipgen.load_perceptor("mini")


@pytest.fixture(scope="session")
def drawings():
    """The held-out drawings, (200, 3, 128, 128), and the names of their things."""
    return held_out()
