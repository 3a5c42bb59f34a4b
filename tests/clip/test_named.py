"""Models by name after 2021, small and with random weights, against transformers, open_clip and torch's layers."""

import json
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import clipgen
from clipgen.clip.published import HEADS, NAMED, apply_head, head_of, load_head
from clipgen.errors import ClipgenError
from clipgen.storage.weights import cache_folder

TEXTS = ["a red apple", "two dogs that sleep in the snow, oil on canvas", ""]
CONFIG = {  # a ViT-H/14 in small: its heads are 80 wide, too
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 160, "head_width": 80, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """The small architecture in the place of the published ones, and an empty cache."""
    monkeypatch.setenv("CLIPGEN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "small-h.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(tmp_path / "configs")
    for name, row in NAMED.items():
        files = tuple(replace(file, megabytes=None) for file in row.files)
        monkeypatch.setitem(NAMED, name, replace(row, model="small-h", files=files))
    torch.manual_seed(0)


def pictures():
    noise = np.random.default_rng(0).integers(0, 256, (2, 9, 12, 3), dtype=np.uint8)
    return [Image.fromarray(pixels).resize((120, 90), Image.Resampling.BICUBIC) for pixels in noise]


def livelier(net):
    """Weights so large that a mistake shows."""
    for weight in net.parameters():
        weight.data += 0.03 * torch.randn_like(weight)
    return net.eval()


def stored(name):
    file = cache_folder() / NAMED[name].files[0].name
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def transformers_clip():
    from transformers import CLIPConfig, CLIPModel

    both = {"num_hidden_layers": 2, "hidden_act": "gelu", "projection_dim": 32, "num_attention_heads": 2}
    text = both | {"hidden_size": 64, "intermediate_size": 256, "eos_token_id": 2}
    vision = both | {"hidden_size": 160, "intermediate_size": 640, "image_size": 64, "patch_size": 16}
    return livelier(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)))


@torch.no_grad()
def test_pickscore_equal_to_transformers():
    """Text and picture, and what its publisher computes of them: a softmax over the pictures."""
    from safetensors.torch import save_file

    reference = transformers_clip()
    save_file(reference.state_dict(), stored("pickscore"))
    ours = clipgen.load_perceptor("pickscore")
    tokens = open_clip.get_tokenizer("ViT-H-14")(TEXTS)
    pixels = torch.stack([ours.preprocess(picture) for picture in pictures()])
    theirs = reference(input_ids=tokens, pixel_values=pixels)
    assert (ours.embed_text(TEXTS) - theirs.text_embeds).abs().max() <= 1e-5
    assert (ours.embed_image(pictures()) - theirs.image_embeds).abs().max() <= 1e-5
    assert (theirs.text_embeds[0] - theirs.text_embeds[1]).abs().max() > 0.01
    preferred = theirs.logits_per_text.softmax(1).T  # (pictures, texts)
    assert (clipgen.rank(pictures(), TEXTS, ours) - preferred).abs().max() <= 1e-5
    again = clipgen.load_perceptor("pickscore")  # from the renamed copy
    assert torch.equal(again.embed_text(TEXTS), ours.embed_text(TEXTS))


@torch.no_grad()
@pytest.mark.parametrize("name", ["hps-v2.1", "clipag"])
def test_one_file_equal_to_open_clip(name):
    """HPS' weights lie in ``state_dict``, beside what its training needed."""
    reference = livelier(open_clip.create_model("small-h"))
    state = reference.state_dict()
    torch.save({"epoch": 1, "name": "x", "state_dict": state} if name == "hps-v2.1" else state, stored(name))
    ours = clipgen.load_perceptor(name)
    assert ours.is_preference == (name == "hps-v2.1") and ours.size == 64
    tokens = open_clip.get_tokenizer("ViT-H-14")(TEXTS)
    pixels = torch.stack([ours.preprocess(picture) for picture in pictures()])
    assert (ours.embed_text(TEXTS) - F.normalize(reference.encode_text(tokens), dim=1)).abs().max() <= 1e-5
    assert (ours.embed_image(pictures()) - F.normalize(reference.encode_image(pixels), dim=1)).abs().max() <= 1e-5


def save_aesthetic(tmp_path, monkeypatch):
    """A CLIP in a file of its own, and a linear head in the format of LAION's."""
    torch.save(livelier(open_clip.create_model("small-h")).state_dict(), tmp_path / "clip.pt")
    layer = torch.nn.Linear(32, 1)
    layer.weight.data *= 20
    model = f"small-h/{tmp_path / 'clip.pt'}"
    monkeypatch.setitem(NAMED, "aesthetic", replace(NAMED["aesthetic"], model=model))
    monkeypatch.setitem(HEADS, model, HEADS["ViT-L-14/openai"])
    file = cache_folder() / HEADS[model].name
    file.parent.mkdir(parents=True)
    torch.save(layer.state_dict(), file)
    return layer


def test_an_aesthetic_head_on_given_embeddings(tmp_path, monkeypatch):
    layer = save_aesthetic(tmp_path, monkeypatch)
    embeddings = F.normalize(torch.randn(5, 32), dim=1)
    head = load_head(HEADS["ViT-L-14/openai"], torch.device("cpu"))
    assert (apply_head(head, embeddings) - layer(embeddings)[:, 0]).abs().max() <= 1e-5
    judge = clipgen.load_perceptor("aesthetic")
    one, two = pictures()
    wanted = layer(judge.embed_image([one, two]))[:, 0].tolist()
    assert [judge.rate(one), judge.rate(two)] == pytest.approx(wanted, abs=1e-5)
    cosines = (judge.embed_image([one, two]) @ judge.embed_text(["any", "text"]).T).T
    assert torch.equal(cosines[0], cosines[1]) and (cosines[0].argmax() == torch.tensor(wanted).argmax())


@pytest.mark.slow
def test_a_run_is_judged_and_led_by_it(tmp_path, monkeypatch):
    layer = save_aesthetic(tmp_path, monkeypatch)
    clip = f"small-h/{tmp_path / 'clip.pt'}"
    quick = {"generator": "pixels", "init": "perlin", "size": (64, 64), "steps": 8, "every": 4, "cutouts": 2, "lr": 0.3}
    quick |= {"folder": tmp_path, "progress": False, "augment": "", "cut_min": 1.0, "keep": "best"}
    runs = [
        clipgen.generate("a cat", perceptor=clip, aesthetic=weight, judge="aesthetic", **quick) for weight in (0, 1)
    ]
    plain, led = ([row["judge"] for row in run.journal.scores] for run in runs)
    assert led[-1] > plain[-1] + 0.05 and led[-1] > led[0]
    seen = runs[1].models.judge.embed_image([runs[1].journal.frame(8)])
    assert led[-1] == pytest.approx(float(layer(seen).detach()), abs=1e-4)
    assert runs[1].best.scores["judge"] == pytest.approx(max(led), abs=1e-4)


def test_what_cannot_be_had_is_said_before_anything_is_loaded(tmp_path):
    with pytest.raises(ClipgenError, match=r"aesthetic=0.1: mini cannot give it; choose perceptor='ViT-L-14/openai'"):
        clipgen.Run("a cat", aesthetic=0.1, folder=tmp_path)
    with pytest.raises(ClipgenError, match=r"aesthetic=0\.1: ViT-H-14/laion2b_s32b_b79k cannot give it"):
        clipgen.Run("a cat", perceptor="ViT-H-14/laion2b_s32b_b79k", generator="fft", aesthetic=0.1, folder=tmp_path)
    with pytest.raises(ClipgenError, match=r"neuron='3': write layer:unit"):
        clipgen.Run("a cat", neuron="3", folder=tmp_path)


@pytest.mark.parametrize("name", ["ViT-L-14/openai", "ViT-L/14", "ViT-B-32/openai", "ViT-B/16", "aesthetic-b32"])
def test_heads_are_found_by_every_name_of_their_clip(name, monkeypatch):
    monkeypatch.undo()
    architecture = "ViT-B-32" if name == "aesthetic-b32" else name.replace("/1", "-1").partition("/")[0]
    assert head_of(name).name == f"clip/sa_0_4_{architecture.lower().replace('-', '_')}_linear.pth"
    assert not any(map(head_of, ("ViT-L-14-336/openai", "evaluator", "fare2")))


def test_robust_clips_are_models_of_the_hub(monkeypatch):
    monkeypatch.undo()
    assert [NAMED[name].model for name in ("fare2", "fare4", "tecoa4")] == [
        "hf-hub:chs20/fare2-clip",
        "hf-hub:chs20/fare4-clip",
        "hf-hub:chs20/tecoa4-clip",
    ]
