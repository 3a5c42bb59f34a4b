"""What the image tower learns from: pictures that pretend, and views that were pushed the wrong way."""

import pytest
import torch

from clipgen.mini.clip import MiniCLIP
from clipgen.mini.scenes import COLOURS
from clipgen.mini.training import critic
from clipgen.mini.training.attempts import Attempts, cheats
from clipgen.mini.training.data import is_held_out
from clipgen.mini.training.sampler import SceneSampler
from clipgen.mini.training.training import Job


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path, tmp_path, 1, torch.device("cpu"))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return MiniCLIP(image={"layout": 16}).eval()


def test_cheats_have_the_colours_but_not_the_places():
    images = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    made = cheats(images, torch.Generator().manual_seed(0))
    assert made.shape == images.shape and (made != images).flatten(1).any(1).all()
    shuffled = (made.flatten(2).sort().values == images.flatten(2).sort().values).flatten(1).all(1)
    assert 16 < shuffled.sum() < 48, "two of the four kinds only move pieces"


@pytest.mark.slow
def test_attempts_go_uphill_and_are_kept_beside_their_real_picture(job, model):
    images, captions = torch.rand(4, 3, 32, 32), ["a cat", "a dog", "pizza", "a car"]
    attempts = Attempts(job, 32, count=6, kept=5, steps=10, seed=0)

    @torch.no_grad()
    def likeness():
        seen, texts = model.encode_image(attempts.stack.image(attempts.latent)), model.embed_text(attempts.captions)
        return (seen * texts).sum(1).mean().item()

    attempts.advance(model, images, captions, 3)
    attempts.advance(model, images, captions, 3)
    before = likeness()
    for _ in range(14):
        attempts.advance(model, images, captions, 3)
    assert likeness() > before + 0.01
    for _ in range(30):
        attempts.advance(model, images, captions, 3)
    drawn, real, labels = attempts.draw(9)
    assert drawn.shape == real.shape == (5, 3, 32, 32) and attempts.filled > 5
    for picture, label in zip(real, labels):
        assert (picture - images[captions.index(label)]).abs().max() < 0.003


def test_a_new_layout_changes_nothing_yet(model):
    images = torch.rand(2, 3, 64, 64)
    plain = MiniCLIP().eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if ".layout." not in k})
    assert torch.equal(model.encode_image(images), plain.encode_image(images))
    torch.nn.init.normal_(model.image.layout[-1].weight)
    turned = torch.zeros(1, 3, 64, 64)
    turned[..., :32, :32] = 1
    one, other = model.image.layout(torch.rand(1, 256, 4, 4)), model.image.layout(torch.rand(1, 256, 6, 8))
    assert one.shape == other.shape == (1, 256), "any size will do"


def test_fooled_views_are_worse(job, model):
    rng = torch.Generator().manual_seed(0)
    images, captions = torch.rand(8, 3, 32, 32), [f"thing {i}" for i in range(8)]
    with torch.no_grad():
        texts, same = model.embed_text(captions), torch.eye(8)
    pushed = critic.fooled(job, model, images, texts, same, rng)
    right = [(model.encode_image(seen) @ texts.T).log_softmax(1).diag().mean().item() for seen in (images, pushed)]
    assert right[1] < right[0]
    assert (pushed - images).flatten(1).norm(dim=1).max() < critic.RADIUS + 0.05 * 3 * 32


def test_other_colours_are_never_held_out(drawings):
    scene = SceneSampler(drawings, ~drawings.held_out(), 32, seed=1).batch(100)
    made = critic.recoloured(scene, 100, drawings, torch.Generator().manual_seed(0))
    assert len(made) > 20 and not set(made) & set(scene.captions)
    names = [thing.name for thing in drawings.things]
    assert not any(is_held_out(c, n) for text in made for n in names for c in COLOURS if f"{c} {n}" in text)
