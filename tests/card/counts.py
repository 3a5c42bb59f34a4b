"""Waits, copies and operations of a step of the built-in models on a pretended card. Started by ``test_card.py``."""

import pytest
from PIL import Image
from pretend import Card, is_possible, take_step

pytestmark = pytest.mark.skipif(not is_possible(), reason="there is a card that need not be pretended")
T4 = (7, 5)
PICTURE = Image.linear_gradient("L").convert("RGB")
# The losses of the default, which is near a coloured draft.
NEAR = {"init": PICTURE, "near_space": "colouring", "fringes": 100.0, "cutouts": 4, "size": (64, 64)}


@pytest.mark.parametrize(
    ("settings", "waits", "operations"),
    [
        ({"generator": "stack", "size": (128, 128)}, 1, 288),
        ({"generator": "stack", "combine": "embeddings"}, 1, 291),
        ({"generator": "fft"}, 1, 281),
        ({"generator": "mini-dvae", "relax": "gumbel"}, 1, 541),
        ({"generator": "strokes:20"}, 3, 470),
        ({"generator": "shapes:20"}, 3, 520),
        ({"generator": "pen:20"}, 3, 433),
    ],
    ids=str,
)
def test_a_step(settings, waits, operations, tmp_path):
    with Card(T4) as card:
        counted, all_operations = take_step(card, tmp_path, **NEAR | settings)
    assert counted == waits and not card.staged, (card.waits, card.staged)
    assert all_operations <= operations, card.operations
    assert card.moved["up"] < 20_000, card.moved
