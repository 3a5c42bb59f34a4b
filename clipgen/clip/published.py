"""Published CLIPs: what open_clip lists, and others by name that it loads; where their weights are.

The others were trained on people's preferences, or against attacks on their pictures: Kirstain et al. 2023 (PickScore),
Wu et al. 2023 (HPS v2), Schlarmann et al. 2024 (FARE), Mao et al. 2023 (TeCoA), Ganz and Elad 2024 (CLIPAG). Their
sizes and memory are computed from the numbers of weights and activations.
"""

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from os.path import isfile  # not Path.is_file: a name may be too long for a path
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from clipgen.clip.tokenizer import open_clip_folder
from clipgen.errors import ClipgenError, suggest
from clipgen.storage import weights
from clipgen.storage.download import check_hub
from clipgen.storage.remote import Published, Remote, fetch

PREFIXES = ("hf-hub:", "local-dir:")
# What the CLIP paper's repository calls OpenAI's models, and open_clip's architectures.
_OPENAI = ("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px")
_PAPER_NAMES = {name: name.replace("/", "-").replace("@336px", "-336") for name in _OPENAI}
# OpenAI's files by their SHA-256, from the CLIP paper's repository; open_clip lists them up to version 3 only.
_OPENAI_FILES = {
    "RN50": "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762/RN50.pt",
    "RN101": "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599/RN101.pt",
    "RN50x4": "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd/RN50x4.pt",
    "RN50x16": "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa/RN50x16.pt",
    "RN50x64": "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c/RN50x64.pt",
    "ViT-B-32": "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
    "ViT-B-16": "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f/ViT-B-16.pt",
    "ViT-L-14": "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt",
    "ViT-L-14-336": "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02/ViT-L-14-336px.pt",
}
_OPENAI_ADDRESS = "https://openaipublic.azureedge.net/clip/models/"


@cache
def _pretrained() -> ModuleType:
    """Import open_clip's lists alone, under another name: importing all of open_clip takes seconds."""
    package = ModuleType("_open_clip_lists")
    package.__path__ = [str(open_clip_folder())]
    sys.modules[package.__name__] = package
    return import_module(f"{package.__name__}.pretrained")


def open_clip_lists() -> ModuleType:
    """Return a module with open_clip's functions that list published weights."""
    return sys.modules.get("open_clip") or _pretrained()


def list_published() -> list[tuple[str, str]]:
    """Return (architecture, tag) of all published weights of models of pictures and texts."""
    return [
        (name, tag) for name, tag in open_clip_lists().list_pretrained() if is_image_text_model(read_config(name) or {})
    ]


def is_image_text_model(config: Mapping[str, Any]) -> bool:
    """Return whether a configuration is of a model that compares pictures with texts, not sounds or captions."""
    return "vision_cfg" in config and "genlip_cfg" not in config


def read_config(architecture: str) -> dict[str, Any] | None:
    """Return open_clip's configuration of an architecture, or None if it has none of this name."""
    if imported := sys.modules.get("open_clip"):  # with what people have registered
        return imported.get_model_config(architecture)
    file = open_clip_folder() / "model_configs" / f"{architecture}.json"
    return json.loads(file.read_text(encoding="utf-8")) if isfile(file) else None


def find_remote(architecture: str, tag: str) -> Remote:
    """Return where open_clip says that a model's weights are."""
    config = open_clip_lists().get_pretrained_cfg(architecture, tag)
    sources = []
    if hub := config.get("hf_hub"):
        repo, _, file = hub.rpartition("/")
        files = [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
        sources = [f"hf:{repo}/{file}" for file in files]
    url, digest = config.get("url"), None
    if tag == "openai" and (own := _OPENAI_FILES.get(architecture.removesuffix("-quickgelu"))):
        url = _OPENAI_ADDRESS + own
    if url:
        sources.append(url)
        # OpenAI writes the checksum into the address, mlfoundations its first digits.
        match = re.search(r"/([0-9a-f]{64})/[^/]+$|-([0-9a-f]{8})\.pt$", url)
        digest = match and (match[1] or match[2])
    suffixes = [Path(url).suffix, ".safetensors"] if url else [".safetensors", ".pt"]
    name, other_name = (f"clip/{architecture}-{tag}{suffix}" for suffix in suffixes)
    return Remote(name, tuple(sources), sha256=digest, other_name=other_name)


def check_hub_model(name: str) -> None:
    """Raise ClipgenError if a model of the hub is not available."""
    if name.startswith("hf-hub:"):
        check_hub(name.removeprefix("hf-hub:"), "open_clip_config.json")


def check_kind(name: str, config: Mapping[str, Any]) -> None:
    """Raise ClipgenError for a model that does not compare pictures with texts."""
    if not is_image_text_model(config):
        raise ClipgenError(
            f"perceptor={name!r}: it does not compare pictures with texts; `clipgen models` lists what does"
        )


def parse_name(name: str) -> tuple[str, str]:
    """Return (architecture, tag or file). The unique beginning of a tag is completed. Raises ClipgenError."""
    architecture, _, tag = name.partition("/")
    if name in _PAPER_NAMES:
        architecture, tag = _PAPER_NAMES[name], "openai"
    config = read_config(architecture)
    if config is None:
        nearest = suggest(architecture, dict(list_published()))
        raise ClipgenError(
            f"perceptor={name!r}: open_clip has no architecture {architecture!r}; {nearest}"
            "`clipgen models` lists what there is"
        )
    check_kind(name, config)
    if open_clip_lists().get_pretrained_cfg(architecture, tag) or isfile(tag):
        return architecture, tag
    tags = open_clip_lists().list_pretrained_tags_by_model(architecture)
    matches = [full for full in tags if full.startswith(tag)]
    if len(matches) == 1:
        return architecture, matches[0]
    if not tag and tags:
        raise ClipgenError(f"perceptor={name!r}: also name its weights, such as {name}/{tags[0]}; of {', '.join(tags)}")
    raise ClipgenError(
        f"perceptor={name!r}: {suggest(tag, tags)}{tag!r} is neither a file nor a tag of {architecture} nor the "
        f"beginning of only one of them: {', '.join(tags) or 'none'}"
    )


# --- CLIPs after 2021, by name --------------------------------------------------------------------------


@dataclass(frozen=True)
class Named(Published):
    """A row of the table. Its ``memory`` is that of a step with 16 cutouts, without the generator."""

    model: str  # a name that OpenCLIP loads, or with ``files`` the architecture of the weights in them
    note: str
    is_preference: bool = False  # whether its scores compare pictures for a text


_ROBUST: dict[str, Any] = {
    "note": "trained against attacks: its gradient draws shapes where a plain CLIP's draws grain"
}
_PREFERENCE: dict[str, Any] = {
    "model": "ViT-H-14",
    "note": "trained on which of two pictures people prefer; compare its scores, they are not probabilities",
    "memory": 11.3,
    "is_preference": True,
}
_AESTHETIC: dict[str, Any] = {
    "note": "LAION's score of beauty, about 1 to 10, without a text: a judge, or aesthetic=0.1 with the same CLIP",
    "licence": "MIT",
    "proof": "openai-clip, torch's Linear",
}
_B32: dict[str, Any] = {"hub_megabytes": 605, "memory": 0.7}
_B16: dict[str, Any] = {"hub_megabytes": 598, "memory": 1.9}
_L14: dict[str, Any] = {"hub_megabytes": 1710, "memory": 6.5}
_PICKSCORE = tuple(f"hf:yuvalkirstain/PickScore_v1/{file}" for file in ("model.safetensors", "pytorch_model.bin"))
_HPS = Remote("clip/hps-v2.1.pt", ("hf:xswu/HPSv2/HPS_v2.1_compressed.pt",), 1972)
_CLIPAG = Remote("clip/clipag.pt", ("https://zenodo.org/records/10446026/files/CLIPAG_ViTB32.pt",))
_HEADS = "https://github.com/LAION-AI/aesthetic-predictor/raw/6d122adad522ab246644d9dc1c6d7a3810ee255f"

NAMED: dict[str, Named] = {
    "pickscore": Named(
        files=(Remote("clip/pickscore.safetensors", _PICKSCORE, 3944),), proof="transformers", **_PREFERENCE
    ),
    "hps-v2.1": Named(files=(_HPS,), licence="Apache-2.0", proof="open_clip", **_PREFERENCE),
    "fare2": Named("hf-hub:chs20/fare2-clip", proof="open_clip", **_ROBUST, **_L14),
    "fare4": Named("hf-hub:chs20/fare4-clip", proof="open_clip", **_ROBUST, **_L14),
    "tecoa4": Named("hf-hub:chs20/tecoa4-clip", proof="open_clip", **_ROBUST, **_L14),
    "clipag": Named("ViT-B-32", files=(_CLIPAG,), licence="not stated", proof="open_clip", **_ROBUST, **_B32),
    "aesthetic": Named("ViT-L-14/openai", **_AESTHETIC, **_L14),
    "aesthetic-b16": Named("ViT-B-16/openai", **_AESTHETIC, **_B16),
    "aesthetic-b32": Named("ViT-B-32/openai", **_AESTHETIC, **_B32),
}
# Linear layers on the embeddings of these CLIPs, which score a picture without a text.
HEADS = {
    f"ViT-{size}/openai": Remote(f"clip/{file}", (f"{_HEADS}/{file}",))
    for size, file in (
        ("L-14", "sa_0_4_vit_l_14_linear.pth"),
        ("B-16", "sa_0_4_vit_b_16_linear.pth"),
        ("B-32", "sa_0_4_vit_b_32_linear.pth"),
    )
}


def loadable_name(name: str) -> str:
    """Return what open_clip loads under a name: that of a hub's model, or architecture/tag or architecture/file."""
    if name not in NAMED:
        return name
    if not NAMED[name].files:
        return NAMED[name].model
    (file,) = NAMED[name].files
    return f"{NAMED[name].model}/{weights.as_safetensors(fetch(file), name=file.name, convert=from_transformers)}"


def head_of(perceptor: str) -> Remote | None:
    """Return the head for a perceptor's embeddings; None if there is none."""
    if perceptor in NAMED:
        return HEADS.get(NAMED[perceptor].model)
    if "/" not in perceptor or perceptor.startswith(PREFIXES):
        return None
    return HEADS.get("/".join(parse_name(perceptor)))


def load_head(file: Remote, device: torch.device) -> Tensor:
    """Return the weights of a published head, followed by its bias, (d + 1,)."""
    tensors, _ = weights.load_weights(weights.as_safetensors(fetch(file)))
    return torch.cat([tensors["weight"][0], tensors["bias"]]).to(device)


def apply_head(head: Tensor, embeddings: Tensor) -> Tensor:
    """Return the scores (N,) of unit embeddings (N, d)."""
    return embeddings @ head[:-1] + head[-1]


_RENAMES = {  # parts of transformers' names of weights; applied in this order
    "text_model.": "",
    "vision_model.": "visual.",
    "embeddings.": "",
    "position_embedding.weight": "positional_embedding",
    "patch_embedding": "conv1",
    "pre_layrnorm": "ln_pre",
    "post_layernorm": "ln_post",
    "final_layer_norm": "ln_final",
    "encoder.layers": "transformer.resblocks",
    "self_attn": "attn",
    "layer_norm": "ln_",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "text_projection.weight": "text_projection",
    "visual_projection.weight": "visual.proj",
}


def from_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of transformers' CLIPModel under open_clip's names, which stay as they are."""
    renamed = {}
    for key, value in tensors.items():
        if key.endswith("position_ids") or ".k_proj." in key or ".v_proj." in key:
            continue
        if ".q_proj." in key:
            value = torch.cat([tensors[key.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"])
            key = key.replace(".q_proj.", ".in_proj_")
        if key.endswith("_projection.weight"):
            value = value.T.contiguous()
        for theirs, ours in _RENAMES.items():
            key = key.replace(theirs, ours)
        renamed[key] = value
    return renamed
