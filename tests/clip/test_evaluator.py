"""The embedded judge as a perceptor like any other."""

import pytest
import torch

import clipgen
from clipgen.generators.catalogue import GENERATORS
from clipgen.mini import held_out
from clipgen.mini.training.evaluate import retrieval
from clipgen.runs.presets import PRESETS


@pytest.mark.slow
def test_it_knows_drawings_that_it_has_not_seen():
    images, names = held_out()
    judge = clipgen.load_perceptor("evaluator")
    top1, top5 = retrieval(judge, images, names)
    assert top1 > 0.6 and top5 > 0.8


@pytest.mark.slow
def test_it_keeps_the_protocol(run):
    judge = clipgen.load_perceptor("evaluator")
    assert judge.name == "evaluator" and judge.size == 64 and judge.bias is None and judge.scale > 1
    assert judge.fits("a cat " * 500) and judge.embed_text(["", "a cat " * 500]).norm(dim=-1).allclose(torch.ones(2))
    image = torch.rand(2, 3, 64, 64, requires_grad=True)
    judge.encode_image(image).sum().backward()
    assert image.grad.abs().sum() > 0 and not any(weight.requires_grad for weight in judge.net.parameters())
    said = clipgen.rank([run.image], ["a red apple", "a blue car", "a cat"], perceptor=judge)
    assert said.argmax() == 0


def test_nothing_is_guided_by_it_unasked():
    asked = [entry.defaults for entry in GENERATORS.values()] + [*PRESETS.values()]
    names = [str(settings.get("perceptor", "")) for settings in asked] + [clipgen.Settings("a cat").perceptor]
    assert "mini" in names and not any("evaluator" in name for name in names)
    assert not any("judge" in settings for settings in asked) and clipgen.Settings("a cat").judge == ""
