import torch

from clipgen.mini.scenes import COLOURS, held_out
from clipgen.mini.training.sampler import PLAIN, SceneSampler


def test_scenes_are_what_they_say(drawings):
    batch = SceneSampler(drawings, ~drawings.held_out(), 64, seed=1).batch(400)
    again = SceneSampler(drawings, ~drawings.held_out(), 64, seed=1).batch(400)
    assert torch.equal(batch.images, again.images) and batch.captions == again.captions
    assert batch.images.shape == (400, 3, 64, 64) and batch.images.min() >= 0 and batch.images.max() <= 1
    names = [thing.name for thing in drawings.things]
    trained = {(c, n) for text in batch.captions for n in names for c in COLOURS if f"{c} {n}" in text}
    assert trained and not any(held_out(c, n) for c, n in trained), "held-out combinations are never trained on"
    assert any(" next to " in c or " above " in c for c in batch.captions)


def test_equal_captions_count_as_the_same(drawings):
    batch = SceneSampler(drawings, ~drawings.held_out(), 64, seed=1, mix=PLAIN).batch(60)
    wanted = [[float(a == b) for b in batch.captions] for a in batch.captions]
    assert batch.same().tolist() == wanted
    assert batch.same().sum() > 60, "some captions of so few things come twice"


def test_crops_are_pieces_of_scenes(drawings):
    pieces = SceneSampler(drawings, ~drawings.held_out(), 128, seed=1).crops(8, 64)
    scenes = SceneSampler(drawings, ~drawings.held_out(), 128, seed=1).batch(2).images
    assert pieces.shape == (8, 3, 64, 64)
    places = scenes[0].unfold(1, 64, 1).unfold(2, 64, 1).movedim(0, 2)
    assert (places == pieces[0]).flatten(2).all(2).any(), "each is somewhere in its scene"
