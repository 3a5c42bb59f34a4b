import pytest
import torch

from clipgen.fast import adam


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_moves_as_torch_does(name, decay, layout):
    rng = torch.Generator().manual_seed(0)
    start, gradients = torch.randn(1, 4, 8, 8, generator=rng), torch.randn(12, 1, 4, 8, 8, generator=rng)
    start = start.contiguous(memory_format=layout)
    ours, theirs = (start.clone().requires_grad_() for _ in range(2))
    options = {"lr": 0.1, "betas": (0.9, 0.99), "weight_decay": decay}
    mine, other = getattr(adam, name)([ours], **options), getattr(torch.optim, name)([theirs], **options)
    for n, gradient in enumerate(gradients):
        if n == 6:  # both go on from what torch told
            told = other.state_dict()
            mine, other = getattr(adam, name)([ours], **options), getattr(torch.optim, name)([theirs], **options)
            mine.load_state_dict(told)
            other.load_state_dict(told)
        for latent, mover in ((ours, mine), (theirs, other)):
            mover.zero_grad()
            assert latent.grad is None
            latent.grad = gradient.clone()
            mover.param_groups[0]["lr"] = 0.1 / (n + 1)
            mover.step()
        assert torch.equal(ours, theirs)
    assert all(torch.equal(mine.state[key], value) for key, value in other.state_dict()["state"][0].items())


@pytest.mark.parametrize("shape", [(5,), (3, 7)])
def test_any_shape_moves(shape):
    latent = torch.ones(shape, requires_grad=True)
    mover = adam.Adam([latent], 0.1, (0.9, 0.99))
    latent.grad = torch.ones(shape)
    mover.step()
    torch.testing.assert_close(latent.detach(), torch.full(shape, 0.9))
