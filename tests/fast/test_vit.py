"""A ViT's layers as they are computed faster, against torch's own."""

import copy

import pytest
import torch
from torch import nn

from clipgen.fast.layers import MAX_WRITTEN_OUT, PatchEmbedding, SelfAttention


def improved(layer, kind):
    twin = copy.deepcopy(layer)
    twin.__class__ = kind
    return twin


def gradient(layer, x, out):
    (made,) = torch.autograd.grad((layer(x).double() * out).sum(), x)
    return made


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(64, 64), (96, 64), (70, 81)])
def test_patches_are_the_convolutions(bias, size):
    convolution = nn.Conv2d(3, 12, 16, 16, bias=bias).double().requires_grad_(False)
    x = torch.randn(2, 3, *size).double().requires_grad_()
    ours, theirs = improved(convolution, PatchEmbedding), convolution
    out = theirs(x).detach()
    assert ours(x).shape == out.shape and torch.allclose(ours(x), out)
    assert torch.allclose(gradient(ours, x, out), gradient(theirs, x, out))


@pytest.mark.parametrize("places", [50, MAX_WRITTEN_OUT + 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_torchs_written_out_or_fused(places, dtype):
    theirs = nn.MultiheadAttention(64, 4, batch_first=True).requires_grad_(False).eval()
    nn.init.normal_(theirs.in_proj_weight, std=0.3)
    ours = improved(theirs, SelfAttention)
    x = torch.randn(2, places, 64, requires_grad=True)
    exact = theirs(x, x, x, need_weights=False)[0].detach()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        made = ours(x)[0]
        assert ours(x, attn_mask=torch.zeros(places, places))[0].shape == made.shape
    close = 1e-5 if dtype == torch.float32 else 0.05
    assert (made - exact).norm() < close * exact.norm()
    moved = gradient(lambda x: ours(x)[0], x, made.detach().double())
    wanted = gradient(lambda x: theirs(x, x, x, need_weights=False)[0], x, made.detach().double())
    assert (moved - wanted).norm() < close * wanted.norm()
