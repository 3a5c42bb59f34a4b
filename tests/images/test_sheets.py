"""Pictures as people look at them."""

import io

import pytest
from PIL import Image

import clipgen
from clipgen.images.sheets import contact_sheet, enlarge, png_bytes, strip


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
