"""The recipe end to end, by its command, on drawings that a fixture makes."""

import subprocess
import sys

import pytest
import torch

STAGES = ("text", "clip", "critic", "evaluator", "vqgan", "dvae", "prior", "pack")
PACKED = ("clip", "judge", "vqgan", "dvae", "prior", "memory")


@pytest.mark.slow
def test_the_recipe_end_to_end(cache):
    out = cache / "out"

    def recipe(*options: str) -> str:
        command = [sys.executable, "-m", "clipgen.mini.recipe", *options, "--cache", cache, "--out", out]
        return subprocess.run(command, check=True, timeout=1500, stdout=subprocess.PIPE, text=True).stdout

    told = recipe("all", "--minutes", "0.03", "--captions", "500").splitlines()
    assert [line.split(":")[0] for line in told if " minutes on " in line] == [*STAGES], "where each stage computes"
    made = {file.name for file in (out / "weights").iterdir()}
    assert made == {f"{name}.safetensors" for name in PACKED} | {"heldout.webp", "heldout.json"}
    before = torch.load(out / "dvae.pt", weights_only=True)
    recipe("dvae", "--minutes", str(before["spent"] / 60 + 0.01))  # a step more, however long one takes
    after = torch.load(out / "dvae.pt", weights_only=True)
    assert after["steps"] > before["steps"], "training goes on from its checkpoint"
