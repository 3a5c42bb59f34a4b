"""Every model of open_clip as a perceptor: OpenAI's CLIP, LAION, DataComp, SigLIP, MobileCLIP and the rest.

Normalisation, input size, tokenizer and context length are the model's own.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from clipgen.clip import patches, vit
from clipgen.clip.resting import Resting
from clipgen.errors import ClipgenError
from clipgen.precision import Computing
from clipgen.storage import weights
from clipgen.storage.download import check_hub
from clipgen.storage.remote import Remote, fetch
from clipgen.storage.sources import Source

_SCHEMAS = ("hf-hub:", "local-dir:")


def _paper_names() -> dict[str, str]:
    """The names that the CLIP paper's repository used, to open_clip's architectures."""
    residual = ("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64")
    vit = {"ViT-B/32": "ViT-B-32", "ViT-B/16": "ViT-B-16", "ViT-L/14": "ViT-L-14", "ViT-L/14@336px": "ViT-L-14-336"}
    return {name: name for name in residual} | vit


def remote(architecture: str, tag: str) -> Remote:
    """Where open_clip says that a model's weights are."""
    import open_clip

    config = open_clip.get_pretrained_cfg(architecture, tag)
    sources = []
    if hub := config.get("hf_hub"):
        repo, _, file = hub.rpartition("/")
        files = [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
        sources = [f"hf:{repo}/{file}" for file in files]
    digest = None
    if url := config.get("url"):
        sources.append(url)
        # OpenAI writes the checksum into the address, mlfoundations its first digits.
        found = re.search(r"/([0-9a-f]{64})/[^/]+$|-([0-9a-f]{8})\.pt$", url)
        digest = found and (found[1] or found[2])
    suffix = Path(url).suffix if url else ".safetensors"
    return Remote(f"clip/{architecture}-{tag}{suffix}", tuple(sources), sha256=digest)


class OpenCLIP(Computing):
    """A perceptor made of an open_clip model. Raises ClipgenError when there is no such model or no weights."""

    default_start = "random"

    @classmethod
    def knows(cls, name: str) -> bool:
        """``architecture/tag-or-file``, an architecture alone, ``hf-hub:org/name``, or a name of the CLIP paper."""
        if name.startswith(_SCHEMAS) or "/" in name or name in _paper_names():
            return True
        import open_clip

        return name in open_clip.list_models()

    @classmethod
    def check(cls, name: str) -> None:
        if not name.startswith(_SCHEMAS):
            parted(name)

    @classmethod
    def drops(cls, name: str) -> bool:
        import open_clip

        if name.startswith("hf-hub:"):
            _check_hub(name)
        place = name if name.startswith(_SCHEMAS) else parted(name)[0]
        return patches.droppable(open_clip.get_model_config(place)["vision_cfg"])

    def __init__(self, name: str, device: torch.device | str = "cpu"):
        import open_clip
        from open_clip.transform import PreprocessCfg, image_transform_v2

        self.name, self.device = name, torch.device(device)
        try:
            self.net, tokenizer, file = _load(name)
        except ClipgenError:
            raise
        except ImportError as error:
            raise ClipgenError(
                f"perceptor={name!r}: its tokenizer needs one more package ({error}); "
                "pip install transformers sentencepiece"
            ) from error
        except Exception as error:  # open_clip, timm and the hub fail in their own ways
            reason = " ".join(str(error).split())[:300]
            raise ClipgenError(f"perceptor={name!r} cannot be loaded: {reason}") from error
        self.net = self.net.eval().requires_grad_(False)
        self.text = Resting(self.net, file)
        self.net.to(self.device)
        vit.fuse(self.net.visual)
        self.patches = patches.fit(self.net.visual)
        self.tokenizer, self.context = tokenizer, tokenizer.context_length
        config = open_clip.get_model_preprocess_cfg(self.net)
        size = config["size"]
        self.size = size if isinstance(size, int) else size[0]
        self.preprocess: Any = image_transform_v2(PreprocessCfg(**config), is_train=False)
        self.mean, self.std = (torch.tensor(config[k], device=self.device)[:, None, None] for k in ("mean", "std"))

    def settle(self, precision: str) -> None:
        super().settle(precision)
        self.narrow(self.net.visual)

    @property
    def maps(self) -> list[nn.Module]:
        """The last two stages of a convolutional tower; what each block of a ViT reads, and what the last makes."""
        visual = self.net.visual
        trunk = getattr(visual, "trunk", visual)  # timm's, or open_clip's own
        if hasattr(trunk, "attnpool"):
            return [trunk.layer3, trunk.layer4]
        if hasattr(trunk, "stages"):
            return [*trunk.stages[-2:]]
        blocks = trunk.blocks if hasattr(trunk, "blocks") else trunk.transformer.resblocks
        return [*(block.ln_1 if hasattr(block, "ln_1") else block.norm1 for block in blocks), blocks[-1]]

    @property
    def scale(self) -> float:
        return float(self.net.logit_scale.exp())

    @property
    def bias(self) -> float | None:
        bias = getattr(self.net, "logit_bias", None)
        return None if bias is None else float(bias)

    def fits(self, text: str) -> bool:
        """Whether the tokenizer can say all of a text within the context length."""
        short, (long, empty) = self.tokenizer([text], self.context)[0], self.tokenizer([text, ""], 4 * self.context)
        return torch.equal(short, long[: self.context]) and bool((long[self.context :] == empty[-1]).all())

    @torch.no_grad()
    def embed_text(self, texts: list[str]) -> Tensor:
        with self.text.awake():
            return F.normalize(self.net.encode_text(self.tokenizer(texts).to(self.device)).float(), dim=-1)

    def encode_image(self, images: Tensor, kept: Tensor | None = None) -> Tensor:
        with patches.only(kept):
            return F.normalize(self.compute(self.net.encode_image, (images - self.mean) / self.std), dim=-1)

    @torch.no_grad()
    def embed_image(self, pictures: list[Image.Image]) -> Tensor:
        pixels = torch.stack([self.preprocess(picture) for picture in pictures]).to(self.device)
        return F.normalize(self.compute(self.net.encode_image, pixels), dim=-1)


def _load(name: str) -> tuple[Any, Any, Path | None]:
    """(model, tokenizer, the file of its weights where it is known), read as data."""
    import open_clip

    if name.startswith(_SCHEMAS):
        if name.startswith("hf-hub:"):
            _check_hub(name)
        model = open_clip.create_model(name, require_pretrained=True, weights_only=True)
        return model, open_clip.get_tokenizer(name), None
    architecture, tag = parted(name)
    preprocess: dict[str, Any] = {}
    if published := open_clip.get_pretrained_cfg(architecture, tag):
        file = fetch(remote(architecture, tag))
        preprocess = {k: published[k] for k in ("mean", "std", "interpolation", "resize_mode") if k in published}
        quick = published.get("quick_gelu", False)
    else:
        # OpenAI's own archives are the TorchScript ones, and were trained with QuickGELU.
        file, quick = Path(tag), weights.is_torchscript(tag)
    file = weights.as_safetensors(file)
    model = open_clip.create_model(
        architecture,
        pretrained=str(file),
        force_quick_gelu=quick or architecture.endswith("-quickgelu"),
        force_preprocess_cfg=preprocess,
        pretrained_text=False,
        weights_only=True,
    )
    return model, open_clip.get_tokenizer(architecture), file


def _check_hub(name: str) -> None:
    check_hub(Source(f"hf:{name.removeprefix('hf-hub:')}/open_clip_config.json"))


def parted(name: str) -> tuple[str, str]:
    """(architecture, tag or file). Of a tag its beginning will do where that is of one only, or nothing of a lone one.

    Raises ClipgenError for an architecture or a tag that open_clip does not have.
    """
    import open_clip

    names = _paper_names()
    architecture, _, tag = (names[name], "/", "openai") if name in names else name.partition("/")
    if architecture not in open_clip.list_models():
        raise ClipgenError(
            f"perceptor={name!r}: open_clip has no architecture {architecture!r}; "
            "`python -m clipgen models` lists what there is"
        )
    if open_clip.get_pretrained_cfg(architecture, tag) or Path(tag).is_file():
        return architecture, tag
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if len(meant := [known for known in tags if known.startswith(tag)]) == 1:
        return architecture, meant[0]
    raise ClipgenError(
        f"perceptor={name!r}: {tag!r} is neither a file nor a tag of {architecture} nor the beginning of one only "
        f"({', '.join(tags) or 'none'})"
    )
