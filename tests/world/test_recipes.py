"""The recipes against their sources: over 200 steps the views, their augmentations, the optimiser and the rate.

What stands here as numbers was read in the sources that each preset names; the samplers are in our own words.
"""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from clipgen.cutouts import CutoutConfig
from clipgen.generators import parse_relaxation
from clipgen.generators.catalogue import GENERATORS
from clipgen.optimizers import OptimizerConfig
from clipgen.runs.presets import PRESETS
from clipgen.runs.settings import build
from clipgen.runs.spec import parse_ensemble

STEPS, CLIP = 200, 224
GUIDE = Path(__file__).parents[2] / "notebooks" / "guide" / "published-models.md"


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def settings(name, **asked):
    return build("a city in the style of Van Gogh", {"recipe": name, **asked})


def murdock(side):
    """32 sizes: normal about 1.2 of the side, clipped; the last three 1.4."""
    sizes = (1.2 + 0.3 * torch.randn(32)).clamp(0.43, 1.9)
    sizes[29:] = 1.4
    return sizes


def crowson(side):
    low = min(side, CLIP)
    return (torch.rand(64) * (side - low) + low).floor() / side


def pixray(side):
    """18 close views with a share of the area, 12 of the whole."""
    return torch.cat([(0.25 + 0.7 * torch.rand(18)).sqrt(), torch.full((12,), 1 / 0.95)])


SIZES = {
    "murdock-dalle": murdock,
    "murdock-vqgan": murdock,
    "crowson": crowson,
    "nerdyrodent": lambda side: torch.ones(32),
    "pixray": pixray,
    "das": lambda side: torch.ones(64),
    "reno": lambda side: torch.ones(1),
    "token-opt": lambda side: torch.full((8,), 224 / 256),  # random crops of 224 of 256
    "clipag": lambda side: torch.cat([torch.ones(11), torch.full((53,), 128 / 224)]),
}
# Each augmentation's share of the views, and how strong it is at the most.
AUGMENTED = {
    "murdock-dalle": {"flip": (0.5, 1), "affine": (1, 24), "shift": (1, 0.2), "grain": (1, 0.11)},
    "murdock-vqgan": {"flip": (0.5, 1), "affine": (1, 24), "shift": (1, 0.2), "grain": (1, 0.11)},
    "crowson": {},
    "nerdyrodent": {
        "affine": (0.7, 15),
        "shift_y": (0.7, 0.1),
        "shear": (0.7, 5),
        "perspective": (0.7, 0.7),
        "colour": (0.7, 0.1),
        "erase_all": (0.7, 0.4),
        "grain": (1, 0.1),
    },
    "pixray": {
        "stretch": (1, 1.2),
        "perspective": (0.7, 0.4),
        "colour": (0.8, 0.1),
        "grain": (1, 0.1),
        "levels": (1, 1),
    },
    "das": {"shift": (1, 1 / 6), "grain": (1, 0.2)},
    "reno": {},
    "token-opt": {"flip": (0.5, 1)},
    "clipag": {
        "stretch": (1, 1.2),
        "shift": (1, 0.125),
        "colour": (1, 0.5),
        "erase": (1, 0.25),
        "noise": (1, 0.01),
    },
}
# Optimiser, its rate at the beginning, late and at the end; steps; picture; generator; CLIPs.
MOVES = {
    "murdock-dalle": ("AdamW", (0.015, 0.015, 0.015), (512, 512), "dvae", 1),
    "murdock-vqgan": ("AdamW", (0.015, 0.015, 0.015), (512, 512), "vqgan_imagenet_f16_16384", 1),
    "crowson": ("Adam", (0.05, 0.05, 0.05), (480, 480), "vqgan_imagenet_f16_1024", 1),
    "nerdyrodent": ("Adam", (0.1, 0.1, 0.1), (512, 512), "vqgan_imagenet_f16_16384", 1),
    "token-opt": ("Adam", (0.1, 0.1, 0.1), (256, 256), "titok_l32", 1),
    "clipag": ("AdamW", (0.07, 0.07, 0.07), (224, 224), "pixels", 1),
    "pixray": ("Adam", (0.2, 0.2, 0.02), (288, 288), "vqgan_imagenet_f16_16384", 2),
}


def drawn(cutouts, side, image=None):
    """``STEPS`` draws of the views, as warps, or as pictures of 32 pixels."""
    for step in range(STEPS):
        views = cutouts.sample((1, 3, side, side), CLIP if image is None else 32, rng(step))
        yield views.warp if image is None else views.render(image)


def test_every_recipe_is_here():
    assert PRESETS.keys() == SIZES.keys() == AUGMENTED.keys() and PRESETS.keys() - MOVES.keys() == {"das", "reno"}


@pytest.mark.parametrize("name", PRESETS)
def test_number_and_sizes_of_views(name):
    asked = settings(name)
    side = asked.size[0]
    plain = dataclasses.replace(asked.select(CutoutConfig), augment="")
    ours = torch.stack([warp[:, 1, 1] for warp in drawn(plain, side)])
    torch.manual_seed(1)
    theirs = torch.stack([SIZES[name](side) for _ in range(STEPS)])
    assert ours.shape == theirs.shape
    assert ours.mean() == pytest.approx(float(theirs.mean()), rel=0.05)
    assert ours.std() == pytest.approx(float(theirs.std()), rel=0.05, abs=1e-6)
    for share in (0.05, 0.5, 0.95):
        assert ours.quantile(share) == pytest.approx(float(theirs.quantile(share)), rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "augmentation"), [(n, a) for n, kinds in AUGMENTED.items() for a in kinds])
def test_kinds_rates_and_strengths_of_augmentations(name, augmentation):
    share, strength = AUGMENTED[name][augmentation]
    asked = settings(name).select(CutoutConfig).augmentations
    assert asked.keys() == AUGMENTED[name].keys()
    assert asked[augmentation].strength == pytest.approx(strength, rel=0.05)
    image = F.interpolate(torch.rand(1, 3, 5, 5, generator=rng()), (32, 32), mode="bicubic").clamp(0.05, 1)

    def views(augment):
        how = CutoutConfig(cutouts=16, cut_min=1, cut_max=1, augment=augment)
        return torch.cat([*drawn(how, 32, image)])

    said = f"{augmentation}={strength}:{share}"
    changed = (views(said) - views("")).abs().amax((1, 2, 3)) > 1e-5
    assert changed.float().mean() == pytest.approx(share, rel=0.05)


def test_how_strong_they_are():
    """Of what lies evenly within a bound, the deviation is the bound over the root of three."""
    warps = torch.cat([*drawn(CutoutConfig(cutouts=16, cut_min=1, cut_max=1, augment="affine=24"), 64)])
    turned = torch.atan2(warps[:, 1, 0], warps[:, 0, 0]).rad2deg()
    assert turned.std() == pytest.approx(24 / math.sqrt(3), rel=0.05) and turned.abs().max() <= 24
    moved = torch.cat([*drawn(CutoutConfig(cutouts=16, cut_min=1, cut_max=1, augment="shift=0.1"), 64)])[:, :2, 2] / 2
    assert moved.std() == pytest.approx(0.1 / math.sqrt(3), rel=0.05)
    noise = torch.cat(
        [CutoutConfig(cutouts=16, augment="grain=0.11").sample((1, 3, 64, 64), 32, rng(i)).noise for i in range(50)]
    )
    deviations = noise.std((1, 2, 3))
    assert deviations.mean() == pytest.approx(0.055, rel=0.05)
    assert deviations.std() == pytest.approx(0.11 / math.sqrt(12), rel=0.05)


@pytest.mark.parametrize("name", MOVES)
def test_optimiser_and_rate(name):
    optimiser, rates, size, generator, clips = MOVES[name]
    asked = settings(name)
    latent = torch.zeros(3)
    made = asked.at(0).select(OptimizerConfig).create(latent)
    assert type(made).__name__ == optimiser and made.param_groups[0]["betas"] == (0.9, 0.999)
    assert made.param_groups[0]["weight_decay"] == {"murdock-vqgan": 0.1, "clipag": 0.01}.get(name, 0)
    for share, rate in zip((0, 0.7, 0.99), rates, strict=True):
        step = int(share * asked.steps)
        config = asked.at(step).select(OptimizerConfig)
        assert config.lr_at(step / asked.steps, unit=123, has_camera=False) == pytest.approx(rate)
    ema = 0.98 if name == "token-opt" else 0
    assert (asked.size, asked.generator, asked.ema) == (size, generator, ema) and asked.generator in GENERATORS
    assert len(parse_ensemble(asked.perceptor)) == clips and {
        share for _, share in parse_ensemble(asked.perceptor)
    } == {1 / clips}


def test_what_is_particular():
    dalle, vqgan = settings("murdock-dalle"), settings("murdock-vqgan")
    assert parse_relaxation(dalle.relax) == ("gumbel", {"temperature": 1.873, "groups": 2})
    assert parse_relaxation(vqgan.relax) == ("none", {"limit": 6})
    assert (dalle.distance, dalle.combine, dalle.padding, dalle.cut_pad) == ("cosine", "embeddings", "black", 0.5)
    assert settings("pixray").init == "noise" and settings("crowson").init == "random"
    assert settings("das").generator == "stack"


def test_renos_optimiser_for_a_loss_eleven_times_smaller():
    asked = settings("reno")
    config = asked.at(0).select(OptimizerConfig)
    (group,) = config.create(torch.zeros(3, requires_grad=True)).param_groups
    assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, True, 0)
    assert config.lr_at(0.9, unit=123, has_camera=False) * config.clip_grad == pytest.approx(5 * 0.1)
    assert asked.noise_norm * asked.lr == pytest.approx(0.01 * 5)
    assert dict(parse_ensemble(asked.perceptor)) == pytest.approx(
        {"hps-v2.1": 5 / 11, "pickscore": 5 / 11, "ViT-H-14/laion2b_s32b_b79k": 1 / 11}
    )


def test_places_of_padded_views():
    """Murdock's views lie anywhere in a picture that has half a side of black around it."""
    warps = torch.cat([*drawn(dataclasses.replace(settings("murdock-dalle").select(CutoutConfig), augment=""), 512)])
    across, middle = warps[:, 0, 0], warps[:, 0, 2]
    reach = middle.abs() + across  # how far a view's edge is from the middle; the picture's edge is at 1
    assert reach.max() <= 2 + 1e-5 and reach.quantile(0.95) > 1.6
    assert (middle / (2 - across)).std() == pytest.approx(1 / math.sqrt(3), rel=0.05), "evenly"


def test_what_is_asked_for_wins_and_quality_scales():
    assert settings("crowson", lr=0.3, cutouts=5).lr == 0.3 and settings("crowson", cutouts=5).cutouts == 5
    assert settings("crowson", quality="draft").steps == 250 and settings("crowson", quality="draft").cutouts == 32


@pytest.mark.parametrize("name", PRESETS)
def test_the_guide_says_what_a_recipe_costs(name):
    rows = [line for line in GUIDE.read_text().splitlines() if line.startswith(f"| `{name}` |")]
    asked = settings(name)
    size = "x".join(map(str, asked.size))
    cutouts = "1 cutout" if asked.cutouts == 1 else f"{asked.cutouts} cutouts"
    assert len(rows) == 1 and f"{size}, {cutouts}, {asked.steps} steps" in rows[0]
