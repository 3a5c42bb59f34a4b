"""Published formats, made from the reference packages' own modules with random weights."""

from __future__ import annotations

import warnings
import zlib

import huggingface_hub.constants
import pytest
import torch

import clipgen.priors
from clipgen import device as devices


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # read once, when it was imported
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _full_precision(monkeypatch):
    """Equality to 1e-5 is a matter of float32; bf16 is a choice of speed on top."""
    clipgen.priors._models.cache_clear()  # a test of another folder may have loaded them in another precision
    full = devices.full_range(torch.device("cpu"))
    monkeypatch.setattr(devices, "best_precision", lambda *facts: "fp32")
    monkeypatch.setattr(devices, "full_range", lambda device: full)  # priors are compared with nothing
    yield
    clipgen.priors._models.cache_clear()


@pytest.fixture(scope="session")
def openai_clip():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pkg_resources
        import clip
    return clip


def weights_by_name(shapes):
    """Weights that depend on their names only; ``shapes``: of each name."""
    weights = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
        if len(shape) > 1:
            weights[name] = noise / noise[0].numel() ** 0.5
        else:
            weights[name] = 0.1 * noise + float(name.endswith("weight"))
    return weights
