"""The recipe end to end, by its command, on drawings that a fixture makes."""

import subprocess
import sys
from functools import partial

import pytest
import torch

from clipgen.clip.tokenizer import VOCABULARY
from clipgen.generators.dvae import DVAE
from clipgen.mini.prior import Transformer
from clipgen.storage import weights

STAGES = ("text", "clip", "critic", "evaluator", "vqgan", "dvae", "prior", "pack")
PACKED = ("clip", "judge", "vqgan", "dvae", "prior", "names")


@pytest.mark.slow
def test_the_recipe_end_to_end(cache):
    out = cache / "out"

    def recipe(*options: str) -> str:
        command = [sys.executable, "-m", "clipgen.mini.training", *options, "--cache", cache, "--out", out]
        return subprocess.run(command, check=True, timeout=1500, stdout=subprocess.PIPE, text=True).stdout

    told = recipe("all", "--minutes", "0.03", "--captions", "500").splitlines()
    assert [line.split(":")[0] for line in told if " minutes on " in line] == [*STAGES], "where each stage computes"
    made = {file.name for file in (out / "weights").iterdir()}
    assert made == {f"{name}.safetensors" for name in PACKED} | {"heldout.webp", "heldout.json"}
    before = torch.load(out / "dvae.pt", weights_only=True)
    recipe("dvae", "--minutes", str(before["spent"] / 60 + 0.01))  # a step more, however long one takes
    after = torch.load(out / "dvae.pt", weights_only=True)
    assert after["steps"] > before["steps"], "training goes on from its checkpoint"


@pytest.mark.slow
def test_both_stages_train_on_a_bundle(cache, tmp_path):
    """As on a machine that has nothing but the bundle; the weights that they write are such as the package reads."""
    command = [sys.executable, "-m", "clipgen.mini.training"]
    subprocess.run([*command, "bundle", "--cache", cache, "--out", tmp_path], check=True, timeout=300)
    small = ["--cache", tmp_path / "drawings.xz", "--minutes", "0.001", "--batch", "2", "--captions", "60"]
    subprocess.run([*command, "first", "second", "decoder", *small], check=True, timeout=900)
    config = {}
    for stem in ("dvae", "prior"):
        tensors, config[stem] = weights.load_weights(tmp_path / "weights" / f"{stem}.safetensors")
        assert all(tensor.isfinite().all() for tensor in tensors.values())
        build = DVAE if stem == "dvae" else partial(Transformer, torch.zeros(VOCABULARY, 48))
        weights.build_net(build, config[stem], tensors, stem)
    assert config["prior"]["codes"] == config["dvae"]["vocab_size"], "the transformer writes the dVAE's tokens"
    assert {"first.webp", "second.webp", "decoder.pt"} <= {file.name for file in tmp_path.iterdir()}
