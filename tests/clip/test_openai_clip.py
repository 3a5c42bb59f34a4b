"""open_clip's nets, loaded by us, against OpenAI's package ``clip``, through both published formats."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

import clipgen
from clipgen.clip.catalogue import embed
from clipgen.clip.openclip import OpenCLIP
from clipgen.errors import ClipgenError
from clipgen.storage import weights

TEXTS = [
    "a photo of a cat",
    "",
    "A  Red\tApple!!",
    "cafÃ© au lait",
    "fish &amp; chips &lt;3",
    "naïve 東京 🐈",
    "it's the dog's 3.14159 tails",
    "a" * 60,
]
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
VISION = {
    "tiny-vit": {"image_size": 64, "layers": 2, "width": 64, "patch_size": 32},
    "tiny-resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 32, "patch_size": None},
}


@pytest.fixture(scope="module", autouse=True)
def architectures(tmp_path_factory):
    """Small architectures in open_clip's own registry."""
    folder = tmp_path_factory.mktemp("configs")
    for name, vision in VISION.items():
        for suffix, quick in (("", False), ("-quickgelu", True)):
            config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": TEXT, "quick_gelu": quick}
            (folder / f"{name}{suffix}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


def reference(clip, name, folder, torchscript):
    """OpenAI's model in half precision, as a TorchScript archive or a state dict, loaded by its own package."""
    vision = VISION[name]
    model = clip.model.CLIP(32, 64, vision["layers"], vision["width"], vision["patch_size"], 77, 49408, 64, 1, 2)
    model.eval()
    for p in model.parameters():
        p.data += 0.02 * torch.randn_like(p)
        p.data = p.data.half().float()
    file = folder / f"{name}.pt"
    if torchscript:
        del model.context_length, model.vocab_size
        for key, value in (("input_resolution", 64), ("context_length", 77), ("vocab_size", 49408)):
            model.register_buffer(key, torch.tensor(value))
        images, tokens = torch.rand(1, 3, 64, 64), clip.tokenize("a cat")
        inputs = {"forward": (images, tokens), "encode_image": images, "encode_text": tokens}
        torch.jit.save(torch.jit.trace_module(model, inputs, check_trace=False).half(), file)
        return *clip.load(str(file), device="cpu"), file
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    torch.save(state, file)
    # (Its ``load`` cannot read state dicts under today's torch.)
    return clip.model.build_model(dict(state)).float(), clip.clip._transform(64), file


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("torchscript", [True, False])
@pytest.mark.parametrize("name", VISION)
def test_equal_to_the_reference(name, torchscript, openai_clip, tmp_path):
    model, preprocess, file = reference(openai_clip, name, tmp_path, torchscript)
    # A TorchScript archive is OpenAI's and implies QuickGELU; for a state dict the name has to say so.
    perceptor = clipgen.load_perceptor(f"{name}{'' if torchscript else '-quickgelu'}/{file}")
    assert perceptor.size == 64 and perceptor.bias is None
    assert torch.isclose(torch.tensor(perceptor.scale), model.logit_scale.exp())

    tokens = openai_clip.tokenize(TEXTS)
    assert torch.equal(perceptor.tokenizer(TEXTS), tokens.long())
    with perceptor.text_tower.loaded():
        assert (perceptor.net.encode_text(tokens.long()) - model.encode_text(tokens)).abs().max() <= 1e-5

    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((300, 200))
    pixels = preprocess(picture)[None]
    assert (perceptor.net.encode_image(pixels) - model.encode_image(pixels)).abs().max() <= 1e-5
    views = torch.rand(2, 3, 64, 64)
    wanted = torch.nn.functional.normalize(model.encode_image((views - perceptor.mean) / perceptor.std), dim=1)
    assert (perceptor.encode_image(views) - wanted).abs().max() <= 1e-5
    wanted = model(pixels, tokens)[0].softmax(1)
    assert (clipgen.rank(picture, TEXTS, perceptor) - wanted).abs().max() <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", VISION)
def test_weights_in_bf16_are_what_autocast_makes_of_them(name, openai_clip, tmp_path):
    *_, file = reference(openai_clip, name, tmp_path, False)
    wide, settled = (clipgen.load_perceptor(f"{name}/{file}", precision=p) for p in ("fp32", "bf16"))
    wide.precision = "bf16"
    views = torch.rand(2, 3, 64, 64, requires_grad=True)
    found = [made.encode_image(views) for made in (wide, settled)]
    gradients = [torch.autograd.grad(vectors[:, 0].sum(), views)[0] for vectors in found]
    assert torch.equal(*found) and torch.equal(*gradients) and gradients[0].abs().sum() > 0
    picture = Image.new("RGB", (80, 60), "red")
    assert torch.equal(settled.embed_text(["a cat"]), wide.embed_text(["a cat"]))
    assert torch.equal(settled.embed_image([picture]), wide.embed_image([picture]))
    kinds = [weight.dtype for weight in settled.net.visual.parameters()]
    assert {torch.bfloat16, torch.float32} == set(kinds), "products in bf16, norms not"


def test_the_text_tower_is_in_the_file_while_no_text_is_read(openai_clip, tmp_path):
    model, _, file = reference(openai_clip, "tiny-vit", tmp_path, False)
    perceptor = clipgen.load_perceptor(f"tiny-vit-quickgelu/{file}")
    names = [name for name, weight in model.named_parameters() if weight.dim() > 1 and not name.startswith("visual.")]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: perceptor.embed_text([TEXTS[n % 3]]), range(12)))
    wanted = F.normalize(model.encode_text(openai_clip.tokenize(TEXTS)), dim=1)
    assert all((found[n][0] - wanted[n % 3]).abs().max() <= 1e-5 for n in range(12))
    assert len(names) > 8 and not sum(perceptor.net.get_parameter(name).numel() for name in names)
    stored = weights.as_safetensors(file)
    for harm in (lambda: save_file({"positional_embedding": torch.zeros(2)}, stored), stored.unlink):
        harm()
        with pytest.raises(ClipgenError, match="was deleted or changed while it was in use: load the perceptor again"):
            perceptor.embed_text(["a cat"])


def test_what_is_too_long_is_quoted(openai_clip, tmp_path):
    *_, file = reference(openai_clip, "tiny-vit", tmp_path, False)
    perceptor = clipgen.load_perceptor(f"tiny-vit/{file}")
    long = " ".join(f"word{i}" for i in range(40))
    with pytest.warns(UserWarning, match="this is dropped: 'word28 .* word39'"):
        vectors = embed(perceptor, ["a cat", long])
    short = perceptor.embed_text([" ".join(long.split()[:28])])
    cut = openai_clip.tokenize(long, truncate=True)
    assert torch.equal(perceptor.tokenizer([long]), cut.long()) and vectors.shape == (2, 32) and short.shape == (1, 32)


@pytest.mark.slow
def test_paper_names_and_ensembles(openai_clip, tmp_path, monkeypatch):
    monkeypatch.setattr(OpenCLIP, "__init__", lambda self, name, device: setattr(self, "name", name))
    monkeypatch.setattr(OpenCLIP, "set_precision", lambda self, precision: None)
    for name in ("ViT-B/32", "RN50x4", "ViT-L/14@336px", "hf-hub:org/model"):
        assert clipgen.load_perceptor(name).name == name
    monkeypatch.undo()
    *_, vit = reference(openai_clip, "tiny-vit", tmp_path, True)
    *_, resnet = reference(openai_clip, "tiny-resnet", tmp_path, True)
    run = clipgen.generate(
        "a cat",
        perceptor=f"tiny-vit/{vit} | tiny-resnet/{resnet}:3 | mini:0.5",
        steps=4,
        every=1,
        cutouts=8,
        size=(64, 64),
        progress=False,
        folder=tmp_path / "runs",
    )
    assert [share for _, share in run.models.perceptors] == pytest.approx([1 / 4.5, 3 / 4.5, 0.5 / 4.5])
    assert run.finished and run.settings.init == "random"
    rows = run.journal.scores
    assert len(rows) == 4 and rows[-1]["loss"] < rows[0]["loss"]


def test_mistakes_are_named(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"")
    for name, says in (
        ("ViT-Z-99/openai", "no architecture 'ViT-Z-99'"),
        ("ViT-B-32/nonsense", "neither a file nor a tag .*laion2b_s34b_b79k"),
        (f"tiny-vit/{tmp_path / 'x.pt'}", "cannot be read as plain weights"),
        ("ViT-B-32/openai", "put it here: .*clip/ViT-B-32-openai.pt"),
        ("ViT-B/32", "HF_HUB_OFFLINE is set"),
        ("hf-hub:nobody/nothing", "cannot be loaded"),
    ):
        with pytest.raises(ClipgenError, match=says):
            clipgen.load_perceptor(name)
    torch.save({"visual.proj": torch.zeros(2, 2)}, tmp_path / "other.pt")
    with pytest.raises(ClipgenError, match=r"cannot be loaded: Error.* in loading state_dict"):
        clipgen.load_perceptor(f"tiny-vit/{tmp_path / 'other.pt'}")
