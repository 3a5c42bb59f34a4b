"""What the models are measured with, and the command on a small sample."""

import re
import subprocess
import sys

import pytest
import torch

from clipgen.mini.evaluate import PROMPTS, combinations, psnr, ranks
from clipgen.mini.scenes import held_out


def test_there_are_a_hundred_prompts():
    assert len(PROMPTS) == 100 == len(set(PROMPTS))
    assert all(re.fullmatch(r"[a-z]+( [a-z]+)*", prompt) for prompt in PROMPTS)


def test_combinations_are_held_out_as_they_say():
    seen, unseen = combinations(False), combinations(True)
    assert len(seen) == len(unseen) == 100 == len(set(seen) - set(unseen))
    assert [" and " in prompt for prompt in unseen] == [False, False, False, True, True] * 20
    for prompt in (prompt for prompt in unseen if " and " not in prompt):
        colour, thing = prompt.split(" ", 2)[1:]
        assert held_out(colour, thing) or held_out(colour, f"{thing} face")


def test_ranks():
    likeness = torch.eye(8)
    assert ranks(likeness) == (1, 1)
    likeness[0, 1:6] = 2  # the first is the sixth nearest
    likeness[1, 7] = 2  # the second is the second nearest
    assert ranks(likeness) == (0.75, 0.875)


def test_psnr_is_the_mean_over_pictures():
    images = torch.zeros(2, 3, 4, 4)
    assert psnr(images + torch.tensor([0.1, 0.01])[:, None, None, None], images) == pytest.approx(30, abs=0.01)


@pytest.mark.slow
def test_the_evaluation_command(tmp_path):
    sheet = tmp_path / "sheet.png"
    command = [sys.executable, "-m", "clipgen.mini.evaluate", "--sets", "seen,held-out", "--ways", "rerank,bridge"]
    command += ["--pictures", "2", "--steps", "20", "--sheet", sheet]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures = {k: float(v) for k, v in re.findall(r"(CLIP: top-1|mini-\w+:|held-out +bridge) +([\d.]+)", done.stdout)}
    assert figures["CLIP: top-1"] > 0.3 and figures["mini-vqgan:"] > 20 and 0 <= figures["held-out  bridge"] <= 1
    for made in ("seen-rerank", "seen-bridge", "held-out-rerank", "held-out-bridge"):
        assert sheet.with_stem(f"sheet-{made}").stat().st_size > 10_000
