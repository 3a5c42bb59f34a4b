"""Pictures in words, and the lasso that finds them."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import clipgen
from clipgen.cli import main
from clipgen.images.reading import to_image
from clipgen.inspect.describe import sparse_weights
from clipgen.mini.scenes import COLOURS
from clipgen.registry import VOCABULARIES


@pytest.mark.slow
@pytest.mark.parametrize(("vocabulary", "least"), [("sheet", 70), ("common", 65)])
def test_a_held_out_drawing_is_named_within_the_first_three(vocabulary, least, clip, drawings):
    pictures, names = drawings
    words = [*names, *COLOURS] if vocabulary == "sheet" else vocabulary
    hits = 0
    for picture, name in zip(pictures[:100], names, strict=False):
        found = clipgen.describe(picture, words, clip)
        hits += name in [word for word, _ in found.words[:3]]
    assert hits >= least


def test_what_is_said(clip, drawings):
    ambulance = to_image(drawings[0][drawings[1].index("ambulance")])
    found = clipgen.describe(ambulance, perceptor=clip)
    weights = [weight for _, weight in found.words]
    assert weights == sorted(weights, reverse=True) and min(weights) > 0 and 0.5 < found.cosine <= 1
    assert str(found).startswith(f"ambulance {weights[0]:.2f}") and f"cosine {found.cosine:.2f}" in found._repr_html_()


def test_less_penalty_gives_more_words_and_a_nearer_sum(clip, drawings):
    few, many = (clipgen.describe(drawings[0][5], perceptor=clip, penalty=penalty) for penalty in (0.8, 0.2))
    assert len(few.words) < len(many.words) and few.cosine < many.cosine


def test_words_and_pictures_of_ones_own(clip):
    plain = [Image.new("RGB", (64, 64), name) for name in ("red", "blue", "green", "yellow")]
    for picture, name in zip(plain, ("red", "blue", "green", "yellow"), strict=True):
        found = clipgen.describe(picture, ["red", "blue", "green", "yellow"], clip, pictures=plain)
        assert found.words[0][0] == name
    pixels = np.stack([np.asarray(picture) for picture in plain])
    assert clipgen.describe(plain[0], np.array(["red", "blue"]), clip, pictures=pixels).words[0][0] == "red"


def test_the_vocabularies():
    sizes = {name: len(VOCABULARIES[name]()) for name in VOCABULARIES}
    assert sizes == {"common": 285, "emoji": 1478}
    assert all(len(set(VOCABULARIES[name]())) == size for name, size in sizes.items())


def test_the_lasso_is_at_its_optimum():
    rng = torch.Generator().manual_seed(0)
    atoms = F.normalize(torch.randn(60, 16, generator=rng), dim=-1)
    target = F.normalize(0.6 * atoms[3] + 0.3 * atoms[40] + 0.05 * torch.randn(16, generator=rng), dim=-1)
    weights = sparse_weights(target, atoms, 0.3, steps=2000)
    pull = atoms @ (target - weights @ atoms)  # at the optimum, λ where there is a weight and at most λ elsewhere
    limit = 0.3 * (atoms @ target).max()
    assert (weights >= 0).all() and weights.topk(2).indices.tolist() == [3, 40]
    assert torch.allclose(pull[weights > 0], limit.expand(int((weights > 0).sum())), atol=1e-4)
    assert (pull <= limit + 1e-4).all() and not sparse_weights(target, atoms, 1.0).any()


@pytest.mark.slow
def test_a_run_says_what_it_has_become(run):
    first, last = run.words(1), run.words()
    assert last.words and str(first) != str(last)
    assert str(clipgen.describe(run)) == str(last)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"vocabulary": []}, "vocabulary=\\[\\]: give two words"),
        ({"vocabulary": ["cat"]}, "give two words or more"),
        ({"vocabulary": 5}, "vocabulary=5: give two words"),
        ({"vocabulary": "klingon"}, "vocabulary='klingon' is unknown; choose one of: common, emoji"),
        ({"penalty": 1.0}, "penalty=1.0: must be above 0 and below 1"),
        ({"pictures": []}, "pictures=\\[\\]: give some"),
        ({"pictures": "photos"}, "pictures='photos' is unknown; choose one of: drawings"),
        ({"image": "missing.png"}, "there is no such file"),
    ],
)
def test_mistakes_of_words(arguments, says, clip):
    with pytest.raises(clipgen.ClipgenError, match=says):
        clipgen.describe(**({"image": Image.new("RGB", (64, 64)), "perceptor": clip} | arguments))


@pytest.mark.slow
def test_the_describing_command(tmp_path, monkeypatch, drawings, capsys):
    monkeypatch.chdir(tmp_path)
    to_image(drawings[0][drawings[1].index("ambulance")]).save("picture.png")
    assert main(["describe", "picture.png"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("ambulance 0.") and "(cosine 0." in said
    assert main(["describe", "picture.png", "--vocabulary", "ambulance, cat", "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("ambulance 0.")
    assert main(["describe", "missing.png"]) == 2 and "there is no such file" in capsys.readouterr().err
