"""What all codebooks share: the clamp, the used codes, the relaxations."""

import pytest
import torch

import clipgen
from clipgen.errors import ClipgenError
from clipgen.generators import clamp
from clipgen.generators.codebook import used_codes


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_clamp_stops_what_pushes_further_out_and_passes_what_brings_back():
    pixels = torch.tensor([-0.5, -0.5, 0.5, 0.5, 1.5, 1.5, 0.0, 1.0], requires_grad=True)
    slope = torch.tensor([1.0, -1, 1, -1, 1, -1, 1, -1])  # descent goes against it
    made = clamp(pixels)
    (made * slope).sum().backward()
    assert made.tolist() == [0, 0, 0.5, 0.5, 1, 1, 0, 1]
    assert pixels.grad.tolist() == [0, -1, 1, -1, 1, 0, 1, -1]


@pytest.mark.parametrize("share", [0.03, 0.5, 1.0])
def test_the_unit_is_that_of_the_codes_that_live(share):
    codes = torch.randn(16384, 256, generator=rng())
    dead = torch.rand(16384, generator=rng(1)) >= share
    codes[dead] = (2 * torch.rand(int(dead.sum()), 256, generator=rng(2)) - 1) / 16384  # where taming's begin
    assert len(used_codes(codes)) == 16384 - int(dead.sum())
    assert used_codes(codes).std() == pytest.approx(1, abs=0.01)


def test_codes_on_a_sphere_all_live():
    codes = torch.nn.functional.normalize(torch.randn(1024, 8, generator=rng()), dim=1)
    assert len(used_codes(codes)) == 1024


def test_sampled_tokens_are_drawn_as_often_as_their_logits_say():
    generator = clipgen.load_generator("mini-dvae", relax="sample")
    logits = torch.full((1, 1024, 32, 32), -30.0)
    logits[:, 7], logits[:, 9] = 0.0, 1.0
    seen, draw = [], generator.tokens

    def tokens(latent):
        seen.append(draw(latent))
        return seen[-1]

    generator.tokens = tokens
    latent = logits.requires_grad_()
    generator.image(latent, rng=rng()).square().sum().backward()
    drawn = seen[0]
    assert drawn.unique().tolist() == [7, 9]
    assert (drawn == 9).float().mean() == pytest.approx(0.731, abs=0.05), "e to one"
    assert latent.grad[:, [7, 9]].abs().sum() > 0, "the softmax's gradient"
    shown = generator.image(logits.detach())
    assert torch.allclose(shown, generator.image(generator.from_tokens(torch.full((1, 32, 32), 9))), atol=1e-5)


def test_a_temperature_that_stays():
    """Murdock's 1.873: at the end of a run the relaxation is as soft as at its beginning."""
    falling, still = (clipgen.load_generator("mini-dvae", relax=relax) for relax in ("gumbel", "gumbel:1.873"))
    latent = falling.start((64, 64), rng())
    assert torch.equal(still.image(latent, 0, rng()), still.image(latent, 1, rng()))
    assert not torch.equal(falling.image(latent, 0, rng()), falling.image(latent, 1, rng()))


def test_an_unsnapped_latent_with_a_limit():
    free = clipgen.load_generator("mini-vqgan", relax="none:6")
    latent = free.start((512, 512), rng())
    assert latent.abs().max() > 2 and latent.median().abs() < 0.05, "normal, the extremes drawn out"
    latent.mul_(100)
    free.project_(latent)
    assert latent.abs().max() == 6


@pytest.mark.parametrize("relax", ["none:x", "none:0", "sample:2", "straight-through:1", "soft"])
def test_relaxations_that_there_are_not(relax):
    with pytest.raises(ClipgenError, match="relax="):
        clipgen.load_generator("mini-dvae", relax=relax)


@pytest.mark.parametrize("relax", ["gumbel", "sample"])
def test_logits_are_needed_for_some(relax):
    with pytest.raises(ClipgenError, match=f"relax='{relax}': mini-vqgan has no token logits"):
        clipgen.load_generator("mini-vqgan", relax=relax)
