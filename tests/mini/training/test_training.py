"""What all stages share, on nets that train in a fraction of a second."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from clipgen import device as devices
from clipgen.mini.training.training import Job, Training, learning_rate
from clipgen.mini.training.vqgan import CodebookAverage


@pytest.fixture
def job(tmp_path, monkeypatch):
    """One minute by a clock that goes on by a second when it is asked: 60 steps on every machine."""
    clock = SimpleNamespace(monotonic=itertools.count(0.0).__next__)
    monkeypatch.setattr("clipgen.mini.training.training.time", clock)
    return Job(tmp_path, tmp_path, 1, torch.device("cpu"))


def learn(job: Job, model: nn.Module) -> tuple[list[float], list[float]]:
    """Progress and losses of a net that learns to add two numbers."""
    training = Training(job, "adder", {"model": model}, torch.optim.AdamW(model.parameters()), peak=0.1, clip=1.0)
    way, losses = [], []
    for progress in training:
        pairs = torch.rand(64, 2)
        loss = (model(pairs)[:, 0] - pairs.sum(1)).square().mean()
        training.step(loss)
        if training.due:
            training.log(loss=loss)
        way.append(progress)
        losses.append(loss.item())
    return way, losses


def test_a_training_goes_on_from_its_checkpoint(job, capsys):
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    way, losses = learn(job, model)
    assert way == [i / 60 for i in range(60)] and losses[-1] < losses[0] / 10
    state = job.read("adder")
    assert set(state) == {"model", "average", "spent", "steps"} and (state["spent"], state["steps"]) == (60, 60)
    assert torch.equal(state["model"]["weight"], model.weight)
    told = capsys.readouterr().out.splitlines()
    assert told == [f"adder    0.0 min  step 0  loss {losses[0]:.4f}", "adder: 1 s a step, time for about 57 more"]

    way, again = learn(Job(job.cache, job.out, 2, job.device), nn.Linear(2, 1))
    assert way == [i / 120 for i in range(60, 120)] and job.read("adder")["steps"] == 120
    assert again[0] < losses[0] / 10, "it starts with what was learnt"


def test_the_average_ships(job):
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    learn(job, model)
    shipped = job.trained("adder", nn.Linear(2, 1))
    assert not torch.equal(shipped.weight, model.weight) and not shipped.weight.requires_grad
    assert (shipped.weight - model.weight).abs().max() < 0.2


def test_the_learning_rate_rises_and_falls():
    groups = [{"params": [nn.Parameter(torch.zeros(1))]}, {"params": [nn.Parameter(torch.zeros(1))], "scale": 0.5}]
    optimiser = torch.optim.SGD(groups)
    rates = []
    for progress in (0, 0.02, 0.5, 1):
        learning_rate(optimiser, 2.0, progress)
        full, half = (group["lr"] for group in optimiser.param_groups)
        assert half == full / 2
        rates.append(full)
    assert rates == pytest.approx([0.02, 2.0, 1.01, 0.02], rel=0.01)


@pytest.mark.parametrize(
    ("suits", "name", "precision"),
    [("bf16", "bf16", torch.bfloat16), ("fp16", "fp32", torch.float32), ("fp32", "fp32", torch.float32)],
)
def test_trained_in_bf16_where_that_suits_the_device_and_never_in_fp16(job, monkeypatch, suits, name, precision):
    monkeypatch.setattr(devices, "best_precision", lambda *facts: suits)
    with job.autocast():
        assert nn.Linear(2, 1)(torch.rand(1, 2)).dtype is precision
    assert str(job) == f"1 minutes on cpu ({torch.get_num_threads()} threads) in {name}"


def test_unused_codes_start_again_from_the_batch():
    codebook = nn.Parameter(torch.zeros(8, 2), requires_grad=False)
    points = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(50, 1)
    CodebookAverage(codebook, fresh=True).update(points, torch.zeros(100, dtype=torch.int64))
    assert {tuple(code) for code in codebook[1:].tolist()} == {(0.0, 1.0), (1.0, 0.0)}
