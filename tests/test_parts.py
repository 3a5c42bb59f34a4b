"""Cutouts, objectives, images, both embedded generators and the perceptor, each alone."""

import math
import subprocess
import sys

import pytest
import torch
from PIL import Image

import clipgen
from clipgen.cutouts import cutouts
from clipgen.generators.dvae import DVAE
from clipgen.generators.vqgan import VQModel
from clipgen.images import to_image, to_tensor
from clipgen.mini.evaluate import held_out
from clipgen.objectives import distance, follow, spherical_distance, total_variation


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_cutouts_are_views_with_a_gradient():
    images = torch.stack([torch.zeros(3, 96, 160), torch.ones(3, 96, 160)]).requires_grad_()
    views = cutouts(images, 5, 32, rng(), noise=0)
    assert views.shape == (10, 3, 32, 32)
    assert views[:5].abs().max() == 0 and views[5:].min() > 0.9999, "all views of a picture stand together"
    views.sum().backward()
    assert (images.grad != 0).float().mean() > 0.5
    assert torch.equal(cutouts(images, 2, 32, rng(1)), cutouts(images, 2, 32, rng(1)))
    assert not torch.equal(cutouts(images, 2, 32, rng(1)), cutouts(images, 2, 32, rng(2)))


def test_cutouts_average_what_is_far_larger():
    checks = (torch.arange(512)[:, None] + torch.arange(512)).remainder(2).float().expand(1, 3, 512, 512)
    assert (cutouts(checks, 4, 32, rng(), noise=0) - 0.5).abs().max() < 1e-5


def test_spherical_distance():
    a, b = torch.eye(2)
    assert spherical_distance(a[None], torch.stack([a, b, -a]))[0].tolist() == pytest.approx(
        [0, (math.pi / 2) ** 2 / 2, math.pi**2 / 2], abs=1e-2
    )


def test_a_negative_weight_repels():
    seen = torch.nn.functional.normalize(torch.tensor([[1.0, 0.2]]), dim=1)
    towards, away = (follow(seen, torch.tensor([[1.0, 0.0]]), torch.tensor([w])) for w in (2.0, -2.0))
    assert towards > 0 and torch.isclose(towards, -away)


def test_regularisers():
    assert total_variation(torch.ones(1, 3, 4, 4)) == 0
    assert total_variation(torch.eye(4).expand(1, 3, 4, 4)) > 0.5
    assert distance(torch.ones(2), torch.zeros(2)) == 1


def test_pictures_come_in_upright_and_on_white(tmp_path):
    picture = Image.new("RGBA", (20, 10), (0, 0, 0, 0))
    picture.paste((255, 0, 0, 255), (0, 0, 10, 10))
    exif = picture.getexif()
    exif[274] = 6  # turn right to see it
    picture.save(tmp_path / "p.png", exif=exif)
    pixels = to_tensor(tmp_path / "p.png")
    assert pixels.shape == (1, 3, 20, 10)
    assert pixels[0, :, 0, 0].tolist() == [1, 0, 0] and pixels[0, :, -1, 0].tolist() == [1, 1, 1]
    assert to_image(pixels[0]).size == (10, 20)
    assert to_tensor(picture, (16, 16)).shape == (1, 3, 16, 16)


def test_a_broken_picture_is_named(tmp_path):
    (tmp_path / "p.png").write_bytes(b"no picture")
    with pytest.raises(clipgen.ClipgenError, match=r"p\.png"):
        to_tensor(tmp_path / "p.png")


@pytest.mark.parametrize(("name", "decibel"), [("mini-vqgan", 22), ("mini-dvae", 21)])
def test_generators(name, decibel):
    generator = clipgen.load_generator(name)
    images = held_out()[0][:16]
    latent = generator.encode(images)
    tokens = generator.tokens(latent)
    assert latent.shape[2:] == tokens.shape[1:] == (16, 16) and tokens.dtype == torch.int64
    assert torch.allclose(generator.decode(latent), generator.decode(tokens), atol=0.02), (
        "the latent is on the codebook"
    )
    error = (generator.reconstruct(images) - images).square().mean((1, 2, 3))
    assert (-10 * error.log10()).mean() > decibel

    wide = generator.random(2, 64, 96, rng()).requires_grad_()
    made = generator.decode(wide)
    assert made.shape == (2, 3, 64, 96) and made.min() >= 0 and made.max() <= 1
    made.square().mean().backward()
    assert wide.grad.norm() > 0
    wide.data.mul_(100)
    generator.constrain(wide)
    assert (wide <= generator.high).all() and (wide >= generator.low).all()


def test_published_sizes_are_the_same_classes():
    with torch.device("meta"):
        vqgan = VQModel(1024, 256, 256, 128, (1, 1, 2, 2, 4), 2, (16,))
        dvae = DVAE()
    assert vqgan.factor == 16 and vqgan.codebook.shape == (1024, 256)
    assert dvae.factor == 8 and dvae.codebook.shape == (8192, 128)
    assert {"decoder.up.4.attn.2.proj_out.weight", "encoder.mid.attn_1.q.bias"} <= vqgan.state_dict().keys()
    assert "decoder.blocks.group_2.block_1.id_path.w" in dvae.state_dict()


def test_perceptor_knows_words_it_never_saw_drawn():
    perceptor = clipgen.load_perceptor()
    puppy, dog, car, automobile = perceptor.embed_text(["a puppy", "a dog", "a car", "an automobile"])
    assert puppy @ dog > puppy @ car and automobile @ car > automobile @ dog
    assert torch.allclose(puppy.norm(), torch.tensor(1.0))


def test_importing_is_quick_and_the_embedded_path_leaves_open_clip_alone():
    code = """
import sys, clipgen
assert "torch" not in sys.modules, "import clipgen brings torch"
clipgen.load_perceptor().embed_text(["a cat"])
clipgen.load_generator()
import clipgen.run
assert not {"open_clip", "timm", "IPython"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
