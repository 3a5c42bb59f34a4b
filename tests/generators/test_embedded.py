"""The embedded generators, and the published sizes of their classes."""

import pytest
import torch

import clipgen
from clipgen.errors import ClipgenError
from clipgen.generators.dvae import DVAE
from clipgen.generators.vqgan import VQModel
from clipgen.mini import held_out


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "decibel"), [("mini-vqgan", 22), ("mini-dvae", 21)])
def test_generators(name, decibel):
    generator = clipgen.load_generator(name)
    images = held_out()[0][:16]
    latent = generator.encode(images)
    tokens = generator.tokens(latent)
    assert latent.shape[2:] == tokens.shape[1:] == (16, 16) and tokens.dtype == torch.int64
    made = generator.image(latent)
    assert torch.allclose(made, generator.image(generator.from_tokens(tokens)), atol=0.02), (
        "the latent is on the codebook"
    )
    error = (made - images).square().mean((1, 2, 3))
    assert (-10 * error.log10()).mean() > decibel

    wide = generator.start((64, 96), rng()).requires_grad_()
    made = generator.image(wide)
    assert made.shape == (1, 3, 64, 96) and made.min() >= 0 and made.max() <= 1
    made.square().mean().backward()
    assert wide.grad.norm() > 0
    wide.data.mul_(100)
    generator.project_(wide)
    assert (wide <= generator.high).all() and (wide >= generator.low).all()


@pytest.mark.parametrize(
    ("name", "relax"),
    [("mini-vqgan", "straight-through"), ("mini-vqgan", "none"), ("mini-dvae", "gumbel"), ("mini-dvae", "none")],
)
def test_what_is_kept_brings_the_picture_back(name, relax):
    generator = clipgen.load_generator(name, relax=relax)
    latent = generator.encode(held_out()[0][:1])
    saved = generator.pack(latent)
    again = generator.unpack(saved, (128, 128))
    assert again.shape == latent.shape and again.dtype == torch.float32
    assert (generator.image(again) - generator.image(latent)).abs().mean() < 5e-3
    assert saved.is_floating_point() == (relax == "none")
    other = generator.start((128, 128), rng())
    assert generator.distance(latent, latent) == 0 and generator.distance(latent, other) > 0.1
    for wrong in (saved[..., 1:], saved - 10_000 if relax != "none" else saved * float("nan")):
        with pytest.raises(ClipgenError, match="needs"):
            generator.unpack(wrong, (128, 128))


def test_an_unsnapped_latent_is_drawn_as_it_is():
    snapped, free = clipgen.load_generator("mini-vqgan"), clipgen.load_generator("mini-vqgan", relax="none")
    between = 0.5 * (snapped.start((64, 64), rng(0)) + snapped.start((64, 64), rng(1)))
    assert not torch.allclose(snapped.image(between), free.image(between), atol=0.05)
    assert torch.equal(free.residual(between), torch.zeros_like(between)) and snapped.residual(between).abs().sum() > 0
    image = held_out()[0][:1]
    assert (free.image(free.encode(image)) - image).square().mean() < (
        snapped.image(snapped.encode(image)) - image
    ).square().mean()


def test_published_sizes_are_the_same_classes():
    with torch.device("meta"):
        vqgan = VQModel(1024, 256, 256, 128, (1, 1, 2, 2, 4), 2, (16,))
        dvae = DVAE()
    assert vqgan.stride == 16 and vqgan.codebook.shape == (1024, 256)
    assert dvae.stride == 8 and dvae.codebook.shape == (8192, 128)
    assert {"decoder.up.4.attn.2.proj_out.weight", "encoder.mid.attn_1.q.bias"} <= vqgan.state_dict().keys()
    assert "decoder.blocks.group_2.block_1.id_path.weight" in dvae.state_dict()
