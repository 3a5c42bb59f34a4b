"""Waits, copies and operations of a step on a pretended card, counted. Started by ``test_card.py``."""

import open_clip
import pytest
from pretend import Card

import clipgen
from clipgen.clip import openclip
from clipgen.storage import remote, weights

T4, A100 = (7, 5), (8, 0)
VIT = {"perceptor": "ViT-B-32/openai", "init": "random"}
VQGAN = {"generator": "vqgan_imagenet_f16_16384", "size": (256, 256), **VIT}
DVAE = {"generator": "dvae", "relax": "gumbel", "size": (512, 512), **VIT}
DRAWING = {"generator": "strokes", "init": "random"}


@pytest.fixture(autouse=True)
def shapes_instead_of_weights(monkeypatch):
    """Build published nets without their weights, for a hollow card."""
    vit = weights.build_empty(open_clip.create_model, {"model_name": "ViT-B-32"})
    monkeypatch.setattr(openclip, "_load", lambda name: (vit, open_clip.get_tokenizer("ViT-B-32"), None))
    monkeypatch.setattr(remote, "fetch_weights", lambda *_: {})
    monkeypatch.setattr(weights, "assign_weights", lambda *_: None)


def first_step(folder, **settings):
    """A run after its first frame."""
    run = clipgen.Run("a cat", folder=folder, device="cuda", **{"steps": 9, "every": 9} | settings)
    next(iter(run))
    return run


def of_a_step(card, folder, **settings):
    run = first_step(folder, **settings)
    card.clear()
    run.optimization.advance()
    return run


@pytest.mark.parametrize(("settings", "waits"), [(VQGAN, 1), (DVAE, 1), ({"generator": "fft", **VIT}, 1)])
@pytest.mark.parametrize("capability", [T4, A100])
def test_a_step_waits_for_the_card_once(capability, settings, waits, tmp_path):
    with Card(capability, hollow=True) as card:
        of_a_step(card, tmp_path, **settings)
    assert sum(card.waits.values()) == waits and not card.staged, (card.waits, card.staged)
