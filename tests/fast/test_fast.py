"""Without any speed-up everything works, and the results agree to rounding."""

import copy
import os
import subprocess
import sys
from pkgutil import resolve_name

import open_clip
import pytest
import torch

import clipgen
from clipgen import fast
from clipgen.fast.layers import FASTER_LAYERS, LEANER_LAYERS
from clipgen.generators.catalogue import GENERATORS
from clipgen.generators.codebook import Codebook
from clipgen.generators.dvae import DVAE
from clipgen.generators.vqgan import VQModel

BUILTIN = [f"{name}:8" if entry.is_vector else name for name, entry in GENERATORS.items() if not entry.megabytes]
VQGAN = {"n_embed": 16, "embed_dim": 32, "z_channels": 32, "ch": 32, "ch_mult": (1, 2), "num_res_blocks": 1}
NETS = {
    "vqgan": (VQModel, VQGAN | {"resolution": 64, "attn_resolutions": (32,)}),
    "gumbel vqgan": (VQModel, VQGAN | {"gumbel": True}),
    "dvae": (DVAE, {"n_hid": 16, "n_init": 8, "vocab_size": 32}),
}


def image_and_gradient(generator, size=(64, 64)):
    latent = generator.start(size, torch.Generator().manual_seed(0)).requires_grad_()
    image = generator.image(latent, 0.5, torch.Generator().manual_seed(1))
    return image.detach(), torch.autograd.grad(image.square().mean(), latent)[0]


def assert_agree(ours, plain):
    for one, other in zip(ours, plain, strict=True):
        assert (one - other).norm() <= 1e-4 * other.norm() and other.norm() > 0


@pytest.mark.parametrize("name", BUILTIN)
def test_a_generator_is_the_same_without_speed_ups(name, monkeypatch):
    ours = image_and_gradient(clipgen.load_generator(name, precision="fp32"))
    monkeypatch.setattr(fast, "enabled", False)
    assert_agree(ours, image_and_gradient(clipgen.load_generator(name, precision="fp32")))


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("size", [(64, 64), (128, 128)])  # below and above the pixels from which weights are flipped
def test_published_architectures_are_the_same_without_speed_ups(name, size, monkeypatch):
    kind, config = NETS[name]
    torch.manual_seed(0)
    net, picture = kind(**config), torch.rand(1, 3, 64, 64)
    plain_net = copy.deepcopy(net)
    ours = Codebook(name, net, 64)
    monkeypatch.setattr(fast, "enabled", False)
    plain = Codebook(name, plain_net, 64)
    for generator in (ours, plain):
        generator.precision = "fp32"
    assert_agree(image_and_gradient(ours, size), image_and_gradient(plain, size))
    assert torch.equal(ours.tokens(ours.encode(picture)), plain.tokens(plain.encode(picture)))
    layers = {type(layer) for layer in plain.net.modules()}
    assert not {layer for layer in layers if layer.__module__.startswith("clipgen.fast")}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["ViT-B-32", "RN50"])
def test_a_clip_is_the_same_without_speed_ups(architecture, monkeypatch):
    visual = open_clip.create_model(architecture).visual.eval().requires_grad_(False)
    quick = fast.optimize_for(copy.deepcopy(visual), torch.device("cpu"), save_memory=False, channels_last=False)
    results = []
    for tower in (quick, visual):
        images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0), requires_grad=True)
        embeddings = tower(images)
        results.append((embeddings.detach(), torch.autograd.grad(embeddings.square().sum(), images)[0]))
    assert_agree(*results)


@pytest.mark.parametrize("name", ["mini", "evaluator"])
def test_a_builtin_clip_is_the_same_without_speed_ups(name, monkeypatch):
    images = torch.rand(2, 3, 64, 64)
    ours = clipgen.load_perceptor(name, precision="fp32").encode_image(images)
    monkeypatch.setattr(fast, "enabled", False)
    torch.testing.assert_close(clipgen.load_perceptor(name, precision="fp32").encode_image(images), ours)


def test_each_class_that_is_improved_exists():
    for name in FASTER_LAYERS | LEANER_LAYERS:
        module, _, kind = name.rpartition(".")
        assert issubclass(resolve_name(f"{module}:{kind}"), torch.nn.Module)


def test_improving_a_net_again_changes_nothing():
    net = VQModel(**NETS["vqgan"][1]).eval().requires_grad_(False)
    once = fast.optimize_for(net, torch.device("cpu"))
    kinds = [type(layer) for layer in once.modules()]
    assert kinds == [type(layer) for layer in fast.optimize_for(once, torch.device("cpu")).modules()]


@pytest.mark.slow
def test_a_run_without_speed_ups(tmp_path):
    """In a process of its own: every optimiser is torch's, and no option of malloc is set."""
    code = """
import os, sys, clipgen
from clipgen import fast
from clipgen.fast import allocator
assert not fast.enabled and "THP_MEM_ALLOC_ENABLE" not in os.environ
calls = []
allocator._mallopt = lambda *options: calls.append(options)
for generator, more in (("mini-vqgan", {}), ("mini-dvae", {"relax": "gumbel"}), ("stack", {"optimizer": "AdamW"})):
    run = clipgen.Run("a cat", folder=sys.argv[1], generator=generator, steps=2, cutouts=2, size=(32, 32), **more)
    frames = list(run)
    assert len(frames) and type(run.optimization.optimizer).__module__.startswith("torch.optim")
assert clipgen.Run.resume(run.journal.folder).finished and not calls
"""
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    environment |= {"CLIPGEN_FAST": "0"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, check=True)
