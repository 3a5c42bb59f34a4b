"""What the models are measured with, and the command on a small sample."""

import re
import sys

import pytest
import torch
from PIL import Image, ImageChops

from clipgen.mini import PROMPTS
from clipgen.mini.training.data import is_held_out
from clipgen.mini.training.evaluate import blind, combinations, main, ranks, saturated
from clipgen.mini.training.vqgan import psnr
from clipgen.mini.training.ways import WAYS, drawing


def test_there_are_a_hundred_prompts():
    assert len(PROMPTS) == 100 == len(set(PROMPTS))
    assert all(re.fullmatch(r"[a-z]+( [a-z]+)*", prompt) for prompt in PROMPTS)


def test_combinations_are_held_out_as_they_say():
    seen, unseen = combinations(False), combinations(True)
    assert len(seen) == len(unseen) == 100 == len(set(seen) - set(unseen))
    assert [" and " in prompt for prompt in unseen] == [False, False, False, True, True] * 20
    for prompt in (prompt for prompt in unseen if " and " not in prompt):
        colour, thing = prompt.split(" ", 2)[1:]
        assert is_held_out(colour, thing) or is_held_out(colour, f"{thing} face")


def test_ranks():
    likeness = torch.eye(8)
    assert ranks(likeness) == (1, 1)
    likeness[0, 1:6] = 2  # the first is the sixth nearest
    likeness[1, 7] = 2  # the second is the second nearest
    assert ranks(likeness) == (0.75, 0.875)


def test_psnr_is_the_mean_over_pictures():
    images = torch.zeros(2, 3, 4, 4)
    assert psnr(images + torch.tensor([0.1, 0.01])[:, None, None, None], images) == pytest.approx(30, abs=0.01)


def test_saturated_pixels_have_a_channel_at_an_end():
    half = Image.new("RGB", (8, 4), (9, 128, 254))
    half.paste((9, 255, 128), (0, 0, 4, 4))
    assert saturated([half]) == 0.5 and saturated([half, Image.new("RGB", (4, 8), "black")]) == 0.75


def test_a_blind_sheet_tells_nothing_but_the_key_does(tmp_path):
    colours = {"a cat": "red", "a dog": "lime", "pizza": "blue"}
    made = [("noise", prompt, Image.new("RGB", (256, 256), colour)) for prompt, colour in colours.items()]
    blind(made, PROMPTS, tmp_path, count=10)
    candidates = (tmp_path / "candidates.txt").read_text().splitlines()
    assert candidates == sorted(set(candidates)) and len(candidates) == 10 and colours.keys() <= set(candidates)
    key = [line.split(",") for line in (tmp_path / "key.csv").read_text().splitlines()]
    sheet = Image.open(tmp_path / "sheet.png")
    shown = [sheet.getpixel((8 + 264 * i + 128, 136)) for i in range(3)]
    assert shown == [Image.new("RGB", (1, 1), colours[prompt]).getpixel((0, 0)) for _, _, prompt in key]
    assert [number for number, *_ in key] == ["1", "2", "3"]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["steer", "picture", "half"])
def test_ways_of_more_than_a_prompt(way, tmp_path):
    made = WAYS[way](["a cat", "a red apple"], 1, folder=tmp_path, steps=6, cutouts=2)
    (journal,) = tmp_path.iterdir()
    changes = (journal / "changes.jsonl").read_text() if way == "steer" else ""
    assert made.size == (128, 128) and ("a red apple" in changes) == (way == "steer")
    if way == "half":
        assert ImageChops.difference(made, drawing(3)).getbbox(), "it was painted over"


@pytest.mark.slow
def test_the_evaluation_command(tmp_path, monkeypatch, capsys):
    sheet = tmp_path / "sheet.png"
    words = [
        "--sets",
        "held-out",
        "--pictures",
        "1",
        "--ways",
        "transformer,default",
        "--steps",
        "6",
        "--cutouts",
        "4",
    ]
    words += ["--sheet", str(sheet), "--blind", str(tmp_path / "blind")]
    monkeypatch.setattr(sys, "argv", ["evaluate", *words])
    main()
    said = capsys.readouterr().out
    figures = {k: float(v) for k, v in re.findall(r"(CLIP: top-1|mini-\w+:|held-out +default) +([\d.]+)", said)}
    assert figures["CLIP: top-1"] > 0.3 and figures["mini-vqgan:"] > 20 and 0 <= figures["held-out  default"] <= 1
    assert len((tmp_path / "blind" / "key.csv").read_text().splitlines()) == 2
    for made in ("held-out-transformer", "held-out-default"):
        assert sheet.with_stem(f"sheet-{made}").stat().st_size > 10_000
