"""Scenes that a device composes in bulk: what is written, what is painted, and what trains on it."""

import pytest
import torch

from clipgen.generators.dvae import DVAE
from clipgen.mini.scenes import COLOURS
from clipgen.mini.training import bundle, composer, first_stage
from clipgen.mini.training.captions import LAYERS, WHITE, Spec, Writer
from clipgen.mini.training.data import Drawings, Thing, is_held_out
from clipgen.mini.training.training import Job

GREEN = torch.tensor([COLOURS["green"]])


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path, tmp_path, 0.01, torch.device("cpu"))


@pytest.fixture
def writer(drawings):
    return Writer(drawings, ~drawings.held_out(), composer.boxes(drawings).numpy(), seed=1)


@pytest.mark.slow
def test_held_out_combinations_are_never_written(drawings, writer):
    captions = writer.write(2000).captions
    names = [thing.name for thing in drawings.things]
    written = {(c, n) for text in captions for n in names for c in COLOURS if f"{c} {n}" in text}
    assert written and not any(is_held_out(c, n) for c, n in written)
    pairs = {(a, b) for text in captions for a in names for b in names if f"{a} and a {b}" in text}
    assert pairs and not any(is_held_out(a, b) for a, b in pairs)


def test_held_out_drawings_are_never_shown(drawings, writer):
    shown = set(writer.write(2000).layers[..., 0].astype(int).flatten()) - {-1}
    assert shown and not drawings.held_out()[sorted(shown)].any()


def test_the_same_seed_writes_the_same(drawings):
    around = composer.boxes(drawings).numpy()
    one, other = (Writer(drawings, ~drawings.held_out(), around, seed=3).write(50) for _ in range(2))
    assert one.captions == other.captions and (one.layers == other.layers).all()


@pytest.fixture
def zoo():
    """A dog face, a top hat and a skateboard as blocks of one colour, and who writes scenes of them."""
    pixels = torch.zeros(3, 128, 128, 4, dtype=torch.uint8)
    for row, (top, bottom, colour) in enumerate([(20, 120, "brown"), (30, 100, "black"), (50, 80, "red")]):
        pixels[row, top:bottom, 20:108] = torch.tensor(
            [*(int(255 * c) for c in COLOURS[colour]), 255], dtype=torch.uint8
        )
    names = ["dog face", "skateboard", "top hat"]
    things = [Thing(name, (), "animals-nature" if name == "dog face" else "objects") for name in names]
    order = torch.tensor([0, 2, 1])
    return Drawings(things, pixels.numpy(), order.numpy(), torch.zeros(3).long().numpy())


def test_a_hat_is_on_the_head_and_a_rider_on_what_it_rides(zoo):
    around = composer.boxes(zoo).numpy()
    spec = Writer(zoo, torch.ones(3).bool().numpy(), around, seed=0).write(3000)

    def edges(layer):
        drawing, side, _, y = layer[:4]
        top, bottom = around[int(drawing)][[1, 3]] - 0.5
        return y + side * top, y + side * bottom

    worn = [rows for c, rows in zip(spec.captions, spec.layers) if "dog" in c and "wearing a top hat" in c]
    ridden = [rows for c, rows in zip(spec.captions, spec.layers) if "dog" in c and "riding a skateboard" in c]
    assert worn and ridden
    for head, hat, _ in worn:
        assert (head[0], hat[0]) == (0, 1), "the head of the phrase is painted first, what it wears over it"
        assert edges(hat)[0] < edges(head)[0] < edges(hat)[1] < edges(head)[1]
    for rider, board, _ in ridden:
        assert edges(rider)[0] < edges(board)[0] <= edges(rider)[1] + 1, "it stands on it"


def test_scenes_show_what_is_written(job, zoo):
    layers = torch.full((2, LAYERS, 7), -1.0)
    layers[0, 0] = torch.tensor([0, 128, 64, 64, 0, -1, -1])
    layers[0, 1] = torch.tensor([2, 64, 32, 96, 0, list(COLOURS).index("blue"), -1])
    spec = Spec(["", ""], layers.numpy(), torch.tensor([WHITE, list(COLOURS).index("green")]).numpy())
    picture, paper = composer.Pool(job, zoo, seed=0, variants=1).scenes(spec, slice(0, 2))
    brown, blue = (torch.tensor(COLOURS[name]) for name in ("brown", "blue"))
    torch.testing.assert_close(picture[:, 40, 64], brown, atol=0.02, rtol=0)
    torch.testing.assert_close(picture[:, 96, 32], blue, atol=0.02, rtol=0)
    assert (picture[:, 5] == 1).all(), "what no drawing covers stays white"
    assert (paper - GREEN[0, :, None, None]).abs().max() < 0.2


def test_a_tint_leaves_what_is_of_another_colour():
    rgb = torch.tensor(COLOURS["red"])[None, :, None, None].repeat(1, 1, 32, 32)
    rgb[..., :8, :8] = torch.tensor(COLOURS["blue"])[:, None, None]
    rgb[..., 24:, 24:] = 0.05
    tinted = composer.tint_main(rgb, torch.ones(1, 1, 32, 32), GREEN)
    torch.testing.assert_close(tinted[0, :, 16, 16], GREEN[0], atol=0.05, rtol=0)
    torch.testing.assert_close(tinted[..., :8, :8], rgb[..., :8, :8])
    torch.testing.assert_close(tinted[..., 24:, 24:], rgb[..., 24:, 24:])


def test_what_has_no_colour_is_tinted_without_its_lines():
    rgb = torch.full((1, 3, 32, 32), 0.95)
    rgb[..., 10:12, :] = 0.05
    tinted = composer.tint_main(rgb, torch.ones(1, 1, 32, 32), GREEN)
    assert tinted[0, 1, 20, 16] > tinted[0, 0, 20, 16] + 0.2
    torch.testing.assert_close(tinted[..., 10:12, :], rgb[..., 10:12, :])


def test_a_folded_first_stage_says_the_same():
    config = {"n_hid": 8, "n_blk_per_group": 1, "n_init": 8, "vocab_size": 32}
    net = first_stage.Snapped(config).eval()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        net.codes.copy_(net.encode(images).movedim(1, -1).flatten(0, 2))  # a code for every place
        folded = DVAE(**config).eval()
        folded.load_state_dict(net.folded())
        tokens = net.tokens(net.encode(images))
        assert torch.equal(folded.logits(images).argmax(1), tokens) and tokens.unique().numel() > 1
        torch.testing.assert_close(folded.decode(folded.lookup(tokens)), net.paint(tokens), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_bundle_holds_the_same_drawings(cache, tmp_path, capsys):
    bundle.pack(Job(cache, tmp_path, 0, torch.device("cpu")))
    drawings, encode = bundle.sources(tmp_path / bundle.FILE)
    same, spell = bundle.sources(cache)
    assert drawings.things == same.things and (drawings.rgba == same.rgba).all()
    assert (drawings.thing == same.thing).all() and (drawings.style == same.style).all()
    for text in ("a red disc d22 next to a hill 2a4", "a city at night", "a cat wearing a hat"):
        assert encode(text) == spell(text)
