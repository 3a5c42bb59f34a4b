"""Window decoding: a window is that part of the whole picture, and in the mean it pulls as the whole one does."""

import pytest
import torch
from torch.nn import functional as F

import clipgen
from clipgen.window import WHOLE, Window


def picture(generator, latent, window, step=1, seed=0):
    """What a step decodes, on grey; the generator of random numbers after it."""
    rng = torch.Generator().manual_seed(seed)
    kept = torch.full((1, 3, 8 * latent.shape[-2], 8 * latent.shape[-1]), 0.5)
    return Window(window).decode(generator, latent, kept, step, rng, 100), rng


@pytest.fixture(scope="module", params=["mini-vqgan", "mini-dvae"])
def drawn(request):
    """A generator, a latent of it, and its picture, large enough for windows with all of their halo inside."""
    generator = clipgen.load_generator(request.param, precision="fp32")
    latent = generator.start((192, 256), torch.Generator().manual_seed(1)).requires_grad_()
    return generator, latent, generator.image(latent)


@pytest.mark.parametrize("seed", range(4))
def test_a_window_is_a_part_of_the_whole_picture(seed, drawn):
    generator, latent, whole = drawn
    part, _ = picture(generator, latent, 0.5, seed=seed)
    inside = (part != 0.5).all(1)[0]
    rows, columns = (inside.any(along).nonzero().flatten() for along in (1, 0))
    assert (len(rows), len(columns)) == (96, 128) and inside.sum() == 96 * 128, "half of each side"
    away = (part - whole)[..., inside].abs()
    assert away.mean() < 0.004 and away.max() < 0.2, "but for what only the rest of the picture knows"


def test_without_a_window_nothing_is_drawn_and_all_is_decoded(drawn):
    generator, latent, whole = drawn
    for window, step in ((1.0, 1), (0.5, WHOLE), (0.5, 0)):
        made, rng = picture(generator, latent, window, step)
        assert torch.equal(made, whole) and torch.equal(rng.get_state(), torch.Generator().manual_seed(0).get_state())
    first = Window(0.5).decode(generator, latent, None, 1, torch.Generator(), 100)
    assert torch.equal(first, whole), "nothing is kept yet"


@pytest.mark.slow
def test_windows_pull_as_the_whole_picture_does(drawn):
    """A loss that is a sum over places: the mean of its gradients has the direction and the length."""
    generator, latent, whole = drawn
    pattern = F.interpolate(torch.randn(1, 3, 12, 16, generator=torch.Generator().manual_seed(3)), scale_factor=16)
    (asked,) = torch.autograd.grad((whole * pattern).sum(), latent, retain_graph=True)
    mean = torch.zeros_like(latent)
    for seed in range(96):
        (pulled,) = torch.autograd.grad((picture(generator, latent, 0.5, seed=seed)[0] * pattern).sum(), latent)
        mean += pulled / 96
    assert F.cosine_similarity(mean.flatten(), asked.flatten(), dim=0) > 0.9
    assert float(mean.norm() / asked.norm()) == pytest.approx(1, abs=0.25)
