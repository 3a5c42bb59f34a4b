"""The recipe end to end, by its command, on drawings that a fixture makes."""

import sys
from functools import partial

import pytest
import torch

from clipgen.clip.tokenizer import VOCABULARY_SIZE
from clipgen.generators.dvae import DVAE
from clipgen.mini import WEIGHTS, everyday_name
from clipgen.mini.clip import MiniCLIP
from clipgen.mini.prior import Transformer
from clipgen.mini.training import data, pack
from clipgen.mini.training.__main__ import main
from clipgen.mini.training.training import load_embedded
from clipgen.storage import weights

STAGES = ("text", "clip", "critic", "evaluator", "vqgan", "dvae", "prior", "pack")
PACKED = ("clip", "judge", "vqgan", "dvae", "prior", "names")


@pytest.fixture
def recipe(monkeypatch, capsys):
    """``recipe(*words)``: what the command says, run in this process."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["training", *map(str, words)])
        main()
        return capsys.readouterr().out

    return run


@pytest.mark.slow
def test_the_recipe_end_to_end(cache, recipe, tmp_path):
    where = ["--cache", cache, "--out", tmp_path, "--batch", 4]
    told = recipe("all", "--minutes", 0.002, "--captions", 100, *where).splitlines()
    assert [line.split(":")[0] for line in told if " minutes on " in line] == [*STAGES], "where each stage computes"
    made = {file.name for file in (tmp_path / "weights").iterdir()}
    assert made == {f"{name}.safetensors" for name in PACKED} | {"heldout.webp", "heldout.json"}
    before = torch.load(tmp_path / "dvae.pt", weights_only=True)
    recipe("dvae", "--minutes", before["spent"] / 60 + 0.0001, *where)  # a step more, however long one takes
    after = torch.load(tmp_path / "dvae.pt", weights_only=True)
    assert after["steps"] > before["steps"], "training goes on from its checkpoint"
    recipe("refine", "--minutes", 0.001, "--captions", 60, *where)
    refined, shipped = (weights.load_weights(file / "prior.safetensors")[0] for file in (tmp_path / "weights", WEIGHTS))
    moved = [(refined[name].float() - shipped[name].float()).abs().max() for name in shipped]
    assert 0 < max(moved) < 0.1, "it continues with the shipped transformer"


def test_a_word_stands_for_what_few_things_share():
    shared = [data.Thing("cat face", ("cat", "kitten", "pet", "feline"), ""), data.Thing("dog", ("pet", "puppy"), "")]
    shared += [data.Thing(name, ("pet", "train"), "") for name in ("train", "locomotive", "rail")]
    clip = load_embedded("clip", MiniCLIP).eval()
    with torch.no_grad():
        embeddings = clip.embed_text([everyday_name(thing.name) for thing in shared])
    keywords = pack.read_keywords(shared, clip, embeddings)
    assert keywords["kitten"] == [0] and keywords["puppy"] == [1], "of one thing"
    assert "pet" not in keywords and "dog" not in keywords, "many share it; it is a name"
    assert keywords["train"] == [3] and keywords["cat"] == [0], "by hand, though they are names"
    assert pack.read_keywords([data.Thing("dog", ("dog",), "")], clip, embeddings[1:2]) == {}, "nothing but a name"


@pytest.mark.slow
def test_both_stages_train_on_a_bundle(cache, recipe, tmp_path):
    """As on a machine that has nothing but the bundle; the weights that they write are such as the package reads."""
    recipe("bundle", "--cache", cache, "--out", tmp_path)
    small = ["--cache", tmp_path / "drawings.xz", "--minutes", 0.001, "--batch", 2, "--captions", 60]
    recipe("first", "second", "decoder", *small)
    config = {}
    for stem in ("dvae", "prior"):
        tensors, config[stem] = weights.load_weights(tmp_path / "weights" / f"{stem}.safetensors")
        assert all(tensor.isfinite().all() for tensor in tensors.values())
        build = DVAE if stem == "dvae" else partial(Transformer, torch.zeros(VOCABULARY_SIZE, 48))
        weights.build_net(build, config[stem], tensors, stem)
    assert config["prior"]["codes"] == config["dvae"]["vocab_size"], "the transformer writes the dVAE's tokens"
    assert {"first.webp", "second.webp", "decoder.pt", "dvae.safetensors"} <= {file.name for file in tmp_path.iterdir()}
