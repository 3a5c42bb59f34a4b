"""Masks: words, boxes and files."""

import pytest
import torch
from PIL import Image

from clipgen.errors import ClipgenError
from clipgen.images import masks


@pytest.mark.parametrize(
    ("spec", "share", "inside"),
    [
        ("all", 1, (5, 5)),
        ("top", 1 / 2, (1, 20)),
        ("bottom", 1 / 2, (38, 20)),
        ("left", 1 / 2, (20, 1)),
        ("right", 1 / 2, (20, 58)),
        ("centre", 1 / 4, (20, 30)),
        ("0,0,0.5,25%", 1 / 8, (1, 1)),
        ("not top", 1 / 2, (38, 20)),
        ("not not left", 1 / 2, (20, 1)),
        ("disc.png", None, (20, 30)),
    ],
)
def test_masks(spec, share, inside):
    picture = Image.new("L", (120, 80))
    picture.paste(255, (40, 20, 80, 60))
    mask = masks.load_mask(spec, (40, 60), {"disc.png": picture})
    assert mask.shape == (1, 1, 40, 60) and mask[0, 0, inside[0], inside[1]] == 1
    assert float(mask.mean()) == pytest.approx(share or 1 / 6, abs=0.01)
    assert masks.find_mask_file(spec) is None or spec == "disc.png"


def test_masks_name_their_file():
    for spec in ("disc.png", "not disc.png", " not  not disc.png "):
        assert masks.find_mask_file(spec) == "disc.png"
    assert masks.find_mask_file("not top") is masks.find_mask_file("0.5,0,.5,1") is masks.find_mask_file("") is None
    assert masks.find_mask_file("0.2,0.2,0.5") is None, "a box without its height"


def test_masks_that_cannot_be():
    picture = Image.new("L", (100, 100), 255)
    for spec, says in (
        ("middle", "use all, top"),
        ("0,0,2,1", "use all"),
        ("not all", "nothing to paint"),
        ("1,2,3", "use all"),
        ("square.png", "same proportions"),
        ("not square.png", "same proportions"),
        ("", "use all"),
    ):
        with pytest.raises(ClipgenError, match=says):
            masks.load_mask(spec, (40, 60), {"square.png": picture})


def test_blend():
    new, old, mask = torch.ones(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), masks.load_mask("left", (4, 4), {})
    assert masks.blend(new, old, mask)[0, 0, 0].tolist() == [1, 1, 0, 0]
