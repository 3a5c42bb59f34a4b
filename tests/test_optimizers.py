"""Momentum and clipped gradients, against torch's own, and what an optimiser refuses."""

import pytest
import torch

import clipgen
from clipgen.errors import ClipgenError
from clipgen.optimizers import OptimizerConfig


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_and_clipping_are_torchs(nesterov):
    config = OptimizerConfig(optimizer="SGD", lr=5.0, momentum=0.9, nesterov=nesterov, clip_grad=0.1)
    ours, theirs = (torch.ones(2, 3, requires_grad=True) for _ in range(2))
    optimizer = config.create(ours)
    reference = torch.optim.SGD([theirs], lr=5.0, momentum=0.9, nesterov=nesterov)
    for step in range(5):
        gradient = torch.randn(2, 3, generator=torch.Generator().manual_seed(step)) * (0.01 if step == 2 else 1)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        config.clip_gradient_(ours.grad)
        torch.nn.utils.clip_grad_norm_(theirs, 0.1)
        optimizer.step()
        reference.step()
        assert torch.allclose(ours, theirs, atol=1e-6)
    assert (ours - 1).abs().max() > 0.1


SGD = {"optimizer": "SGD", "momentum": 0.9, "nesterov": True}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [SGD, {"optimizer": "Adafactor"}], ids=["SGD", "Adafactor"])
def test_a_run_resumes_with_its_momentum(optimizer, tmp_path):
    quick = {"generator": "pixels", "init": "perlin", "size": (64, 64), "cutouts": 2, "steps": 6, "every": 1}
    quick |= {"lr": 50.0, "clip_grad": 0.1, "folder": tmp_path} | optimizer
    whole = clipgen.Run("a cat", **quick)
    frames = [frame.image.tobytes() for frame in whole]
    half = clipgen.Run("a cat", like=whole, **quick)
    for frame in half:
        if frame.step == 3:
            half.stop()
    assert [frame.image.tobytes() for frame in clipgen.Run.resume(half.journal.folder, like=whole)] == frames[3:]


def test_what_makes_no_sense_is_said():
    with pytest.raises(ClipgenError, match=r"momentum=0\.9: Adam takes none; choose optimizer='SGD'"):
        OptimizerConfig(momentum=0.9)
    with pytest.raises(ClipgenError, match="nesterov=True: needs optimizer='SGD' and a momentum"):
        OptimizerConfig(optimizer="SGD", nesterov=True)
