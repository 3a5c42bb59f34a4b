"""The camera: where what it sees goes."""

import pytest
import torch
from torch.nn import functional as F

from clipgen.errors import ClipgenError
from clipgen.images.camera import Camera


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth(height=64, width=64):
    return F.interpolate(torch.rand(1, 3, 6, 6, generator=rng()), (height, width), mode="bicubic").clamp(0, 1)


def test_camera_zoom_is_a_crop():
    image = smooth()
    crop = F.interpolate(image[..., 16:48, 16:48], (64, 64), mode="bicubic", align_corners=False)
    moved = Camera.parse("zoom=2").move(image, 0)
    assert (moved - crop)[..., 4:-4, 4:-4].abs().max() < 0.02


def test_camera_directions():
    dot = torch.zeros(1, 3, 64, 96)
    dot[..., 30:34, 46:50] = 1  # the centre

    def centre(text, image=dot):
        y, x = (Camera.parse(text).move(image, 0)[0, 0] > 0.3).nonzero().float().mean(0).tolist()
        return y, x

    # The camera goes right and down, so what it sees goes left and up.
    assert centre("x=0.25") == pytest.approx((31.5, 47.5 - 24), abs=1)
    assert centre("y=0.25") == pytest.approx((31.5 - 16, 47.5), abs=1)
    right = torch.zeros(1, 3, 64, 96)
    right[..., 30:34, 66:70] = 1
    y, x = centre("angle=90", right)
    assert (y, x) == pytest.approx((31.5 - 20, 47.5), abs=1), "clockwise it turns, so what was right is on top"


def test_camera_keyframes_and_mistakes():
    camera = Camera.parse("zoom=1.02, angle=1@50-100, zoom=1.1@10-20,x=-.1")
    assert camera and camera.at(0) == {"zoom": 1.02, "x": -0.1, "y": 0, "angle": 0}
    assert (
        camera.at(50)["angle"] == 1 and camera.at(100)["angle"] == 0 and camera.at(15)["zoom"] == pytest.approx(1.122)
    )
    assert not Camera.parse("")
    for wrong in (
        "zoom",
        "zoom=9",
        "tilt=1",
        "x=0.9",
        "y=-0.6",
        "angle=nan",
        "zoom=1..2",
        "zoom=1@5",
        "angle=100",
        "x=0.1@9-9",
        "x=0.1@90-10",
        "x=0.1@0-" + "9" * 5000,
    ):
        with pytest.raises(ClipgenError, match=r"camera=.*write 'zoom=1\.02"):
            Camera.parse(wrong)
