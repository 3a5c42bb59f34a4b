"""Layers whose weights stay: the same numbers as torch's, with less kept for the way back."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clipgen.device import resolve_precision
from clipgen.fast.layers import FrozenConv2d, FrozenNormSiLU, MaskReLU
from clipgen.generators.codebook import Codebook
from clipgen.generators.dvae import DVAE
from clipgen.generators.vqgan import VQModel
from clipgen.memory import saved_bytes


def told(function, x):
    """What a function makes of x, its gradient, and the bytes that it keeps beside its output."""
    made = function(x)
    (gradient,) = torch.autograd.grad(made.square().sum(), x)
    return made, gradient, saved_bytes(lambda: function(1 * x)) - made.numel() * made.element_size()


@pytest.mark.slow
@pytest.mark.parametrize(("side", "stride", "padding"), [(1, 1, 0), (3, 1, 1), (3, 2, 0), (7, 1, 3)])
@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("size", [16, 160])  # below and above FLIPPED_FROM pixels
def test_a_convolution_is_torchs_without_its_input(side, stride, padding, narrow, size):
    x = torch.randn(2, 8, size, size).contiguous(memory_format=torch.channels_last).requires_grad_()
    layer = FrozenConv2d(8, 6, side, stride, padding).requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        ours = told(layer, x)
        theirs = told(lambda x: F.conv2d(x, layer.weight, layer.bias, stride, padding), x)
    assert torch.equal(ours[0], theirs[0])
    rounding = 2**-7 if narrow else 1e-4
    if narrow and resolve_precision(torch.device("cpu")) == "fp32":
        # Without bf16 in the processor torch's own backward pass rounds more often: both are held to fp32's instead.
        exact = told(layer, x)[1]
        ours_off, theirs_off = ((gradient - exact).norm() for gradient in (ours[1], theirs[1]))
        assert ours_off <= 1.1 * theirs_off
    else:
        torch.testing.assert_close(ours[1], theirs[1], rtol=rounding, atol=rounding)
    assert theirs[2] - ours[2] >= x.numel() * (2 if narrow else 4)


def test_a_convolution_that_learns_is_torchs():
    x, layer = torch.randn(1, 4, 8, 8, requires_grad=True), FrozenConv2d(4, 4, 3, padding=1)
    layer(x).sum().backward()
    assert layer.weight.grad.abs().sum() > 0 and x.grad.abs().sum() > 0


def test_a_relu_is_torchs_in_a_byte():
    x = torch.randn(2, 8, 16, 16, requires_grad=True)
    ours, theirs = told(MaskReLU(), x), told(nn.ReLU(), x)
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
    assert ours[2] < theirs[2] and ours[2] % x.numel() == 0
    wild = torch.full_like(x, torch.inf)
    assert torch.equal(*(torch.autograd.grad(relu(x), x, wild)[0] for relu in (MaskReLU(), nn.ReLU())))


@pytest.mark.parametrize("channels", [64, 128, 1024])  # 2, 4 and 32 a group: own sums, and torch's
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_norm_and_silu_are_torchs_and_keep_the_input_alone(channels, dtype):
    norm = FrozenNormSiLU(32, channels, eps=1e-6).requires_grad_(False)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    wide = torch.randn(2, channels, 12, 10, generator=torch.Generator().manual_seed(0))
    wide = (3 * wide + 5 * torch.randn(channels, 1, 1)).contiguous(memory_format=torch.channels_last).double()
    x = wide.to(dtype).requires_grad_()
    norm.to(torch.float64 if dtype == torch.float64 else torch.float32)
    made, gradient, kept_bytes = told(norm, x)
    exact = nn.GroupNorm(32, channels, eps=1e-6).double()
    exact.load_state_dict(norm.state_dict())
    wanted = told(lambda x: F.silu(exact(x)), x.detach().double().requires_grad_())
    for ours, theirs in zip((made, gradient), wanted[:2], strict=True):
        away = (ours.double() - theirs).norm() / theirs.norm()
        assert away < {torch.float32: 1e-5, torch.bfloat16: 0.015, torch.float64: 1e-12}[dtype]
    assert kept_bytes < 1.1 * x.numel() * x.element_size(), "torch keeps what the norm made, too"


def test_a_norm_that_learns_is_torchs():
    norm, x = FrozenNormSiLU(2, 4), torch.randn(1, 4, 8, 8, requires_grad=True)
    norm(x).sum().backward()
    assert norm.weight.grad.abs().sum() > 0 and x.grad.abs().sum() > 0
    assert torch.equal(norm(x), F.silu(F.group_norm(x, 2, norm.weight, norm.bias)))


NETS = {
    "dvae": (DVAE, {"n_hid": 16, "n_init": 8, "vocab_size": 32}),
    "vqgan": (VQModel, {"n_embed": 16, "ch": 32, "ch_mult": (1, 2), "num_res_blocks": 1, "resolution": 64,
                        "z_channels": 32, "embed_dim": 32}),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_weights_in_bf16_are_what_autocast_makes_of_them(name):
    """A net that is settled in bf16 against one that only computes in it: the same picture, the same gradient."""
    build, config = NETS[name]
    wide = Codebook("wide", build(**config), 64)
    settled = Codebook("settled", copy.deepcopy(wide.net), 64)
    wide.precision = "bf16"
    settled.set_precision("bf16")
    latent = wide.start((64, 64), torch.Generator().manual_seed(0)).requires_grad_()
    pictures = [made.image(latent) for made in (wide, settled)]
    gradients = [torch.autograd.grad(picture.square().mean(), latent)[0] for picture in pictures]
    assert torch.equal(*pictures) and torch.equal(*gradients) and gradients[0].abs().sum() > 0
    assert settled.codebook.dtype == torch.float32 and torch.equal(settled.tokens(latent), wide.tokens(latent))
    layers = [layer for layer in settled.net.decoder_layers.modules() if hasattr(layer, "padding_mode")]
    assert layers and all(weight.dtype == torch.bfloat16 for layer in layers for weight in layer.parameters())
    assert {weight.dtype for weight in settled.net.encoder.parameters()} == {torch.float32}
    settled = Codebook("fp16", copy.deepcopy(wide.net), 64)
    settled.set_precision("fp16")
    layers = [layer for layer in settled.net.decoder_layers.modules() if hasattr(layer, "padding_mode")]
    assert all(weight.dtype == torch.float16 for layer in layers for weight in layer.parameters())
    with pytest.warns(UserWarning, match="leaves the range of fp16"):
        settled.leave_fp16()
    assert {weight.dtype for weight in settled.net.parameters()} == {torch.float32}
