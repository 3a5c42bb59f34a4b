"""Upscalers of a published architecture, with random weights: read, as film and picture; and files that are none."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact

import clipgen
from clipgen.cli import main
from clipgen.export import export
from clipgen.images.reading import to_image, to_tensor


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Compact(num_feat=8, num_conv=2, upscale=4).eval()


def pictures(count):
    numbers = np.random.default_rng(0).integers(0, 256, (count, 160, 170, 3), np.uint8)
    return [Image.fromarray(picture) for picture in numbers]


@pytest.mark.parametrize(("name", "wrapped"), [("a.safetensors", ""), ("a.pth", ""), ("a.pth", "params_ema")])
def test_a_picture_as_the_net_makes_it(net, tmp_path, name, wrapped):
    weights = {key: value.contiguous() for key, value in net.state_dict().items()}
    if name.endswith("pth"):
        torch.save({wrapped: weights} if wrapped else weights, tmp_path / name)
    else:
        save_file(weights, tmp_path / name)
    (picture,) = pictures(1)
    file = export([picture], tmp_path / "a.png", upscale=str(tmp_path / name))
    with torch.no_grad():
        wanted = to_image(net(to_tensor(picture))[0].clamp(0, 1))
    with Image.open(file) as made:
        assert made.size == (680, 640)
        assert abs(np.asarray(made.convert("RGB"), int) - np.asarray(wanted, int)).max() <= 1


def test_a_film(net, tmp_path):
    save_file(net.state_dict(), tmp_path / "a.safetensors")
    file = export(pictures(3), tmp_path / "a.webp", upscale=str(tmp_path / "a.safetensors"))
    with Image.open(file) as film:
        assert film.size == (680, 640) and sum(1 for _ in ImageSequence.Iterator(film)) == 3


def test_by_the_command(net, tmp_path, monkeypatch, capsys):
    """As a person types it: a run folder, the file of the weights, the picture."""
    torch.save({"params_ema": net.state_dict()}, tmp_path / "RealESRGAN.pth")
    settings = {"size": (160, 168), "steps": 1, "cutouts": 2, "init": "perlin"}
    run = clipgen.generate("a cat", folder=tmp_path, progress=False, **settings)
    monkeypatch.chdir(tmp_path)
    words = ["export", str(run.journal.folder), "cat.png", "--upscale", "RealESRGAN.pth"]
    assert main(words) == 0
    assert capsys.readouterr() == ("cat.png\n", "")
    with torch.no_grad():
        wanted = to_image(net(to_tensor(run.image))[0].clamp(0, 1))
    with Image.open(tmp_path / "cat.png") as made:
        assert made.size == (640, 672)
        assert abs(np.asarray(made.convert("RGB"), int) - np.asarray(wanted, int)).max() <= 1
    words[-1] = "missing.pth"
    assert main(words) == 2
    assert "there is no such file" in capsys.readouterr().err


class Hostile:
    def __reduce__(self):
        return sys.exit, ("it ran",)


@pytest.mark.parametrize(
    ("weights", "remedy"),
    [
        (None, "there is no such file"),
        ({"a": torch.zeros(2)}, "spandrel does not know these weights"),
        ({"a": Hostile()}, "not loaded|no weights"),
    ],
)
def test_what_is_no_upscaler(tmp_path, weights, remedy):
    if weights:
        torch.save(weights, tmp_path / "a.pth")
    with pytest.raises(clipgen.ClipgenError, match=remedy):
        export(pictures(1), tmp_path / "a.png", upscale=str(tmp_path / "a.pth"))
    assert not (tmp_path / "a.png").exists()
