"""A SigLIP-like model: sigmoid, its own normalisation, tokenizer and context length, all taken from the model."""

import json

import open_clip
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import clipgen
from clipgen.clip.catalogue import embed


@pytest.fixture
def folder(tmp_path):
    words = ["<pad>", "</s>", "<unk>", *["a", "the", "photo", "of", "cat", "dog", "red", "blue", "apple", "on"]]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    fast.save_pretrained(tmp_path)
    text = {
        "context_length": 8,
        "vocab_size": len(words),
        "width": 64,
        "heads": 1,
        "layers": 1,
        "pool_type": "last",
        "no_causal_mask": True,
        "hf_tokenizer_name": "local",
    }
    vision = {"image_size": 48, "layers": 1, "width": 64, "patch_size": 16}
    model = {
        "embed_dim": 16,
        "init_logit_bias": -10,
        "init_logit_scale": 2.3,
        "custom_text": True,
        "vision_cfg": vision,
        "text_cfg": text,
    }
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": preprocess}))
    net = open_clip.create_model(f"local-dir:{tmp_path}", load_weights=False)
    torch.save(net.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    return tmp_path


def test_sigmoid_tokenizer_and_sizes_are_the_models(folder):
    perceptor = clipgen.load_perceptor(f"local-dir:{folder}")
    assert (perceptor.size, perceptor.context_length, perceptor.bias) == (48, 8, -10)
    assert perceptor.mean.flatten().tolist() == [0.5] * 3
    picture = Image.new("RGB", (100, 50), "red")
    probabilities = clipgen.rank([picture, picture.rotate(90)], ["a red apple", "a blue dog", "a cat"], perceptor)
    images = perceptor.embed_image([picture])
    texts = perceptor.embed_text(["a red apple", "a blue dog", "a cat"])
    wanted = (images @ texts.T * perceptor.scale + perceptor.bias).sigmoid()
    assert torch.allclose(probabilities[:1], wanted) and probabilities.sum() < 1

    with pytest.warns(UserWarning, match="this is dropped: 'the red apple'"):
        embed(perceptor, ["a photo of the cat on a the red apple"])
    run = clipgen.generate(
        "a red apple", perceptor=f"local-dir:{folder}", steps=3, size=(64, 64), progress=False, folder=folder / "runs"
    )
    assert run.finished
