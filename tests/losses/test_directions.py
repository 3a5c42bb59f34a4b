"""Directions between two texts, and units of a perceptor, as objectives."""

import pytest
import torch
from torch.nn import functional as F

import clipgen
from clipgen.clip import record_outputs
from clipgen.errors import ClipgenError
from clipgen.losses import StepContext
from clipgen.losses.prompt_loss import direction_distance
from clipgen.prompts import format_prompt, parse

QUICK = {"generator": "pixels", "init": "perlin", "size": (64, 64), "cutouts": 4, "near": 0.0}


@pytest.mark.parametrize("text", ["a photo -> a sketch", "a photo -> a sketch [left] :2 @3-9", r"16\:9 -> a|b"])
def test_a_direction_is_written_as_it_is_read(text):
    prompts = parse(text)
    assert prompts[0].source and not prompts[0].is_image
    assert parse(" | ".join(map(format_prompt, prompts))) == prompts


@pytest.mark.parametrize("text", [r"a \-> b", "a->b", r"\-> b", r"a \->"])
def test_a_plain_arrow_is_text(text):
    (prompt,) = parse(text)
    assert not prompt.source and parse(format_prompt(prompt)) == [prompt]


def test_a_direction_is_between_texts(tmp_path):
    for text in ("cat.png -> a sketch", "a photo -> ", "-> a sketch:2", "->"):
        with pytest.raises(ClipgenError, match="a direction is between two texts"):
            parse(text)
    with pytest.raises(ClipgenError, match="needs combine='losses'"):
        clipgen.Run("a cat -> a dog", combine="embeddings", folder=tmp_path)


def test_the_distance_is_stylegan_nadas():
    moves, directions = torch.randn(2, 5, 16)
    wanted = 1 - F.cosine_similarity(moves[:, None], directions[None], dim=-1)
    assert (direction_distance(moves, directions) - wanted).abs().max() <= 1e-6
    still = torch.zeros(1, 16, requires_grad=True)
    direction_distance(still, directions).sum().backward()
    assert still.grad.isfinite().all() and still.grad.norm() > 0


@pytest.mark.slow
@pytest.mark.parametrize("passes", [1, 3])
def test_it_is_measured_from_the_start_in_the_same_cutouts(passes, tmp_path):
    run = clipgen.Run("an apple -> a banana", **QUICK, folder=tmp_path)
    next(iter(run))
    optimization, loss = run.optimization, run.optimization.spec.losses[0]
    perceptor, image = run.models.perceptors[0][0], torch.rand(1, 3, 64, 64)
    context = StepContext(
        image,
        optimization.latent,
        1,
        optimization.spec,
        torch.Generator().manual_seed(0),
        passes,
        background=optimization.background,
    )
    value = float(sum(term.detach() for term in loss.terms(context)))
    views = loss.cutouts.sample(image.shape, 64, torch.Generator().manual_seed(0), perceptor.patches)
    now, start = (perceptor.encode_image(views.render(x)) for x in (image, optimization.background))
    one, other = perceptor.embed_text(["an apple", "a banana"])
    assert value == pytest.approx(float((1 - F.cosine_similarity(now - start, other - one)).mean()), abs=1e-5)


@pytest.mark.slow
def test_a_run_goes_the_way_of_the_texts(tmp_path):
    run = clipgen.generate("an apple -> a banana", **QUICK, steps=30, every=10, folder=tmp_path, progress=False)
    perceptor = run.models.perceptors[0][0]
    first, last = perceptor.embed_image([run.journal.frame(1), run.image])
    one, other = perceptor.embed_text(["an apple", "a banana"])
    assert F.cosine_similarity(last - first, other - one, dim=0) > 0.2
    again = clipgen.Run.replay(run.journal.folder, folder=tmp_path, like=run)
    assert [frame.image.tobytes() for frame in again][-1] == run.image.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("neuron", ["-1:5", "0:3"])
def test_a_unit_gets_what_it_wants_to_see(neuron, tmp_path):
    layer, unit = map(int, neuron.split(":"))

    def activity(run, frame):
        perceptor = run.models.perceptors[0][0]
        with record_outputs([perceptor.feature_layers[layer]]) as outputs:
            perceptor.embed_image([frame])
        return float(outputs[0][:, unit].mean() / outputs[0].square().mean().sqrt())

    quick = QUICK | {"steps": 20, "every": 10, "folder": tmp_path, "progress": False}
    run = clipgen.generate("a cat:0.01", neuron=neuron, neuron_weight=3.0, **quick)
    assert activity(run, run.image) > activity(run, run.journal.frame(1)) + 0.3


@pytest.mark.parametrize(
    ("neuron", "message"), [("7:0", "mini has layers 0 to 1"), ("-1:99999", r"this layer has units 0 to \d+")]
)
def test_a_unit_that_does_not_exist_is_refused_before_a_step(neuron, message, tmp_path):
    with pytest.raises(ClipgenError, match=message):
        clipgen.Run("a cat", neuron=neuron, **QUICK, folder=tmp_path)
    assert not [*tmp_path.iterdir()]
    run = clipgen.Run("a cat", **QUICK, steps=2, every=1, folder=tmp_path)
    frames = iter(run)
    next(frames)
    with pytest.raises(ClipgenError, match=message):
        run.change(neuron=neuron)
    assert [frame.step for frame in frames] == [2] and not run.journal.changes
