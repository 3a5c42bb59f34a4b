import numpy as np
import pytest
from PIL import Image

from clipgen.images.heat import heated
from clipgen.images.sheets import contact_sheet


def test_it_glows_where_it_is_strong():
    strength = np.zeros((8, 12))
    strength[2:4, 5:9] = 3.0
    strength[6, 1] = 1.5
    shown = np.asarray(heated(Image.new("RGB", (12, 8), (90, 160, 30)), strength), float)
    warmth = shown[..., 0] - shown[..., 2]
    assert shown.shape == (8, 12, 3) and (warmth[strength == 0] < 0).all(), "cool and grey where nothing is"
    assert warmth[2, 5] > warmth[6, 1] > warmth[0, 0]


@pytest.mark.parametrize("strength", [np.zeros((4, 4)), np.full((4, 4), 1e-20)])
def test_next_to_nothing_is_no_trouble(strength):
    assert heated(Image.new("L", (4, 4), 99), strength).size == (4, 4)


@pytest.mark.parametrize(("shortest", "width"), [(64, 4 * 64 + 5 * 8), (256, 4 * 256 + 5 * 8)])
def test_a_sheet_of_small_pictures(shortest, width):
    assert contact_sheet([Image.new("RGB", (32, 32))] * 7, 4, ["a"] * 7, shortest).width == width
