"""Loss scaling: what fp16 cannot hold costs a step, never the learning rate."""

import numpy as np
import pytest
import torch

import clipgen
from clipgen.optimize import LossScaler

HALF = {"generator": "pixels", "init": "noise", "precision": "fp16", "size": (64, 64), "cutouts": 1, "every": 1}


def overflows(it, *gradient):
    """What a step does with its gradient."""
    made = torch.tensor(gradient)
    it.unscale_(made)
    return it.update(bool(made.isfinite().all()))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_without_fp16_nothing_is_scaled(precision):
    it, gradient = LossScaler(precision), torch.tensor([3.0, float("inf")])
    it.unscale_(gradient)
    assert gradient[0] == 3 and not it.update(False) and it.scale == 1


def test_the_factor_falls_where_it_is_too_large_and_rises_with_patience():
    it, gradient = LossScaler("fp16"), torch.ones(2)
    it.unscale_(gradient)
    assert gradient.tolist() == [1 / LossScaler.INIT_SCALE] * 2 and not it.update(True)
    assert overflows(it, 1.0, float("inf")) and it.scale == LossScaler.INIT_SCALE / 4
    assert overflows(it, float("nan"), 1.0) and it.scale == LossScaler.INIT_SCALE / 16
    for _ in range(LossScaler.GROWTH_INTERVAL - 1):
        assert not overflows(it, 1.0)
    assert it.scale == LossScaler.INIT_SCALE / 16
    assert not overflows(it, 1.0) and it.scale == LossScaler.INIT_SCALE / 8


def test_what_is_not_finite_without_a_factor_is_no_matter_of_scale():
    it = LossScaler("fp16")
    while it.scale > 1:
        assert overflows(it, float("nan"))
    assert not overflows(it, float("nan")) and it.scale == 1
    for _ in range(LossScaler.GROWTH_INTERVAL):
        overflows(it, 1.0)
    assert it.scale == 2, "it comes back"


@pytest.mark.slow
def test_an_overflow_is_skipped_and_nothing_else(monkeypatch, tmp_path, recwarn):
    """From a factor that is far too large: some steps are skipped, then the run goes on at its full rate."""
    monkeypatch.setattr(LossScaler, "INIT_SCALE", 2.0**30)
    run = clipgen.Run("a red apple", folder=tmp_path, steps=7, **HALF)
    latents, factors = [], []
    for _ in run:
        latents.append(run.optimization.latent.detach().clone())
        factors.append(run.optimization.loss_scaler.scale)
    skipped = [n for n in range(1, 7) if torch.equal(latents[n], latents[n - 1])]
    assert skipped == list(range(1, len(skipped) + 1)) and 1 <= len(skipped) < 6
    assert factors == [2.0**30 / 4 ** (1 + min(n, len(skipped))) for n in range(7)]
    assert run.optimization.lr_scale == 1 and run.optimization.nonfinite_steps == 0 and not run.optimization.diverged
    assert not [warning for warning in recwarn if "not finite" in str(warning.message)]


@pytest.mark.parametrize("state", [["x", 0], [0.0, 0], [-4096.0, 0], [[], 0], [4096.0, "x"], [4096.0]])
def test_a_damaged_state_is_refused(state):
    with pytest.raises((ValueError, TypeError, IndexError)):
        LossScaler("fp16").restore(state)


def _nothing(image, latent, step):
    return image.sum() * float("nan")


def test_a_loss_that_is_not_finite_still_stops_the_run(tmp_path):
    run = clipgen.Run("a cat", folder=tmp_path, losses=[_nothing], **HALF)
    with pytest.warns(UserWarning, match="not finite three times in a row"):
        assert len(list(run)) == 3
    assert run.optimization.loss_scaler.scale == LossScaler.INIT_SCALE


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_its_factor(monkeypatch, tmp_path):
    monkeypatch.setattr(LossScaler, "INIT_SCALE", 2.0**28)
    whole = clipgen.Run("a cat", folder=tmp_path / "whole", steps=6, **HALF)
    list(whole)
    run = clipgen.Run("a cat", folder=tmp_path / "cut", like=whole, steps=6, **HALF)
    for frame in run:
        if frame.step == 3:
            run.stop()
    run = clipgen.Run.resume(run.journal.folder, like=whole)
    list(run)
    assert (
        run.optimization.loss_scaler.state == whole.optimization.loss_scaler.state
        and run.optimization.loss_scaler.scale < 2.0**28
    )
    assert np.array_equal(run.image, whole.image)
