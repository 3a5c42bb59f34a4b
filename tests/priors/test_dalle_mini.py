"""Our DALL-E mini against the package min-dalle, through files as they were published: state dicts in a zip, in 16
bits, whose layers are slices of one storage, and without the scales that min-dalle leaves at 1."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer

from clipgen.errors import ClipgenError
from clipgen.generators.catalogue import GENERATORS
from clipgen.generators.codebook import Codebook
from clipgen.generators.vqgan import VQModel
from clipgen.priors import dalle_mini
from clipgen.priors.dalle_mini import CODES, CONTEXT, MODELS, DalleMini, Tokenizer
from clipgen.storage import weights

with torch.enable_grad():  # where it is imported, min_dalle switches gradients off for everybody
    from min_dalle.models import DalleBartDecoder, DalleBartEncoder, VQGanDetokenizer
    from min_dalle.text_tokenizer import TextTokenizer

SMALL = {"layers": 3, "width": 64, "heads": 4, "inner": 86}
SHARED = {"layer_count": 3, "embed_count": 64, "attention_head_count": 4, "glu_embed_count": 86, "device": "cpu"}
WORDS = 300
WITHOUT_SCALE = tuple(f"{norm}.weight" for norm in dalle_mini._SHIFT_ONLY)
PUBLISHED = {
    "min-dalle/encoder_mini.pt": 405_201_458,
    "min-dalle/decoder_mini.pt": 470_515_674,
    "min-dalle/encoder.pt": 2_220_079_602,
    "min-dalle/decoder.pt": 2_955_054_938,
}
PROMPTS = [
    "",
    "a red car",
    "A Red CAR on the Snow!",
    "naïve café, 20°C",
    "  two   spaces ",
    "supercalifragilistic",
    "it's 3 o'clock; (really?)",
    "a-b_c/d \\ #hash @you 100% ~tilde~",
    "a 🐱 with a slice of 🍕",
    "😀😀ok 👍🏽 ❤️ ☃ 🇫🇷 👩‍🚀 → © ½",
    "the cat and the dog " * 20,
]


@pytest.fixture(params=["dalle-mini", "dalle-mega"])
def published(request, monkeypatch):
    """(name, reference encoder, reference decoder): min-dalle's nets, small, and their files where ours looks."""
    entry, cache = MODELS[request.param], weights.cache_folder()
    monkeypatch.setitem(MODELS, request.param, dataclasses.replace(entry, config=SMALL, words=WORDS))
    encoder = DalleBartEncoder(text_vocab_count=WORDS, text_token_count=CONTEXT, **SHARED)
    decoder = DalleBartDecoder(image_vocab_count=entry.codebook_size - 1, **SHARED)
    for net, file in ((encoder, entry.encoder), (decoder, entry.decoder)):
        state = {}
        for key, value in net.state_dict().items():
            if key.endswith(WITHOUT_SCALE):
                continue
            state[key] = (value + 0.05 * torch.randn_like(value)).half()
        missing, unexpected = net.load_state_dict(state, strict=False)
        assert missing and not unexpected
        (cache / file.name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(as_converted(state), cache / file.name)
    save_vocabulary(cache / entry.vocabulary.name, cache / entry.merges.name)
    return request.param, encoder.eval(), decoder.eval()


def as_converted(state):
    """The layers' matrices as the converter from flax left them: transposed slices of what nn.scan had stacked."""
    for key in [key for key in state if key.startswith("layers.0.")]:
        names = [key.replace("layers.0.", f"layers.{i}.") for i in range(3)]
        stacked = torch.stack([state.pop(name).t() for name in names]).contiguous()
        state |= zip(names, stacked.transpose(1, -1) if stacked.dim() == 3 else stacked, strict=True)
    return state


def save_vocabulary(vocabulary, merges):
    """vocab.json and merges.txt of the tokenizers library, which made the published ones."""
    trained = ByteLevelBPETokenizer()
    marks = ["<s>", "<pad>", "</s>", "<unk>"]
    text = ["the red cat and the blue dog on the snow", "a car, really? it's there", "supercalifragilistic"] * 3
    trained.train_from_iterator(text, vocab_size=WORDS, min_frequency=1, special_tokens=marks, show_progress=False)
    for made, file in zip(trained.save_model(str(vocabulary.parent), "made"), (vocabulary, merges), strict=True):
        Path(made).rename(file)
    vocabulary.write_text(vocabulary.read_text("utf-8").replace('"~"', '"~~~~"'), "utf-8")  # ~ becomes unknown


@torch.no_grad()
def test_equal_to_the_reference(published):
    name, encoder, decoder = published
    model = DalleMini(name)
    said = model.tokenize(["a red car on the snow", ""])
    features = encoder(said.flip(0))  # it takes the empty text first
    assert (model.encoder(said) - features.flip(0)).abs().max() <= 1e-5

    count, guidance = 3, 2.5
    stream = model.start("a red car on the snow", count, guidance)
    rows = [0] * count + [1] * count
    state, tokens = torch.zeros(3, 4 * count, 256, 64), torch.full((count,), 16384)
    picture, wanted = torch.zeros(count, 256, dtype=torch.int64), []
    for place in range(8):
        logits, state = decoder(
            said.flip(0)[rows].ne(dalle_mini.PADDING)[:, None, None],
            features[rows],
            state,
            tokens[:, None],
            torch.tensor([place]),
        )
        untold, told = logits[:, -1, :CODES].chunk(2)
        mixed = untold * (1 - guidance) + told * guidance
        ours = stream(picture, place, 1)
        assert ours.shape == (count, 1, CODES)
        assert (ours[:, 0] - mixed).abs().max() <= 1e-5
        picture[:, place] = tokens = ours[:, 0].softmax(1).multinomial(1)[:, 0]
        wanted.append(mixed)
    assert len(tokens.unique()) > 1, "else the pictures were all the same"
    together = stream(picture, 2, 6)  # several at a time
    assert (together - torch.stack(wanted[2:], 1)).abs().max() <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1, 4])
def test_goes_on_with_some_of_the_pictures(published, guidance):
    model = DalleMini(published[0])
    pictures, rows = torch.randint(CODES, (3, 256), generator=torch.Generator().manual_seed(0)), torch.tensor([2, 0, 0])
    stream, fresh = (model.start("a cat", 3, guidance) for _ in range(2))
    stream(pictures, 0, 5)
    stream.reorder(rows)
    pictures = pictures[rows]
    wanted = fresh(pictures, 0, 7)[:, 5:]
    torch.testing.assert_close(stream(pictures, 5, 2), wanted, atol=1e-4, rtol=1e-4)
    assert (wanted[0] - wanted[1]).abs().max() > 1e-2


@torch.no_grad()
def test_without_guidance_the_text_alone_counts(published):
    name, *_ = published
    model = DalleMini(name)
    pure, near = model.start("a cat", 2, 1), model.start("a cat", 2, 1 + 1e-6)
    picture = torch.zeros(2, 256, dtype=torch.int64)
    for place in range(3):
        logits = pure(picture, place, 1)
        assert (logits - near(picture, place, 1)).abs().max() <= 1e-4
        picture[:, place] = logits[:, 0].argmax(1)
    dog, cat = (model.start(text, 2, 1)(picture, 0, 1) for text in ("a dog", "a cat"))
    assert (dog - cat).abs().max() > 1e-3


@pytest.mark.parametrize("prompt", PROMPTS)
def test_reads_the_same_tokens(prompt, tmp_path):
    vocabulary, merges = tmp_path / "vocab.json", tmp_path / "merges.txt"
    save_vocabulary(vocabulary, merges)
    reference = TextTokenizer(json.loads(vocabulary.read_text("utf-8")), merges.read_text("utf-8").split("\n")[1:-1])
    ours, wanted = Tokenizer(vocabulary, merges), reference.tokenize(prompt)
    assert ours(prompt) == wanted
    assert ("~" in prompt) == (ours.unknown in wanted)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a 🐱, 20°C → 東京", "a cat_face, 20°C → 東京"),
        ("🍕", "pizza"),  # Unicode calls it a slice of pizza
        ("☃️🦊", "snowmanfox"),
        ("👩🏽‍🚀", "woman_astronaut_medium_skin_tone"),
    ],
)
def test_emoji_are_words(text, words):
    assert dalle_mini.spell_out(text) == words


def test_texts_are_padded_and_cut(published):
    model = DalleMini(published[0])
    short, long, empty = model.tokenize([PROMPTS[1], PROMPTS[-1], ""]).tolist()
    assert short == model.tokenizer(PROMPTS[1]) + [1] * (64 - len(model.tokenizer(PROMPTS[1])))
    assert long == model.tokenizer(PROMPTS[-1])[:64] and 1 not in long
    assert empty == [0, 2] + [1] * 62


def test_says_what_it_cannot_use(published):
    name, *_ = published
    entry, cache = MODELS[name], weights.cache_folder()
    with pytest.raises(ClipgenError, match="plain letters"):
        DalleMini(name).start("猫", 1, 3.0)
    torch.save({"lm_head.weight": torch.zeros(4, 4)}, cache / entry.decoder.name)
    with pytest.raises(ClipgenError, match=r"decoder.*embed_tokens\.weight is missing"):
        DalleMini(name)
    (cache / entry.vocabulary.name).write_text("{}")
    with pytest.raises(ClipgenError, match="not a vocabulary"):
        DalleMini(name)


@pytest.mark.parametrize("name", list(MODELS))
def test_the_published_files_have_the_size_of_these_nets(name):
    """To the byte, as the hub's history tells them, but for the names; the norms' scales alone would be more."""
    entry = MODELS[name]
    with torch.device("meta"):
        nets = dalle_mini.Encoder(entry.words, **entry.config), dalle_mini.Decoder(entry.codebook_size, **entry.config)
    for net, file in zip(nets, (entry.encoder, entry.decoder), strict=True):
        numbers = sum(value.numel() for key, value in net.state_dict().items() if not key.endswith(WITHOUT_SCALE))
        assert 0 < PUBLISHED[file.name] - 2 * numbers < 100_000
        assert file.megabytes == pytest.approx(PUBLISHED[file.name] / 1e6, abs=0.6)


@pytest.mark.slow
@torch.no_grad()
def test_the_generator_shows_what_min_dalle_shows():
    """Same decoder, and pixels in [0, 1] where taming has [-1, 1]."""
    reference = VQGanDetokenizer().eval()
    for module in reference.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.eps = 1e-6  # taming's; min-dalle left torch's
    reference.decoder.conv_out.bias.fill_(0.5)
    with torch.device("meta"):
        net = VQModel(**GENERATORS[DalleMini.generator].config)
    state = {key.replace("embedding", "quantize.embedding"): value for key, value in reference.state_dict().items()}
    rest = net.load_state_dict(state, strict=False, assign=True)
    assert not rest.unexpected_keys and all(key.startswith(("encoder", "quant_conv")) for key in rest.missing_keys)
    tokens = torch.randint(CODES, (1, 16, 16))
    generator = Codebook("dalle_mini", net, 256)
    picture = generator.image(generator.from_tokens(tokens))[0]
    wanted = reference(False, tokens.flatten(1)).permute(2, 0, 1) / 255
    # With random weights float32 itself is 3e-5 off in so deep a net; in float64 the two agree to 1e-13.
    assert (picture - wanted).abs().max() <= 1e-4 and wanted.std() > 0.1


@torch.no_grad()
def test_the_generator_is_shown_pixels_as_they_are():
    """As Dayma's notebook encode_dataset encoded the pictures of the training."""
    net = VQModel(4, 4, 32, 32, (1, 1), 1, low=GENERATORS[DalleMini.generator].config["low"])
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(net.encode(images), net.quant_conv(net.encoder(images)))
