"""Waits, copies and operations of a step on a pretended card, counted. Started by ``test_card.py``."""

import pytest
from pretend import Card, published_shapes

import clipgen

T4, A100 = (7, 5), (8, 0)
VIT = {"perceptor": "ViT-B-32/openai", "init": "random"}
VQGAN = {"generator": "vqgan_imagenet_f16_16384", "size": (256, 256), **VIT}
SMALL = {"init": "perlin", "near_space": "colouring", "cutouts": 4, "size": (64, 64)}  # as near a draft is


@pytest.fixture
def published():
    with published_shapes():
        yield


def take_step(card, folder, **settings):
    """Take the first step of a run and its frame; then count a step."""
    run = clipgen.Run("a cat", folder=folder, device="cuda", **{"steps": 9, "every": 9} | settings)
    next(iter(run))
    card.clear()
    run.optimization.advance()
    return sum(card.waits.values()), sum(card.operations.values())


@pytest.mark.parametrize(("settings", "capability", "operations"), [(VQGAN, T4, 900), (VQGAN, A100, 900)])
def test_a_step_at_published_size(settings, capability, operations, tmp_path, published):
    with Card(capability, hollow=True) as card:
        waits, counted = take_step(card, tmp_path, **settings)
    assert waits == 1 and not card.staged, (card.waits, card.staged)
    assert counted <= operations and card.moved["up"] < 20_000, (card.operations, card.moved)


@pytest.mark.parametrize(
    ("settings", "waits", "operations"),
    [({"generator": "stack", "size": (128, 128)}, 1, 310), ({"generator": "strokes:20"}, 3, 800)],
)
def test_a_step_with_built_in_models(settings, waits, operations, tmp_path):
    with Card(T4) as card:
        counted, all_operations = take_step(card, tmp_path, **SMALL | settings)
    assert counted == waits and not card.staged, (card.waits, card.staged)
    assert all_operations <= operations, card.operations
