from __future__ import annotations

import pytest
from studio_hands import SMALL

import clipgen


@pytest.fixture
def studio(tmp_path):
    """A Studio for small pictures; whatever it runs ends with the test."""
    studio = clipgen.Studio("a red heart", folder=tmp_path, steps=8, init="perlin", **SMALL)
    yield studio
    studio.stop()
    studio.wait(60)
