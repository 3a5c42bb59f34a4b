"""What suits published models where nothing is asked for: by name, by device, by family."""

import pytest
import torch

from clipgen import device as devices
from clipgen import generators
from clipgen.cutouts import CutoutConfig
from clipgen.generators import catalogue
from clipgen.generators.catalogue import ALIASES, GENERATORS, entry_of
from clipgen.runs.settings import build
from clipgen.runs.spec import RunSpec

NOTEBOOKS = ["vqgan_imagenet_f16_16384", "vqgan_openimages_f8_8192", "wikiart_f16_16384", "dvae"]


@pytest.mark.parametrize(
    ("short", "name"),
    [
        ("vqgan", "vqgan_imagenet_f16_16384"),
        ("imagenet", "vqgan_imagenet_f16_16384"),
        ("imagenet-16384", "vqgan_imagenet_f16_16384"),
        ("imagenet-1024", "vqgan_imagenet_f16_1024"),
        ("wikiart", "wikiart_f16_16384"),
        ("openimages", "vqgan_openimages_f8_8192"),
        ("dalle", "dvae"),
    ],
)
def test_short_names_that_people_use(short, name):
    """The journal has the catalogue's own name, so that runs that mean the same share their models."""
    assert entry_of(short) is GENERATORS[name]
    assert build("a city", {"generator": short, "device": "cpu"}) == build(
        "a city", {"generator": name, "device": "cpu"}
    )


def test_no_short_name_hides_a_generator():
    assert not ALIASES.keys() & GENERATORS.keys() and set(ALIASES.values()) <= GENERATORS.keys()


@pytest.mark.parametrize("name", NOTEBOOKS)
@pytest.mark.parametrize(
    ("kind", "gigabytes", "side", "steps"), [("cuda", 16, 512, 500), ("cuda", 8, 384, 500), ("cpu", 0, 256, 300)]
)
def test_a_card_draws_what_the_notebooks_drew(name, kind, gigabytes, side, steps, monkeypatch):
    """There is no card here: what torch says of one is given."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, int(gigabytes * 1e9)))
    for module in (devices, generators):
        monkeypatch.setattr(module, "resolve_device", lambda name="auto": torch.device(kind))
    monkeypatch.setattr(devices, "resolve_precision", lambda device, asked="auto": "fp32")
    spec = RunSpec.create("a city", {"generator": name, "perceptor": "ViT-B-32/openai"})
    assert (spec.settings.size, spec.settings.steps) == ((side, side), steps)
    asked = {"generator": name, "perceptor": "ViT-B-32/openai", "steps": 7, "size": (128, 128)}
    assert (RunSpec.create("a city", asked).settings.steps, RunSpec.create("a city", asked).settings.size) == (
        7,
        (128, 128),
    )


def test_built_in_models_draw_the_same_everywhere(monkeypatch):
    monkeypatch.setattr(generators, "resolve_device", lambda name="auto": torch.device("cuda"))
    for name in ("stack", "mini-vqgan", "mini-dvae"):
        assert build("a cat", {"generator": name}).steps == 120
        assert entry_of(name).native_size_on(torch.device("cuda")) == GENERATORS[name].native_size


@pytest.mark.parametrize("name", ["taesd", "taesdxl", "taef1"])
def test_continuous_ones_have_the_views_and_steps_of_the_published_vqgans(name):
    asked = {"perceptor": "ViT-B-32/openai", "device": "cpu"}
    ours, vqgan = (build("a city", asked | {"generator": one}) for one in (name, "vqgan"))
    assert ours.select(CutoutConfig) == vqgan.select(CutoutConfig) and ours.steps == vqgan.steps == 300
    assert catalogue.GENERATORS[name].native_size == 512 and ours.lr_unit == "own"
