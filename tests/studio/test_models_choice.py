"""Which models a run uses, as one choice at the top of the Studio, with what they cost."""

import re

import pytest
from studio_hands import control, named, put

from clipgen.clip.catalogue import find_family
from clipgen.generators.catalogue import GENERATORS
from clipgen.runs.spec import parse_ensemble
from clipgen.studio.models import CLIP_GFLOP, CLIP_MEGABYTES, GENERATOR_GFLOP, PAIRS


@pytest.fixture
def models(studio):
    return studio.controls.models


def choose(models, name):
    (pair,) = [pair for _, pair in models.choice.options if pair.name == name]
    models.choice.value = pair


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_every_pair_is_known_and_says_what_it_costs(pair, models, studio):
    for name, _ in parse_ensemble(pair.perceptor):
        assert find_family(name) and name in CLIP_MEGABYTES
    choose(models, pair.name)
    asked = studio.controls.values
    assert (asked["generator"], asked["perceptor"]) == (pair.generator, pair.perceptor)
    assert models.choice.value is pair and f"about {pair.memory:g} GB of memory" in models.note.value
    megabytes = GENERATORS[pair.generator].megabytes + sum(
        CLIP_MEGABYTES[name] for name, _ in parse_ensemble(pair.perceptor)
    )
    size = f"{megabytes / 1000:.1f} GB" if megabytes >= 1000 else f"{megabytes:.0f} MB"
    assert (f"Downloads {size} on first use" in models.note.value) == bool(megabytes)
    assert models.choice.label == (f"{pair.name} ({size})" if megabytes else pair.name)


def test_it_stands_at_the_top_and_follows_the_settings(models, studio):
    ask = studio.children[1].children[0]
    assert ask.children[0] is models and named(studio, "Models") == [models.choice]
    put(studio, generator="pixels")
    assert models.choice.label == "As set below" and "nothing is downloaded" in models.note.value
    put(studio, generator="vqgan_imagenet_f16_16384", perceptor="ViT-B-32/openai")
    assert models.choice.value.name == "VQGAN ImageNet"
    put(studio, perceptor="ViT-B-32/laion400m_e32")
    assert models.choice.label == "As set below" and "is shown when it begins" in models.note.value
    put(studio, generator="sd-turbo", perceptor="ViT-B-32/openai")
    assert "The generator takes about 8.8 GB in fp32 (computed), half of it in fp16." in models.note.value
    choose(models, "Built-in")
    assert studio.controls.values["perceptor"] == "mini" and control(studio.controls, "generator").value == "stack"


def minutes(studio):
    """What the line about the device estimates."""
    text = studio.controls.device.value
    count, unit = re.search(r"about (\d+) (minutes?|hours) with these settings \(an estimate", text).groups()
    return int(count) * (60 if unit == "hours" else 1)


def test_the_device_is_named_and_a_cpu_warns_of_hours(models, studio):
    put(studio, device="cpu")
    assert re.search(r"Runs on: CPU \(\d+ threads?\)\.</small>", studio.controls.device.value), "nothing to warn of"
    choose(models, "VQGAN ImageNet")
    put(studio, precision="fp32", size="256x256", cutouts=32, steps=1000)
    text = studio.controls.device.value
    assert "Published models take minutes to hours on a CPU: about" in text and "A GPU is much faster" in text
    assert f"an estimate: {505 + 32 * 17.6:,.0f} TFLOP" in text, "as many GFLOP a step as were measured"
    before = minutes(studio)
    put(studio, steps=4000)
    assert minutes(studio) == pytest.approx(4 * before, rel=0.5)
    put(studio, perceptor="ViT-B-32/laion400m_e32")
    assert "take minutes to hours" in studio.controls.device.value and "estimate" not in studio.controls.device.value
    put(studio, device="nowhere")
    assert "nowhere" in studio.controls.device.value and "choose one of: auto, cpu" in studio.controls.device.value


@pytest.mark.parametrize("pair", PAIRS[2:], ids=lambda pair: pair.name)
def test_every_published_pair_has_its_operations(pair):
    assert pair.generator in GENERATOR_GFLOP
    assert {name for name, _ in parse_ensemble(pair.perceptor)} <= CLIP_GFLOP.keys()
