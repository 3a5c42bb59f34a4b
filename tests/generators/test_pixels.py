"""What holds for every family that needs no net: pixels, a spectrum, a stack of resolutions."""

import pytest
import torch

from clipgen.errors import ClipgenError
from clipgen.generators import Entry
from clipgen.generators.pixels import FFT, Pixels, Stack

CPU = torch.device("cpu")
SIZES = [(32, 32), (33, 64), (64, 21), (4, 37), (5, 4)]
each_size = pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")


@pytest.fixture(params=[Pixels, FFT, Stack], ids=["pixels", "fft", "stack"])
def family(request):
    return request.param("a family", Entry("", native_size=64, stride=1), CPU)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@each_size
def test_the_shape_is_the_size(family, size):
    latent = family.start(size, rng())
    assert latent.shape == family.shape(size) and latent.dtype == torch.float32
    assert family.image(latent).shape == (1, 3, *size)
    assert family.image(torch.cat([latent, latent])).shape == (2, 3, *size)


@each_size
def test_an_image_comes_back(family, size):
    images = torch.rand(2, 3, *size)
    images[0, :, 0] = torch.tensor([0.0, 1.0, 0.5])[:, None]
    found = family.image(family.encode(images))
    assert (found - images).abs().max() < 1 / 256, "half an 8-bit level, where a sigmoid does not reach"
    inner = images.clamp(0.01, 0.99)
    assert (family.image(family.encode(inner)) - inner).abs().max() < 1e-4


def test_it_begins_on_a_calm_light_ground(family):
    latent = family.start((48, 64), rng(3))
    picture = family.image(latent)
    assert picture.min() > 0.75 and picture.max() < 0.95 and 0 < picture.std() < 0.03
    assert torch.equal(latent, family.start((48, 64), rng(3)))
    assert not torch.equal(latent, family.start((48, 64), rng(4)))


@each_size
def test_the_gradient_reaches_every_number(family, size):
    latent = family.start(size, rng()).requires_grad_()
    (family.image(latent) * torch.rand(3, *size)).sum().backward()
    used = sum(level.numel() for level in family.levels(latent)) if hasattr(family, "levels") else latent.numel()
    assert (latent.grad != 0).sum() == used and latent.numel() - used < 3 * size[1]


def test_adam_finds_a_picture(family):
    """At the default learning rate, 60 steps come near a red disc."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 32)] * 2, indexing="ij")
    disc = (x.square() + y.square() < 0.4).float()
    wanted = torch.stack([0.9 - 0.1 * disc, 0.9 - 0.7 * disc, 0.9 - 0.7 * disc])[None]
    latent = family.start((32, 32), rng()).requires_grad_()
    optimiser = torch.optim.Adam([latent], lr=0.15 * family.lr, betas=(0.9, 0.99))
    losses = []
    for _ in range(60):
        loss = (family.image(latent) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        family.project_(latent)
        losses.append(float(loss.detach()))
    assert losses[20] < 0.8 * losses[0] and losses[-1] < 0.2 * losses[0], losses[::10]


def test_a_latent_is_kept_in_16_bits(family):
    picture = torch.rand(1, 3, 33, 20, generator=rng())
    latent = family.encode(picture)
    saved = family.pack(latent)
    assert saved.dtype == torch.float16 and saved.shape[0] == 1
    assert (family.image(family.unpack(saved, (33, 20))) - picture).abs().max() < 1 / 128
    assert family.unpack(saved, (33, 20)).dtype == torch.float32
    for size in ((20, 33), (33, 21), (32, 20)):
        with pytest.raises(ClipgenError, match=r"a latent of shape .* a family at this size needs"):
            family.unpack(saved, size)
    for wrong in (float("nan"), float("inf")):
        spoilt = saved.clone()
        spoilt.view(-1)[7] = wrong
        with pytest.raises(ClipgenError, match="finite"):
            family.unpack(spoilt, (33, 20))


def test_runaways_are_brought_back(family):
    latent = family.start((16, 24), rng())
    kept = latent.clone()
    family.project_(latent)
    assert torch.equal(latent, kept), "what is within bounds stays"
    latent[..., 0, 0], latent[..., 1, 1] = float("inf"), -1e30
    family.project_(latent)
    assert family.pack(latent).isfinite().all() and family.image(latent).isfinite().all()


def test_distance_is_one_for_unrelated_pictures(family):
    one, other = (0.5 + 0.25 * torch.randn(2, 3, 32, 32, generator=rng())).clamp(0, 1).split(1)
    a, b = family.encode(one), family.encode(other)
    assert float(family.distance(a, b)) == pytest.approx(1, abs=0.15) and family.distance(a, a) == 0
    a.requires_grad_()
    family.distance(a, b).backward()
    assert a.grad.abs().sum() > 0 and torch.equal(family.residual(a), torch.zeros_like(a))
