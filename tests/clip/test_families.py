"""One model of each family that open_clip lists, by name, as wide as published, with random weights and no network.

Weights and tokenizers lie where the hub's library or clipgen would have put them. A family whose text tower is built by
transformers has its configuration on the hub as well; it is given the published sizes. What cannot be run here: the
published weights and vocabularies (a small one tells the words apart), and the worldwide MetaCLIP 2, of which none has
less than a billion parameters.
"""

import json
import re
from copy import deepcopy

import huggingface_hub.constants
import open_clip
import pytest
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

import clipgen
from clipgen.clip import catalogue, openclip, published
from clipgen.clip.published import find_remote, list_published
from clipgen.errors import ClipgenError
from clipgen.storage.weights import cache_folder

FARE = "hf-hub:chs20/fare4-clip"  # a ViT-L/14, says its card; here a ViT-B/32, which is a quarter of it
FAMILIES = {
    "RN50/yfcc15m": (224, 1024),
    "ViT-B-32/laion2b_s34b_b79k": (224, 512),
    FARE: (224, 512),
    "ViT-L-14-CLIPA/datacomp1b": (224, 768),
    "ViT-B-16-SigLIP2/webli": (224, 768),
    "MobileCLIP2-S0/dfndr2b": (256, 512),
    "EVA02-B-16/merged2b_s8b_b131k": (224, 512),
    "ViTamin-S/datacomp1b": (224, 384),
    "PE-Core-T-16-384/meta": (384, 512),
    "convnext_base/laion400m_s13b_b51k": (224, 512),
    "coca_ViT-B-32/laion2b_s13b_b90k": (224, 512),
    "roberta-ViT-B-32/laion2b_s12b_b32k": (224, 512),
    "xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k": (224, 512),
    "nllb-clip-base/v1": (224, 512),
}
ROBERTA = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "pad_token_id": 1,
}
TOWERS = {  # the text towers that transformers builds: the published sizes, but for vocabularies of up to 256,206
    "roberta-base": ROBERTA | {"model_type": "roberta", "vocab_size": 1000},
    "xlm-roberta-base": ROBERTA | {"model_type": "xlm-roberta", "vocab_size": 1000},
    "facebook/nllb-200-distilled-600M": {
        "model_type": "m2m_100",
        "vocab_size": 1000,
        "d_model": 1024,
        "encoder_layers": 12,
        "decoder_layers": 0,  # published with 12, which open_clip leaves out
        "encoder_ffn_dim": 4096,
        "decoder_ffn_dim": 4096,
        "encoder_attention_heads": 16,
        "decoder_attention_heads": 16,
        "max_position_embeddings": 1024,
        "pad_token_id": 1,
    },
}
WORDS = ["<s>", "<pad>", "</s>", "<unk>", "a", "red", "apple", "blue", "dog", "in", "the", "rain"]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Makes the folder of a repository in an empty cache of the hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def repository(name):
        folder = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / "main").write_text("0" * 40)
        (folder / "snapshots" / ("0" * 40)).mkdir(parents=True, exist_ok=True)
        return folder / "snapshots" / ("0" * 40)

    yield repository
    for file in (*tmp_path.rglob("*.safetensors"), *tmp_path.rglob("*.pt")):  # gigabytes that pytest would keep
        file.unlink()


def save_tokenizer(folder):
    fast = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "<unk>"))
    fast.normalizer, fast.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    fast.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    marks = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=fast, **marks).save_pretrained(folder)


def save_random(architecture, file):
    """The weights that a training would start with, in 16 bits, where ``file`` says; returns how many numbers."""
    net = open_clip.create_model(architecture, pretrained_text=False).half()
    file.parent.mkdir(parents=True, exist_ok=True)
    (torch.save if file.suffix == ".pt" else save_file)(net.state_dict(), file)
    return sum(value.numel() for value in net.parameters())


def family(architecture):
    special = re.search("SigLIP|CLIPA|worldwide", architecture) or re.match("[A-Za-z]+", architecture)
    return special[0]


def test_no_family_is_forgotten():
    listed = {family(architecture) for architecture, _ in list_published()}
    assert listed - {family(name) for name in FAMILIES if name != FARE} == {"worldwide"}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ViT-L-14/datacomp_xl", ("ViT-L-14", "datacomp_xl_s13b_b90k")),
        ("ViT-L-14/laion2b", ("ViT-L-14", "laion2b_s32b_b82k")),
        ("ViT-L-14/dfn2b", ("ViT-L-14", "dfn2b")),  # though it begins another, too
        ("ViT-L-14/open", ("ViT-L-14", "openai")),
        ("ViT-B-16-SigLIP2", ("ViT-B-16-SigLIP2", "webli")),
        ("MobileCLIP2-S0", ("MobileCLIP2-S0", "dfndr2b")),
        ("RN50", ("RN50", "openai")),  # as the paper calls it
    ],
)
def test_a_tag_in_short(name, meant):
    assert catalogue.find_family(name) is openclip.OpenCLIP and published.parse_name(name) == meant


@pytest.mark.parametrize("name", ["ViT-L-14/commonpool_xl", "ViT-L-14/laion400m", "ViT-L-14", "ViT-L-14/atacomp"])
def test_a_tag_too_short_is_answered_with_those_that_there_are(name):
    with pytest.raises(ClipgenError, match=r"(tag of ViT-L-14|name its weights).*datacomp_xl_s13b_b90k"):
        clipgen.load_perceptor(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_reads_texts_and_sees_pictures(name, hub, monkeypatch):
    side, width = FAMILIES[name]
    configs = deepcopy(open_clip.factory._MODEL_CONFIGS)
    for tower in (config.get(f"{tower}_cfg", {}) for config in configs.values() for tower in ("vision", "text")):
        if isinstance(tower.get("layers"), int):  # as wide as published; the layers are alike
            tower["layers"] = 2
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", configs)
    architecture = "ViT-B-32" if name == FARE else name.partition("/")[0]
    if architecture == "ViT-B-16-SigLIP2":  # as the vocabularies above
        configs[architecture]["text_cfg"]["vocab_size"] = 1000
    config = open_clip.get_model_config(architecture)
    for key in ("hf_tokenizer_name", "hf_model_name"):
        if there := config["text_cfg"].get(key):
            save_tokenizer(folder := hub(there))
            (folder / "config.json").write_text(json.dumps(TOWERS.get(there, {"model_type": "bert"})))
    if name == FARE:
        folder = hub("chs20/fare4-clip")
        (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
        file = folder / "open_clip_model.safetensors"
    else:
        file = cache_folder() / find_remote(*name.split("/")).name
    count = save_random(architecture, file)
    assert 1e7 < count < 7e8

    perceptor = clipgen.load_perceptor(name)
    assert perceptor.size == side
    texts = perceptor.embed_text(["a red apple", "a blue dog in the rain"])
    assert texts.shape == (2, width) and torch.allclose(texts.norm(dim=1), torch.ones(2), atol=1e-4)
    assert (texts[0] - texts[1]).abs().max() > 1e-3
    assert perceptor.fits("a red apple") and not perceptor.fits("apple " * 600)
    pixels = torch.rand(1, 3, side, side, requires_grad=True)
    seen = perceptor.encode_image(pixels)
    assert seen.shape == (1, width) and torch.allclose(seen.norm(dim=1), torch.ones(1), atol=1e-4)
    (seen @ texts[0]).sum().backward()
    assert pixels.grad.isfinite().all() and (pixels.grad != 0).float().mean() > 0.99
