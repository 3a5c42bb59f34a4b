"""fp16's range: what nets of published size compute stays within it, or is computed in fp32; so does the gradient."""

import math
from copy import deepcopy

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import clipgen
from clipgen.cutouts import CutoutConfig
from clipgen.generators.catalogue import GENERATORS
from clipgen.generators.codebook import Codebook
from clipgen.generators.dvae import DVAE
from clipgen.generators.vae import TAESD, VAE
from clipgen.generators.vqgan import VQModel
from clipgen.images.camera import Camera
from clipgen.losses import StepSpec
from clipgen.losses.prompt_loss import PromptLoss, Region
from clipgen.optimize import LossScaler, Optimization
from clipgen.optimizers import OptimizerConfig
from clipgen.precision import MixedPrecision
from clipgen.prompts import Prompt

LARGEST = torch.finfo(torch.float16).max  # 65,504
SIZE = (64, 64)
SMALL = {"ch": 32, "ch_mult": (1, 2), "num_res_blocks": 1, "resolution": 64, "z_channels": 32, "embed_dim": 32}


class Peak(TorchDispatchMode):
    """The largest number that any operation gives, between layers and within them."""

    highest = 0.0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        given = function(*arguments, **(options or {}))
        for each in given if isinstance(given, (tuple, list)) else (given,):
            if isinstance(each, torch.Tensor) and each.is_floating_point() and each.numel():
                self.highest = max(self.highest, float(each.abs().max()))
        return given


def generator(name, **narrower):
    """A catalogued generator of its real depth, with the weights that a training would start with."""
    entry = GENERATORS[name]
    if entry.loader.endswith("vae:load") and not entry.codebook_size:
        return VAE(name, TAESD(**entry.config), entry.native_size, torch.device("cpu"))
    net = (DVAE if name == "dvae" else VQModel)(**(entry.config | narrower))
    if name != "dvae":
        net.codebook.data.normal_()
    return Codebook(name, net, entry.native_size)


@pytest.fixture
def small_texts(monkeypatch):
    """open_clip's architectures with the beginning of their text tower, which is not looked at here."""
    configs = deepcopy(open_clip.factory._MODEL_CONFIGS)
    for config in configs.values():
        config["text_cfg"]["layers"] = 1
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", configs)
    return configs


def perceptor(architecture, folder):
    """An architecture of open_clip, with the weights that a training would start with."""
    file = folder / "clip.safetensors"
    save_file(open_clip.create_model(architecture).half().state_dict(), file)  # the half to write and to read
    return clipgen.load_perceptor(f"{architecture}/{file}")


def peak(function, *arguments):
    with torch.no_grad(), Peak() as seen:
        function(*arguments)
    assert math.isfinite(seen.highest)
    return seen.highest


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["vqgan_imagenet_f16_16384", "vqgan_openimages_f8_8192", "llamagen_vq16", "dvae", "taesd"]
)
def test_a_published_generator_stays_within_the_range(name):
    made, picture = generator(name), torch.rand(1, 3, *SIZE)
    latent = made.encode(picture)
    assert 0.1 < peak(made.encode, picture) < LARGEST
    assert 0.1 < peak(made.image, latent) < LARGEST


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["ViT-B-32", "RN50", "ViT-B-16-SigLIP2", "MobileCLIP2-S0", "convnext_base"])
def test_a_published_perceptor_stays_within_the_range(architecture, tmp_path, small_texts, monkeypatch):
    monkeypatch.setattr("open_clip.get_tokenizer", lambda name: open_clip.SimpleTokenizer())  # SigLIP's is not here
    if architecture == "ViT-B-16-SigLIP2":  # its 256,000 words take longer to write and read than its picture tower
        small_texts[architecture]["text_cfg"]["vocab_size"] = 49_408
    made = perceptor(architecture, tmp_path)
    assert 0.1 < peak(made.encode_image, torch.rand(1, 3, made.size, made.size)) < LARGEST


@pytest.mark.parametrize("name", ["mini-vqgan", "mini-dvae"])
def test_embedded_generators_say_whether_they_do(name):
    made, rng = clipgen.load_generator(name), torch.Generator().manual_seed(0)
    highest = max(peak(made.image, made.start(SIZE, rng)), peak(made.encode, torch.rand(1, 3, *SIZE)))
    assert GENERATORS[name].overflows_fp16 == (highest >= LARGEST)
    asked = clipgen.load_generator(name, precision="fp16")
    assert asked.precision == ("fp32" if GENERATORS[name].overflows_fp16 else "fp16")
    assert asked.image(asked.start(SIZE, rng)).isfinite().all()


def test_the_embedded_perceptor_stays_within_the_range():
    assert peak(clipgen.load_perceptor("mini").encode_image, torch.rand(2, 3, 64, 64)) < LARGEST


# --- what leaves it ----------------------------------------------------------------------------------


def test_a_net_that_leaves_the_range_is_computed_in_fp32():
    net = VQModel(n_embed=16, **SMALL)
    net.decoder.conv_in.weight.data *= 1e7
    made = Codebook("wild", net, 64)
    latent = made.start(SIZE, torch.Generator().manual_seed(0)).requires_grad_()
    wanted = made.image(latent)
    (expected,) = torch.autograd.grad(wanted.mean(), latent)
    made.precision = "fp16"
    with pytest.warns(UserWarning, match="wild leaves the range of fp16: it is computed in fp32"):
        picture = made.image(latent)
    (gradient,) = torch.autograd.grad(picture.mean(), latent)
    assert made.precision == "fp32" and torch.equal(picture, wanted) and torch.equal(gradient, expected)
    assert wanted.isfinite().all() and wanted.std() > 0.01


def test_a_net_that_cannot_be_cast_for_want_of_memory_stays_in_fp16():
    class Short(torch.nn.Linear):
        def parameters(self, recurse=True):
            yield self.weight
            raise MemoryError

    model = MixedPrecision()
    model.name, model.precision, model.net = "any", "fp16", Short(4, 4).half()
    with pytest.warns(UserWarning, match="leaves the range"), pytest.raises(MemoryError):
        model.leave_fp16()
    assert model.precision == "fp16" and model.net.weight.dtype == torch.float32


@pytest.mark.slow
def test_a_perceptor_that_leaves_the_range_is_computed_in_fp32(tmp_path, small_texts):
    made = perceptor("ViT-B-32", tmp_path)
    made.net.visual.conv1.weight.data *= 1e7
    seen = torch.rand(1, 3, 224, 224)
    wanted, made.precision = made.encode_image(seen), "fp16"
    with pytest.warns(UserWarning, match="leaves the range of fp16"):
        assert torch.equal(made.encode_image(seen), wanted)
    assert made.precision == "fp32"


@pytest.mark.parametrize(("precision", "x"), [("fp16", float("nan")), ("bf16", 1.0), ("fp32", 1.0)])
def test_the_range_is_blamed_for_nothing_else(precision, x, recwarn):
    model = MixedPrecision()
    model.name, model.precision = "any", precision
    assert not model.compute(lambda x: x / 0 * 0, torch.tensor([x])).isfinite().any()
    assert model.precision == precision and not recwarn.list


# --- the gradient ------------------------------------------------------------------------------------


def gradient(made, seer, precision, size):
    """What the first step of a run finds, of one view."""
    made.precision = seer.precision = precision
    rng = torch.Generator().manual_seed(0)
    latent = made.start(size, rng)
    width = seer.embed_text(["a cat"]).shape[1]
    target = F.normalize(torch.randn(1, width, generator=rng), dim=-1)
    prompts, cutouts, share = [Prompt("a cat")], CutoutConfig(cutouts=1), [(seer, 1.0)]
    asked = PromptLoss(prompts, share, [target], [Region([0])], cutouts)
    parts = {"generator": made, "perceptors": share, "prompts": prompts, "losses": [asked], "init_targets": []}
    parts |= {"optimizer": OptimizerConfig(), "camera": Camera.parse(""), "mask": None, "cutouts": cutouts}
    spec = StepSpec(**parts, steps=9, precision=precision)
    optimization = Optimization(spec, latent, torch.zeros(1, 3, *size), rng)
    optimization.advance()
    assert made.precision == seer.precision == precision and optimization.lr_scale == 1
    return optimization.latent.grad.flatten()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "architecture", "narrower"),  # fp16 is slow on a CPU: as deep as published, fewer channels
    [("dvae", "ViT-B-32", {"n_hid": 64}), ("vqgan_imagenet_f16_16384", "RN50", {"ch": 64})],
)
def test_the_gradient_in_fp16_points_where_that_in_fp32_does(
    name, architecture, narrower, tmp_path, small_texts, monkeypatch
):
    """Within 2%; unscaled it does not, where a net makes gradients small, as a ResNet with random weights does."""
    torch.manual_seed(0)
    if architecture == "RN50":
        small_texts[architecture]["vision_cfg"]["width"] = 32
    made, seer = generator(name, **narrower), perceptor(architecture, tmp_path)
    full, half = (gradient(made, seer, precision, (32, 32)) for precision in ("fp32", "fp16"))
    assert full.norm() > 0 and F.cosine_similarity(full, half, dim=0) > 0.98
    assert half.norm() / full.norm() == pytest.approx(1, abs=0.05)
    if architecture == "RN50":
        monkeypatch.setattr(LossScaler, "INIT_SCALE", 1.0)
        assert F.cosine_similarity(full, gradient(made, seer, "fp16", (32, 32)), dim=0) < 0.97
