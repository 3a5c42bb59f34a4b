"""Memory: what a step keeps is foretold, a step that would not fit is parted, and running out of it is survived."""

import numpy as np
import pytest
import torch

import clipgen
from clipgen import memory
from clipgen.errors import ClipgenError
from clipgen.generators import wrap_edges
from clipgen.precision import CheckpointedBlock

FEW = {"generator": "mini-vqgan", "init": "random", "device": "cpu"}
FEW |= {"steps": 2, "every": 1, "cutouts": 4, "size": (64, 64)}


@pytest.fixture(scope="module")
def ample(tmp_path_factory):
    run = clipgen.Run("a cat", folder=tmp_path_factory.mktemp("ample"), **FEW)
    list(run)
    return run


@pytest.fixture
def fresh(tmp_path):
    """A run that has not begun."""
    return clipgen.Run("a cat", folder=tmp_path, **FEW)


def test_what_is_kept_is_counted_without_the_weights():
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv2d(8, 2, 1))
    net.requires_grad_(False)
    x = torch.rand(1, 3, 16, 16, requires_grad=True)
    assert memory.saved_bytes(lambda: net(x)) == 4 * 16 * 16 * (8 + 8 + 2), (
        "what silu and the last layer saw, and the result"
    )


@pytest.mark.parametrize("generator", ["mini-vqgan", "mini-dvae"])
def test_a_small_latent_foretells_what_a_large_one_keeps(generator, ample):
    param = clipgen.load_generator(generator)
    latent = param.start((256, 192), torch.Generator().manual_seed(0)).requires_grad_()
    spec = ample.optimization.spec
    told = memory.decoder_bytes(type("Spec", (), {"generator": param}), latent)
    assert told == pytest.approx(memory.saved_bytes(lambda: param.image(latent)), rel=0.2)
    assert memory.cutout_bytes(spec) > 0


@pytest.mark.slow
@pytest.mark.parametrize("share, sparing, fits", [(1.0, False, True), (0.7, True, True), (0.0, True, False)])
def test_a_step_is_parted_as_the_free_memory_asks(share, sparing, fits, ample, fresh, monkeypatch):
    """``share``: of what the decoder keeps is free, beside a third of the views."""
    spec, latent = ample.optimization.spec, ample.optimization.latent
    room = memory.MARGIN * (share * memory.decoder_bytes(spec, latent) + memory.cutout_bytes(spec) / 3)
    monkeypatch.setattr(memory, "free_bytes", lambda device: room if share else 0)
    with pytest.warns(
        UserWarning, match="64x64 with 4 cutouts needs about .* free: " + ("passes" if fits else "it may")
    ):
        list(fresh)
    blocks = [
        block for block in fresh.optimization.spec.generator.net.modules() if isinstance(block, CheckpointedBlock)
    ]
    assert fresh.optimization.memory.passes > 1 and all(block.checkpointed is sparing for block in blocks)
    # In parts the sums are rounded otherwise.
    assert np.abs(np.asarray(fresh.image, int) - np.asarray(ample.image, int)).mean() < 2


def test_a_sparing_decoder_has_the_same_gradient():
    param = clipgen.load_generator()
    latent = param.start((64, 64), torch.Generator().manual_seed(0)).requires_grad_()
    full = memory.saved_bytes(lambda: param.image(latent))
    (before,) = torch.autograd.grad(param.image(latent).square().sum(), latent)
    assert param.enable_checkpointing() and not param.enable_checkpointing(), "once is all"
    assert memory.saved_bytes(lambda: param.image(latent)) < full / 2
    (after,) = torch.autograd.grad(param.image(latent).square().sum(), latent)
    assert torch.equal(before, after)


def test_a_seamless_picture_computed_again_is_seamless_too():
    """What it forgets has the other side around it on the way back, and not the zeros of the net that it shares."""
    param = clipgen.load_generator()
    tile, latent = wrap_edges(param), param.start((64, 64), torch.Generator().manual_seed(0)).requires_grad_()
    (before,) = torch.autograd.grad(tile.image(latent).square().sum(), latent)
    assert tile.enable_checkpointing() and not tile.enable_checkpointing() and param.enable_checkpointing(), (
        "each has a state of its own"
    )
    (after,) = torch.autograd.grad(tile.image(latent).square().sum(), latent)
    assert torch.equal(before, after)


def test_running_out_of_memory_in_the_decoder_is_survived(fresh, ample, monkeypatch):
    param = fresh.models.generator
    decode = param._decode

    def scarce(latent):
        net = fresh.optimization.spec.generator.net if latent.requires_grad else None
        if net and not any(getattr(block, "checkpointed", False) for block in net.modules()):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return decode(latent)

    monkeypatch.setattr(memory, "free_bytes", lambda device: None)
    monkeypatch.setattr(param, "_decode", scarce)
    with pytest.warns(UserWarning, match="memory is short"):
        list(fresh)
    assert fresh.finished and np.abs(np.asarray(fresh.image, int) - np.asarray(ample.image, int)).mean() < 2


def test_where_nothing_is_left_to_spare_the_remedy_is_said(fresh, monkeypatch):
    decode = fresh.models.generator._decode

    def never(latent):
        if latent.requires_grad:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return decode(latent)

    monkeypatch.setattr(memory, "free_bytes", lambda device: None)
    monkeypatch.setattr(fresh.models.generator, "_decode", never)
    with pytest.warns(UserWarning), pytest.raises(ClipgenError, match="lower size"):
        list(fresh)


def test_fewer_passes_are_not_asked_for_again_once_memory_ran_out(ample, recwarn):
    plan, optimization = memory.MemoryPlan(1), ample.optimization
    plan.handle_oom(MemoryError(), optimization.spec)
    plan.handle_oom(MemoryError(), optimization.spec)
    for passes, wanted in ((2, 4), (3, 4), (5, 5), (1, 4)):
        plan.set_passes(passes, optimization.spec, optimization.latent)
        assert plan.passes == wanted


def test_that_memory_ran_out_is_told_once_after_a_plan_with_more_passes_too(ample, recwarn):
    plan = memory.MemoryPlan(1)
    plan.passes = 2  # as planned, or restored
    plan.handle_oom(MemoryError(), ample.optimization.spec)
    assert plan.passes == 4 and [str(one.message)[:15] for one in recwarn] == ["memory is short"]
    plan.passes = 2
    plan.handle_oom(MemoryError(), ample.optimization.spec)
    assert plan.passes == 4 and len(recwarn) == 1
