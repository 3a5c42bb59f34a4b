import pytest
import torch

from clipgen.mini.scenes import LOCATIONS, draw_scenery


@pytest.mark.parametrize("place", LOCATIONS)
def test_a_background_is_a_picture(place):
    picture = draw_scenery(place, 48, torch.Generator().manual_seed(0))
    assert picture.shape == (3, 48, 48) and picture.min() >= 0 and picture.max() <= 1
    assert picture[0].std() > 0.01, "there is something to see"
