"""The second stage: a transformer over text and image tokens, and what is made with it."""

import math
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn

import clipgen
from clipgen import priors
from clipgen.cli import main
from clipgen.images.reading import to_image, to_tensor
from clipgen.mini import WEIGHTS, held_out
from clipgen.mini.drafts import DRAFT_TEMPERATURE, DRAFTS
from clipgen.mini.prior import Transformer, _Predictor
from clipgen.mini.training.prior import losses
from clipgen.priors import UNDRAWN, _models, dalle, load_prior
from clipgen.priors.sampling import Sampler, beam_search


@pytest.fixture(scope="module")
def stage():
    """In full precision, whatever the hardware prefers."""
    stage = load_prior("mini")
    stage.net.float()
    return stage


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def picture():
    """A drawing that no model was trained on."""
    return to_image(held_out()[0][0])


def test_size(stage):
    assert sum(p.numel() for p in stage.net.parameters()) <= 8e6
    assert (WEIGHTS / "prior.safetensors").stat().st_size <= 16e6


def test_stream_is_the_whole_net_step_by_step(stage, rng):
    tokens = torch.randint(stage.codebook_size, (2, stage.side**2), generator=rng)
    stream, logits, first = stage.start("a red car", 2, 1.0), [], 0
    for n in (3, 1, 5, 11):
        guessed = tokens.clone()
        guessed[:, first:] = 0
        stream(guessed, first, 7)  # what it reads of guesses is forgotten
        logits.append(stream(tokens, first, n))
        first += n
    net = stage.net
    with torch.no_grad():
        text, told = (part.expand(2, -1) for part in stage.encode_text("a red car"))
        features = net(net.embed(text, told, tokens[:, :19]))
        whole = net.next_code(features[:, net.context_length - 1 :])
    torch.testing.assert_close(torch.cat(logits, 1), whole, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("image", [None, "picture"])
@pytest.mark.parametrize("text", ["a red apple", "a robot in the snow"])
def test_what_is_guessed_ahead_changes_nothing(stage, text, image, request, monkeypatch):
    """The tokens are those of one by one, in a fraction of the readings; and as likely."""
    given = {"image": request.getfixturevalue(image)} if image else {}
    read, start, made = [], type(stage).start, []
    for ahead in (1, 16):

        def begin(self, *rest, ahead=ahead):
            stream = start(self, *rest)
            read.append(0)

            class Counted:
                def __init__(self):
                    self.ahead = ahead

                def __call__(self, *rest):
                    read[-1] += 1
                    return stream(*rest)

            return Counted()

        monkeypatch.setattr(type(stage), "start", begin)
        monkeypatch.setattr("clipgen.priors.load_prior", lambda *_: stage)
        _models.cache_clear()
        made.append(dalle(text, 2, temperature=0.5, guidance=1, **given))
    one, many = made
    assert torch.equal(one.tokens, many.tokens)
    assert one.likelihoods == pytest.approx(many.likelihoods, rel=1e-3)
    assert read[0] == 256 and read[1] < 140


def test_guidance_moves_away_from_no_text(stage):
    none = torch.zeros(1, stage.side**2, dtype=torch.int64)
    asked = ("a cat", 1.0), ("", 1.0), ("a cat", 3.0)
    told, untold, guided = (stage.start(text, 1, guidance)(none, 0, 1) for text, guidance in asked)
    torch.testing.assert_close(guided, untold + 3 * (told - untold), atol=1e-3, rtol=1e-3)
    assert not torch.allclose(told, untold, atol=0.01)


@pytest.mark.slow
def test_it_listens(stage):
    """The picture's own words make its tokens likelier than another's."""
    pictures = {text: clipgen.dalle(text, 2).tokens for text in ("a red car", "a tree in the snow")}
    for text, other in zip(pictures, reversed(pictures)):
        net, image = stage.net, pictures[text].flatten(1)
        read = [net.tokenize([words] * 2) for words in (text, other)]
        with torch.no_grad():
            right, wrong = (losses(net, tokens, stage.tower.features(tokens), image)[1] for tokens in read)
        assert right.mean() < wrong.mean()


def test_attention_is_causal_and_sums_to_one(stage, rng):
    net = stage.net
    image = torch.randint(stage.codebook_size, (stage.side, stage.side), generator=rng)
    looks = stage.attention("a cat", image)
    count = net.context_length + stage.side**2
    assert looks.shape == (len(net.blocks), net.heads, count, count)
    torch.testing.assert_close(looks.sum(-1), torch.ones_like(looks[..., 0]))
    assert looks.triu(1).max() == 0


def test_sampling_keeps_to_the_likeliest(rng):
    logits = torch.tensor([[0.0, 5.0, 1.0, 4.9], [9.0, 0.0, 0.0, 8.9]]).repeat(200, 1)[None]
    drawn = Sampler(1.0, 2, rng)(logits, 0)[0]
    assert set(drawn[::2].tolist()) == {1, 3} and set(drawn[1::2].tolist()) == {0, 3}
    assert Sampler(0.001, 4, rng)(logits, 0)[0].tolist() == [1, 0] * 200


def test_sampling_is_as_likely_as_the_logits_say(rng):
    logits = torch.tensor([2.0, 0.0, 1.0, -9.0]).expand(1, 20_000, 4)
    drawn = Sampler(2.0, 3, rng)(logits, 0)[0].bincount(minlength=4) / 20_000
    torch.testing.assert_close(drawn[:3], (logits[0, 0, :3] / 2).softmax(0), atol=0.015, rtol=0)
    assert drawn[3] == 0


def test_a_place_draws_the_same_again(rng):
    """However many places are drawn at a time, until it is done with."""
    logits = torch.zeros(2, 6, 50)
    whole = Sampler(1.0, 50, rng)(logits, 0)
    sampler = Sampler(1.0, 50, torch.Generator().manual_seed(0))
    assert torch.equal(sampler(logits[:, :3], 0), whole[:, :3])
    assert torch.equal(sampler(logits[:, :4], 2), whole[:, 2:])
    assert not torch.equal(whole[0], whole[1])


@pytest.mark.parametrize("guidance", [1, 3])
@pytest.mark.parametrize("known", [[], [0], [1, 3], [0, 1, 2, 3]])
def test_a_beam_search_finds_the_likeliest(known, guidance, rng):
    """Of all pictures of 2 x 2 tokens of three codes, with some of the tokens given."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        net = Transformer(torch.randn(9, 8), width=16, layers=2, heads=2, side=2, codes=3, context=3)
        nn.init.normal_(net.next_code.weight)
        told = {
            "a cat": (torch.tensor([[4, 7, -1]]), torch.randn(1, 16)),
            "": (torch.full((1, 3), -1), net.padding[:1]),
        }
    prior = SimpleNamespace(net=net, side=2, encode_text=told.get)
    every, given = torch.tensor([*product(range(3), repeat=4)]), torch.tensor([2, 0, 1, 2])
    chances = _Predictor(prior, "a cat", 81, guidance)(every, 0, 4).log_softmax(-1)
    chances = chances.gather(-1, every[..., None])[..., 0]
    chances[:, known] = torch.where(every[:, known] == given[known], 0, -math.inf)
    values, rows = chances.sum(1).sort(descending=True)

    mask, tokens = torch.zeros(4, dtype=torch.bool), torch.zeros(27, 4, dtype=torch.int64)
    mask[known], tokens[:, known] = True, given[known]
    stages = beam_search(_Predictor(prior, "a cat", 27, guidance), tokens.view(27, 2, 2), mask.view(2, 2), "cpu")
    (first, _), (last, likelihoods) = stages
    count = min(27, 3 ** (4 - len(known)))
    assert (first, last) == (1, 2) and torch.equal(tokens[:count], every[rows[:count]])
    torch.testing.assert_close(likelihoods[:count], values[:count], atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_beam_search_of_a_thing_is_likelier_than_sampling():
    """And its stages are shown."""
    options = {"guidance": 1, "perceptor": None}
    stages = list(clipgen.dalle("an ice cream", 8, temperature=0, stream="likeliest", **options))
    assert [len(drawings) for drawings in stages] == [1] * 15 + [8]
    found, sampled = stages[-1].likelihoods, clipgen.dalle("an ice cream", 8, temperature=0.25, **options).likelihoods
    assert found == sorted(found, reverse=True) and found[0] >= sampled[0] - 0.01
    assert len({tuple(picture.flatten().tolist()) for picture in stages[-1].tokens}) == 8


@pytest.mark.slow
def test_best_first_and_the_same_again():
    drawings = clipgen.dalle("a red apple", 2, seed=3)
    assert len(drawings) == 2 and drawings.images[0].size == (128, 128)
    assert drawings.scores == sorted(drawings.scores, reverse=True)
    shown = clipgen.rank(drawings.images, ["a red apple", "a blue car"])
    assert shown.shape == (2, 2)
    again = clipgen.dalle("a red apple", 2, seed=3)
    assert torch.equal(again.tokens, drawings.tokens) and again.scores == drawings.scores
    assert not torch.equal(clipgen.dalle("a red apple", 2, seed=4).tokens, drawings.tokens)
    dvae = clipgen.load_generator("mini-dvae")
    painted = dvae.image(dvae.from_tokens(drawings.tokens))
    assert torch.allclose(painted[0], to_tensor(drawings.images[0]), atol=0.02)
    assert drawings._repr_png_().startswith(b"\x89PNG")


@pytest.mark.slow
def test_likelihoods_are_those_of_the_whole_net(stage):
    drawings, net = clipgen.dalle("a red car", 3, guidance=1), stage.net
    text = net.tokenize(["a red car"])
    with torch.no_grad():
        values = [losses(net, text, stage.tower.features(text), image.flatten()[None])[1] for image in drawings.tokens]
    wanted = [-float(loss.sum()) for loss in values]
    assert drawings.likelihoods == pytest.approx(wanted, rel=0.05, abs=1)


@pytest.mark.slow
def test_without_a_perceptor_the_likeliest_come_first():
    ranked, plain = (clipgen.dalle("a cat", 3, perceptor=perceptor) for perceptor in ("mini", None))
    assert not plain.scores and plain.likelihoods == sorted(ranked.likelihoods, reverse=True)
    assert torch.equal(plain.tokens, ranked.ordered(ranked.likelihoods).tokens)


@pytest.mark.slow
def test_the_likeliest_is_shown_row_by_row():
    options = {"seed": 3, "perceptor": None}
    stages = list(clipgen.dalle("a cat", 2, stream="likeliest", **options))
    assert [16 * drawings.done for drawings in stages] == [*range(1, 17)]
    assert [len(drawings) for drawings in stages] == [1] * 15 + [2]
    for row, drawings in enumerate(stages[:-1], 1):
        pixels, undrawn = to_tensor(drawings.images[0]), drawings.tokens[:, row:]
        assert (pixels[..., 8 * row :, :] - UNDRAWN).abs().max() < 0.01 and not undrawn.any(), "grey below the row"
        assert (pixels[..., 8 * row - 8 : 8 * row, :] - UNDRAWN).abs().max() > 0.01
    assert torch.equal(stages[-1].tokens, clipgen.dalle("a cat", 2, **options).tokens)


@pytest.mark.slow
def test_stream_yields_row_by_row():
    frames = list(clipgen.dalle("a cat", 2, stream=True))
    assert [frame.done for frame in frames] == [row / 16 for row in range(1, 17)]
    first, last = to_tensor(frames[3].images[0]), to_tensor(frames[-1].images[0])
    assert torch.allclose(first[..., 32:, :], torch.tensor(UNDRAWN), atol=0.01)
    assert first[..., :24, :].sub(UNDRAWN).abs().max() > 0.03
    assert not torch.allclose(last[..., 32:, :], torch.tensor(UNDRAWN), atol=0.01)
    assert len(frames[-1].scores) == 2 and not frames[3].scores


@pytest.mark.slow
def test_completion_keeps_the_top(picture):
    generator = clipgen.load_generator("mini-dvae")
    known = generator.tokens(generator.encode(to_tensor(picture, (128, 128))))[0]
    drawings = clipgen.dalle("a house", 2, image=picture, keep="top")
    assert torch.equal(drawings.tokens[:, :8], known[:8].repeat(2, 1, 1))
    assert not torch.equal(drawings.tokens[0, 8:], drawings.tokens[1, 8:])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n": 0}, "n=0"),
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": 1e-50}, "temperature=1e-50"),
        ({"guidance": 0.5}, "guidance=0.5"),
        ({"model": "dall-e-3"}, "choose one of"),
        ({"image": "nowhere.png"}, "nowhere.png"),
        ({"image": Image.new("RGB", (8, 8)), "keep": "middle"}, "middle"),
        ({"image": Image.new("RGB", (8, 8)), "keep": "0,0,0.02,0.02"}, "leaves nothing"),
    ],
)
def test_what_cannot_work_is_said(options, said, monkeypatch):
    monkeypatch.setattr(priors, "load_prior", None)  # nothing is loaded
    with pytest.raises(clipgen.ClipgenError, match=said):
        clipgen.dalle("a cat", **({"n": 1} | options))


def test_no_prompt_is_said():
    with pytest.raises(clipgen.ClipgenError, match="say what to draw"):
        clipgen.dalle("  ")


@pytest.mark.slow
def test_command(tmp_path, monkeypatch, capsys, picture):
    monkeypatch.chdir(tmp_path)
    assert main(["dalle", "a red car in the snow", "-n", "2", "-o", "car.png", "--quiet"]) == 0
    assert Image.open("car.png").width > 2 * 128
    picture.save("cat.png")
    assert main(["dalle", "a cat", "-n", "1", "--image", "cat.png", "--keep", "top", "-o", "drawn.gif", "--quiet"]) == 0
    assert Image.open("drawn.gif").n_frames == 9  # the known half, then eight rows
    assert main(["dalle", "a cat", "-n", "0"]) == 2 and "n=0" in capsys.readouterr().err


@pytest.mark.slow
def test_the_bridge(tmp_path):
    """A run that starts from the likeliest drawing, and follows it when the prompt changes."""
    run = clipgen.Run("a red apple", init="dalle", steps=6, folder=tmp_path)
    frames = iter(run)
    first = next(frames).image
    drawings = clipgen.dalle("a red apple", DRAFTS, temperature=DRAFT_TEMPERATURE, guidance=1)
    likeliest = drawings.ordered(drawings.likelihoods).images[0]
    assert (to_tensor(first) - to_tensor(likeliest)).abs().mean() < 0.08
    run.change(prompt="a tree")
    assert [frame.step for frame in frames] == [3, 6]
    again = clipgen.finish(clipgen.Run.replay(run.journal.folder, folder=tmp_path), progress=False)
    assert again.image.tobytes() == run.image.tobytes()
