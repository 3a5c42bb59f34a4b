"""Pictures as people look at them."""

import io

import numpy as np
import pytest
from PIL import Image

import clipgen
from clipgen.images.sheets import contact_sheet, enlarge, overlay_heat, png_bytes, strip


def colours(count=5, size=(64, 48)):
    return [Image.new("RGB", size, (40 * i, 20, 200)) for i in range(count)]


def test_shown_at_256_or_more():
    assert enlarge(Image.new("RGB", (64, 96))).size == (256, 384)
    assert enlarge(Image.new("RGB", (512, 300))).size == (512, 300)


def test_a_notebook_shows_it_large():
    with Image.open(io.BytesIO(png_bytes(Image.new("RGB", (64, 64), "red")))) as shown:
        assert shown.format == "PNG" and shown.size == (256, 256) and shown.getpixel((99, 99)) == (255, 0, 0)


def test_contact_sheet():
    assert contact_sheet(colours(), 3, list("abcde")).size == (3 * (384 + 8) + 8, 2 * (288 + 8 + 26) + 8)
    sheet = contact_sheet([Image.new("RGB", (256, 256), "red"), Image.new("RGB", (300, 260), "blue")], 1)
    assert sheet.size == (300 + 16, 2 * 268 + 8)
    assert sheet.getpixel((20, 20)) == (255, 255, 255) and sheet.getpixel((158, 20)) == (255, 0, 0), "in the middle"


def test_before_and_after():
    made = strip([Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")], ["before", "after"])
    assert made.size == (2 * (256 + 8) + 8, 256 + 2 * 8 + 26)
    assert made.getpixel((100, 100)) == (255, 0, 0) and made.getpixel((8 + 256 + 8 + 128, 100)) == (0, 0, 255)
    for half in (made.crop((0, 266, 268, 298)), made.crop((268, 266, 536, 298))):
        assert half.convert("L").getextrema()[0] < 60, "a label below each"
    with pytest.raises(clipgen.ClipgenError, match="a label for each"):
        strip([Image.new("RGB", (9, 9))], ["a", "b"])
    with pytest.raises(clipgen.ClipgenError, match="at least one"):
        strip([])


def test_a_strip_of_any_sizes_has_one_height():
    pictures = [
        Image.new("RGB", (64, 128), "red"),
        Image.new("L", (300, 300), 90),
        Image.new("RGBA", (1024, 512), "lime"),
    ]
    made = strip(pictures)
    assert made.size == (256 + 512 + 1024 + 4 * 8, 512 + 2 * 8)
    red, grey, lime = (255, 0, 0), (90, 90, 90), (0, 255, 0)
    for x, colour in ((8, red), (263, red), (272, grey), (783, grey), (1815, lime)):
        assert made.getpixel((x, 8)) == made.getpixel((x, 519)) == colour


def test_it_glows_where_it_is_strong():
    strength = np.zeros((8, 12))
    strength[2:4, 5:9] = 3.0
    strength[6, 1] = 1.5
    shown = np.asarray(overlay_heat(Image.new("RGB", (12, 8), (90, 160, 30)), strength), float)
    warmth = shown[..., 0] - shown[..., 2]
    assert shown.shape == (8, 12, 3) and (warmth[strength == 0] < 0).all(), "cool and grey where nothing is"
    assert warmth[2, 5] > warmth[6, 1] > warmth[0, 0]


@pytest.mark.parametrize("strength", [np.zeros((4, 4)), np.full((4, 4), 1e-20)])
def test_next_to_nothing_is_no_trouble(strength):
    assert overlay_heat(Image.new("L", (4, 4), 99), strength).size == (4, 4)


@pytest.mark.parametrize(("shortest", "width"), [(64, 4 * 64 + 5 * 8), (256, 4 * 256 + 5 * 8)])
def test_a_sheet_of_small_pictures(shortest, width):
    assert contact_sheet([Image.new("RGB", (32, 32))] * 7, 4, ["a"] * 7, shortest).width == width
