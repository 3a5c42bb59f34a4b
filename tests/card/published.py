"""Waits, copies and operations of a step at published sizes on a pretended card. Started by ``test_card.py``."""

from pathlib import Path

import pytest
from pretend import Card, is_possible, published_shapes, take_step

from clipgen.generators import vae
from clipgen.runs import frames as run_frames

pytestmark = pytest.mark.skipif(not is_possible(), reason="there is a card that need not be pretended")
T4, A100 = (7, 5), (8, 0)
VIT = {"perceptor": "ViT-B-32/openai", "init": "random"}
VQGAN = {"generator": "vqgan_imagenet_f16_16384", "size": (256, 256), **VIT}
TITOK = {"generator": "titok_b64", **VIT}
DVAE = {"generator": "dvae", "relax": "gumbel", "size": (512, 512), **VIT}


@pytest.mark.parametrize(
    ("settings", "capability", "operations"),
    [(VQGAN, T4, 830), (VQGAN, A100, 830), (DVAE, T4, 720), (TITOK, T4, 1130)],
    ids=["VQGAN, T4", "VQGAN, A100", "dVAE, T4", "TiTok, T4"],
)
def test_a_step(settings, capability, operations, tmp_path):
    with published_shapes(), Card(capability, hollow=True) as card:
        waits, counted = take_step(card, tmp_path, **settings)
    assert waits == 1 and not card.staged, (card.waits, card.staged)
    assert counted <= operations and card.moved["up"] < 20_000, (card.operations, card.moved)


def test_a_frame_brings_down_its_picture_and_tokens(tmp_path, monkeypatch):
    monkeypatch.setattr(run_frames, "SAVE_SECONDS", 1e9)
    with published_shapes(), Card(T4, hollow=True) as card:
        take_step(card, tmp_path, every=1, count=lambda frames: next(frames), **DVAE)
    picture, tokens = 3 * 512 * 512, 8 * 64 * 64
    assert card.moved["down"] == picture + tokens


def test_a_step_of_a_one_step_generator_waits_once(tmp_path, monkeypatch):
    """With small nets of random weights: diffusers itself may wait."""
    pytest.importorskip("diffusers")
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "generators")
    from test_turbo import SCHEDULERS, build

    monkeypatch.setattr(vae, "load_diffusers", lambda *_, **__: build(tmp_path, SCHEDULERS["euler"]()))
    settings = {"generator": "sd-turbo", "perceptor": "mini", "init": "random", "size": (64, 64), "cutouts": 2}
    with Card(T4) as card:
        waits, _ = take_step(card, tmp_path, **settings)
    assert waits == 1 and not card.staged, (card.waits, card.staged)
