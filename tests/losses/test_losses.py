"""Losses, each alone and together: prompts, regularisers, the distance to the start."""

import math

import pytest
import torch
from torch.nn import functional as F

import clipgen
from clipgen.images.reading import to_tensor
from clipgen.losses import FunctionLoss, StepContext, SumLoss, regularisers
from clipgen.losses.prompt_loss import DISTANCES, Targets, prompt_distance, spherical_distance
from clipgen.losses.regularisers import lightness
from clipgen.registry import LOSSES
from clipgen.runs.settings import build


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth(height=64, width=64):
    return F.interpolate(torch.rand(1, 3, 6, 6, generator=rng()), (height, width), mode="bicubic").clamp(0, 1)


def test_spherical_distance():
    a, b = torch.eye(2)
    assert spherical_distance(a[None], torch.stack([a, b, -a]))[0].tolist() == pytest.approx(
        [0, (math.pi / 2) ** 2 / 2, math.pi**2 / 2], abs=1e-2
    )


def test_a_negative_weight_repels():
    seen = torch.nn.functional.normalize(torch.tensor([[1.0, 0.2]]), dim=1)
    target, stop = torch.tensor([[1.0, 0.0]]), torch.tensor([-math.inf])
    towards, away = (prompt_distance(seen, Targets(target, torch.tensor([w]), stop)) for w in (2.0, -2.0))
    assert towards > 0 and torch.isclose(towards, -away)


def test_total_variation():
    variation = regularisers.TotalVariation()
    assert variation.of(torch.ones(1, 3, 4, 4)) == 0 and variation.of(torch.eye(4).expand(1, 3, 4, 4)) > 0.5


@pytest.mark.parametrize("name", ["tv", "saturation", "symmetry", "sharpness", "fringes"])
def test_regularisers_lead_where_they_say(name):
    def colour(x):
        return x.std(1).mean()

    def detail(x):
        return (x - F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)).abs().mean()

    more = {
        "tv": lambda x: -x.diff(dim=-1).abs().mean(),
        "saturation": colour,
        "sharpness": detail,
        "symmetry": lambda x: -(x - x.flip(-1)).abs().mean(),
        "fringes": lambda x: -detail(x - lightness(x)),
    }[name]
    image = smooth().requires_grad_()
    before = more(image.detach())
    optimiser = torch.optim.Adam([image], lr=0.001)
    for _ in range(10):
        optimiser.zero_grad()
        LOSSES[name](**{name: 1.0}).of(image).backward()
        optimiser.step()
    assert more(image.detach()) > before


def test_grey_and_one_colour_have_no_fringes():
    grey = torch.rand(1, 1, 64, 64, generator=rng()).expand(1, 3, 64, 64)
    plain = torch.tensor([0.9, 0.2, 0.1])[None, :, None, None].expand(1, 3, 64, 64)
    stripes = plain.clone()
    stripes[..., ::2] = plain.flip(1)[..., ::2]
    fringes = regularisers.Fringes()
    assert fringes.of(grey) < 1e-9 and fringes.of(plain) < 1e-9 and fringes.of(stripes) > 0.01
    assert not fringes.weight


@pytest.mark.parametrize(
    ("prompt", "options", "weight"),
    [
        ("a blue car", {}, 100),
        ("a blue car", {"init": "dalle", "generator": "mini-vqgan"}, 100),
        ("a blue car", {"fringes": 0.0}, 0),
        ("a blue car", {"fringes": 7.0}, 7),
        ("a blue car", {"init": "random"}, 0),
        ("a blue car", {"perceptor": "ViT-B-32/openai"}, 0),
        ("a blue car", {"recipe": "murdock-dalle"}, 0),
        ("drawing.png", {}, 0),
    ],
)
def test_fringes_are_avoided_by_default_where_a_draft_is_coloured(prompt, options, weight):
    assert build(prompt, options).fringes == weight


@pytest.mark.slow
def test_a_coloured_draft_has_few_fringes(tmp_path):
    def fringes(**options):
        run = clipgen.generate(
            "a blue car", size=(64, 64), steps=30, cutouts=4, progress=False, folder=tmp_path, **options
        )
        return float(regularisers.Fringes().of(to_tensor(run.image)))

    assert fringes() < 0.5 * fringes(fringes=0.0)


def test_palette_and_distances():
    colours = torch.tensor([[0.0, 0, 0], [1, 1, 1]])
    palette = regularisers.Palette("black, white", 2.0)
    assert palette.of(colours.T[None, :, None]) == 0 and palette.weight == 2 and not regularisers.Palette().weight
    assert palette.of(torch.full((1, 3, 2, 2), 0.5)) == pytest.approx(0.75)
    image = torch.full((1, 3, 2, 2), 0.6).requires_grad_()
    palette.of(image).backward()
    assert (image.grad < 0).all(), "descent goes to white, the nearest"
    a = F.normalize(torch.tensor([[1.0, 0], [1, 1], [-1, 0.1]]), dim=1)
    for distance in DISTANCES.values():
        away = distance(a, a[:1])[:, 0]
        assert away[0] < 1e-3 and away[0] < away[1] < away[2]


def test_a_stop_ends_the_pull():
    seen = F.normalize(torch.tensor([[1.0, 0.3]]), dim=1).requires_grad_()
    target, one = torch.tensor([[1.0, 0.0]]), torch.ones(1)
    (near,) = spherical_distance(seen, target).flatten().tolist()
    for stop, pulls in ((near - 0.01, True), (near + 0.01, False)):
        loss = prompt_distance(seen, Targets(target, one, torch.tensor([stop])))
        (gradient,) = torch.autograd.grad(loss, seen)
        assert bool(gradient.abs().sum() > 0) == pulls


def context(image):
    return StepContext(image, torch.zeros(1), 3, spec=None, rng=rng())


def test_losses_add_up():
    def blue(image, latent, step):
        return image[:, 2].mean() + step

    image = torch.full((1, 3, 2, 2), 0.5).requires_grad_()
    grey = FunctionLoss(lambda image, latent, step: image.mean(), "grey")
    (loss,) = SumLoss([FunctionLoss(blue), regularisers.TotalVariation(1.0), grey]).terms(context(image))
    loss.backward()
    assert float(loss) == pytest.approx(3.5 + 0 + 0.5) and image.grad[0, 2].sum() == pytest.approx(1 + 1 / 3)
    assert list(SumLoss([regularisers.TotalVariation()]).terms(context(image))) == [], "a weight of 0 costs nothing"


def test_a_run_tells_the_names_of_its_losses(tmp_path):
    def blue(image, latent, step):
        return 1 - image[:, 2].mean()

    quick = {"steps": 2, "cutouts": 2, "size": (64, 64), "init": "perlin", "folder": tmp_path}
    run = clipgen.Run("a cat", losses={"sky": blue}, **quick)
    assert run.journal.settings["losses"] == ["sky"]
    list(run)
    with pytest.raises(clipgen.ClipgenError, match=r"used 1 losses of its own \(sky\), but 1 are given \(blue\)"):
        clipgen.Run.replay(run.journal.folder, losses=[blue], folder=tmp_path)
    assert clipgen.Run("a cat", losses=[FunctionLoss(blue)], **quick).journal.settings["losses"] == ["blue"]
    with pytest.raises(clipgen.ClipgenError, match="losses: 3 is neither a function"):
        clipgen.Run("a cat", losses=[3], **quick)


def test_prompts_that_come_together_as_embeddings():
    targets = F.normalize(torch.randn(4, 16, generator=rng()), dim=1)
    weights, stops = torch.tensor([2.7, 0.3, -0.5, 0.0]), torch.full((4,), -math.inf)
    joint, strength, *_ = Targets(targets, weights, stops).combined()
    assert strength.tolist() == [1.0, -0.5, 0.0]
    assert torch.allclose(joint[0], F.normalize(2.7 * targets[0] + 0.3 * targets[1], dim=0), atol=1e-6)
    assert torch.equal(joint[1:], targets[2:])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompt", "averaged"),
    [
        ("a cat:2 | a dog:-0.5", 0.0),
        ("a cat:2 | a dog:-0.5", 0.4),
        ("a cat:2 | a dog:-0.5", 1.0),
        ("an apple -> a banana", 1.0),
    ],
)
def test_the_mean_embedding_joins_in_and_parts_change_nothing(prompt, averaged, tmp_path):
    """In one pass and in three: the same loss and the same gradient, though the mean needs all views."""
    run = clipgen.Run(prompt, averaged=averaged, cutouts=7, size=(64, 64), init="perlin", folder=tmp_path)
    next(iter(run))
    loss, image = run.optimization.spec.losses[0], smooth()

    def gradient(passes):
        leaf = image.clone().requires_grad_()
        begun = {"background": run.optimization.background}
        context = StepContext(leaf, run.optimization.latent, 1, run.optimization.spec, rng(), passes, **begun)
        total = 0.0
        for term in loss.terms(context):
            term.backward()
            total += float(term.detach())
        return total, leaf.grad

    (once, straight), (parted, parts) = gradient(1), gradient(3)
    assert once == pytest.approx(parted, rel=1e-3)
    assert F.cosine_similarity(straight.flatten(), parts.flatten(), dim=0) > 0.999
    assert straight.norm() == pytest.approx(float(parts.norm()), rel=0.02)
