"""CLIPs after 2021, by name: trained on people's preferences, or against attacks on their pictures.

Sources: Kirstain et al. 2023 (PickScore), Wu et al. 2023 (HPS v2), Schlarmann et al. 2024 (FARE), Mao et al. 2023
(TeCoA), Ganz and Elad 2024 (CLIPAG). Sizes and memory are
computed from the numbers of weights and activations.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from clipgen.clip.openclip import PREFIXES, OpenCLIP, load_model, parse_name
from clipgen.storage import weights
from clipgen.storage.remote import Remote, fetch

_ROBUST = "trained against attacks: its gradient draws shapes where a plain CLIP's draws grain"
_PREFERENCE = "trained on which of two pictures people prefer; compare its scores, they are not probabilities"
_BEAUTY = "LAION's score of beauty, about 1 to 10, without a text: a judge, or aesthetic=0.1 with the same CLIP"
_HEADS = "https://github.com/LAION-AI/aesthetic-predictor/raw/6d122adad522ab246644d9dc1c6d7a3810ee255f"


@dataclass(frozen=True)
class Named:
    """A row of the table: where a model is, and what must be known before it is loaded."""

    model: str  # a name that OpenCLIP loads, or with a ``file`` the architecture of the weights in it
    note: str
    megabytes: int
    memory: float  # GB of a step with 16 cutouts in fp32, without the generator
    file: Remote | None = None
    licence: str = "see hub page"
    proof: str = "open_clip"  # what it is proven equal to
    is_preference: bool = False  # whether its scores compare pictures for a text
    head: Remote | None = None  # a linear layer on the embedding, which scores a picture without a text


def _robust(name: str) -> Named:
    return Named(f"hf-hub:chs20/{name}-clip", _ROBUST, 1710, 6.5)


def _preference(file: Remote, licence: str, proof: str) -> Named:
    return Named("ViT-H-14", _PREFERENCE, int(file.megabytes or 0), 11.3, file, licence, proof, is_preference=True)


def _aesthetic(architecture: str, megabytes: int, memory: float) -> Named:
    file = f"sa_0_4_{architecture.lower().replace('-', '_')}_linear.pth"
    head = Remote(f"clip/{file}", (f"{_HEADS}/{file}",))
    proof = "openai-clip, torch's Linear"
    return Named(f"{architecture}/openai", _BEAUTY, megabytes, memory, licence="MIT", proof=proof, head=head)


_PICKSCORE = tuple(f"hf:yuvalkirstain/PickScore_v1/{file}" for file in ("model.safetensors", "pytorch_model.bin"))
_CLIPAG = Remote("clip/clipag.pt", ("https://zenodo.org/records/10446026/files/CLIPAG_ViTB32.pt",))
NAMED: Mapping[str, Named] = {
    "pickscore": _preference(Remote("clip/pickscore.safetensors", _PICKSCORE, 3944), "see hub page", "transformers"),
    "hps-v2.1": _preference(
        Remote("clip/hps-v2.1.pt", ("hf:xswu/HPSv2/HPS_v2.1_compressed.pt",), 1972), "Apache-2.0", "open_clip"
    ),
    "fare2": _robust("fare2"),
    "fare4": _robust("fare4"),
    "tecoa4": _robust("tecoa4"),
    "clipag": Named("ViT-B-32", _ROBUST, 605, 0.7, _CLIPAG, "not stated"),
    "aesthetic": _aesthetic("ViT-L-14", 1710, 6.5),
    "aesthetic-b16": _aesthetic("ViT-B-16", 598, 1.9),
    "aesthetic-b32": _aesthetic("ViT-B-32", 605, 0.7),
}


class NamedCLIP(OpenCLIP):
    """A model of the table, loaded by open_clip."""

    @classmethod
    def knows(cls, name: str) -> bool:
        return name in NAMED

    @classmethod
    def check(cls, name: str) -> None:
        """Do nothing: the table's models exist."""

    @classmethod
    def has_patches(cls, name: str) -> bool:
        return True  # all are plain ViTs

    @staticmethod
    def load(name: str) -> tuple[Any, Any, Path | None]:
        entry = NAMED[name]
        if entry.file is None:
            return OpenCLIP.load(entry.model)
        file = weights.as_safetensors(fetch(entry.file), name=entry.file.name, convert=from_transformers)
        return load_model(entry.model, file)

    def __init__(self, name: str, device: torch.device | str = "cpu"):
        super().__init__(name, device)
        self.is_preference = NAMED[name].is_preference
        file = NAMED[name].head
        self.head = load_head(file, self.device) if file else None

    def embed_text(self, texts: list[str]) -> Tensor:
        """Return unit vectors (P, d); with a head, whose score reads no text, its direction for each text."""
        if self.head is None:
            return super().embed_text(texts)
        return F.normalize(self.head[:-1], dim=0).expand(len(texts), -1)

    def rate(self, picture: Image.Image) -> float | None:
        return None if self.head is None else float(apply_head(self.head, self.embed_image([picture])))


# --- a linear layer on the embedding, which scores a picture without a text -----------------------------


def load_head(file: Remote, device: torch.device) -> Tensor:
    """Return the weights of a published head, followed by its bias, (d + 1,)."""
    tensors, _ = weights.load_weights(weights.as_safetensors(fetch(file)))
    return torch.cat([tensors["weight"][0], tensors["bias"]]).to(device)


def apply_head(head: Tensor, embeddings: Tensor) -> Tensor:
    """Return the scores (N,) of unit embeddings (N, d)."""
    return embeddings @ head[:-1] + head[-1]


def head_of(perceptor: str) -> Remote | None:
    """Return the head for a perceptor's embeddings; None if there is none."""
    if perceptor in NAMED:
        return NAMED[perceptor].head
    if perceptor.startswith(PREFIXES) or not OpenCLIP.knows(perceptor):
        return None
    model = "/".join(parse_name(perceptor))
    return next((entry.head for entry in NAMED.values() if entry.model == model), None)


# --- transformers' names of weights ---------------------------------------------------------------------

_RENAMED = [
    (r"^text_model\.embeddings\.token_embedding\.weight", "token_embedding.weight"),
    (r"^text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^text_model\.final_layer_norm", "ln_final"),
    (r"^text_model\.encoder\.layers", "transformer.resblocks"),
    (r"^vision_model\.embeddings\.class_embedding", "visual.class_embedding"),
    (r"^vision_model\.embeddings\.patch_embedding", "visual.conv1"),
    (r"^vision_model\.embeddings\.position_embedding\.weight", "visual.positional_embedding"),
    (r"^vision_model\.pre_layrnorm", "visual.ln_pre"),
    (r"^vision_model\.post_layernorm", "visual.ln_post"),
    (r"^vision_model\.encoder\.layers", "visual.transformer.resblocks"),
    (r"\.self_attn\.out_proj", ".attn.out_proj"),
    (r"\.layer_norm(\d)", r".ln_\1"),
    (r"\.mlp\.fc1", ".mlp.c_fc"),
    (r"\.mlp\.fc2", ".mlp.c_proj"),
]


def from_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of transformers' CLIPModel under open_clip's names, which stay as they are."""
    renamed = {}
    for key, value in tensors.items():
        if key.endswith("position_ids") or ".k_proj." in key or ".v_proj." in key:
            continue
        if ".q_proj." in key:
            value = torch.cat([tensors[key.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"])
            key = re.sub(r"\.self_attn\.q_proj\.(\w+)$", r".attn.in_proj_\1", key)
        if key in ("text_projection.weight", "visual_projection.weight"):
            key = key.replace("visual_projection", "visual.proj").removesuffix(".weight")
            value = value.T.contiguous()
        for pattern, name in _RENAMED:
            key = re.sub(pattern, name, key)
        renamed[key] = value
    return renamed
