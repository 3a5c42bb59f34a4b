"""Every model of open_clip as a perceptor: OpenAI's CLIP, LAION, DataComp, SigLIP, MobileCLIP and the rest."""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from clipgen import fast
from clipgen.clip.base import Perceptor
from clipgen.clip.patches import add_patch_dropout, has_patches, only_patches
from clipgen.clip.tokenizer import open_clip_folder
from clipgen.errors import ClipgenError, suggest
from clipgen.storage import weights
from clipgen.storage.download import check_hub
from clipgen.storage.remote import Remote, fetch

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
    package = ModuleType("_open_clip_lists")
    package.__path__ = [str(open_clip_folder())]
    sys.modules[package.__name__] = package
    return import_module(f"{package.__name__}.pretrained")


# Importing open_clip takes seconds. Until it is imported, its lists are read without it.
def published() -> ModuleType:
    """Return a module with open_clip's functions that list published weights."""
    return sys.modules.get("open_clip") or _pretrained()


def list_published() -> list[tuple[str, str]]:
    """Return (architecture, tag) of all published weights of models of pictures and texts."""
    return [(name, tag) for name, tag in published().list_pretrained() if is_image_text_model(read_config(name) or {})]


def is_image_text_model(config: Mapping[str, Any]) -> bool:
    """Return whether a configuration is of a model that compares pictures with texts, not sounds or captions."""
    return "vision_cfg" in config and "genlip_cfg" not in config


def read_config(architecture: str) -> dict[str, Any] | None:
    """Return open_clip's configuration of an architecture, or None if it has none of this name."""
    if imported := sys.modules.get("open_clip"):  # with what people have registered
        return imported.get_model_config(architecture)
    file = open_clip_folder() / "model_configs" / f"{architecture}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def remote(architecture: str, tag: str) -> Remote:
    """Return where a model's weights are: where open_clip says, and OpenAI's own where OpenAI has them."""
    config = published().get_pretrained_cfg(architecture, tag)
    sources = []
    if hub := config.get("hf_hub"):
        repo, _, file = hub.rpartition("/")
        files = [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
        sources = [f"hf:{repo}/{file}" for file in files]
    digest, url = None, config.get("url")
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


class OpenCLIP(Perceptor):
    """A model of open_clip, with its own normalisation, input size, tokenizer and context length."""

    @classmethod
    def knows(cls, name: str) -> bool:
        if name.startswith(PREFIXES) or "/" in name or name in _PAPER_NAMES:
            return True
        return read_config(name) is not None

    @classmethod
    def check(cls, name: str) -> None:
        if not name.startswith(PREFIXES):
            parse_name(name)

    @classmethod
    def has_patches(cls, name: str) -> bool:
        import open_clip

        _check_hub(name)
        architecture = name if name.startswith(PREFIXES) else parse_name(name)[0]
        return has_patches(open_clip.get_model_config(architecture)["vision_cfg"])

    def __init__(self, name: str, device: torch.device | str = "cpu"):
        import open_clip
        from open_clip.transform import PreprocessCfg, image_transform_v2

        self.name, self.device = name, torch.device(device)
        try:
            self.net, self.tokenizer, file = self.load(name)
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
        self.text_tower = OffloadedTextTower(self.net, file)
        self.net.to(self.device)
        fast.optimize_for(self.net.visual, self.device, save_memory=False, channels_last=False)
        self.patches = add_patch_dropout(self.net.visual)
        self.context_length = self.tokenizer.context_length
        self.scale = float(self.net.logit_scale.exp())
        bias = getattr(self.net, "logit_bias", None)  # SigLIP's alone
        self.bias = None if bias is None else float(bias)
        config = open_clip.get_model_preprocess_cfg(self.net)
        size = config["size"]
        self.size = size if isinstance(size, int) else size[0]
        self.preprocess: Any = image_transform_v2(PreprocessCfg(**config), is_train=False)
        self.mean, self.std = (torch.tensor(config[k], device=self.device)[:, None, None] for k in ("mean", "std"))

    @staticmethod
    def load(name: str) -> tuple[Any, Any, Path | None]:
        """Return (model, tokenizer, file of its weights or None). Nothing in the file is run."""
        import open_clip

        if name.startswith(PREFIXES):
            _check_hub(name)
            _check_kind(name, open_clip.get_model_config(name))
            model = open_clip.create_model(name, require_pretrained=True, weights_only=True)
            return model, open_clip.get_tokenizer(name), None
        architecture, tag = parse_name(name)
        preprocess: dict[str, Any] = {}
        if config := published().get_pretrained_cfg(architecture, tag):
            file = fetch(remote(architecture, tag))
            preprocess = {k: config[k] for k in ("mean", "std", "interpolation", "resize_mode") if k in config}
            is_quick_gelu = config.get("quick_gelu", False)
        else:
            # OpenAI's own archives are the TorchScript ones, and were trained with QuickGELU.
            file, is_quick_gelu = Path(tag), weights.is_torchscript(tag)
        is_quick_gelu = is_quick_gelu or architecture.endswith("-quickgelu")
        file = weights.as_safetensors(file)
        return load_model(architecture, file, force_quick_gelu=is_quick_gelu, force_preprocess_cfg=preprocess)

    def set_precision(self, precision: str) -> None:
        super().set_precision(precision)
        self.cast_weights(self.net.visual)

    @property
    def feature_layers(self) -> list[nn.Module]:
        visual = self.net.visual
        trunk = getattr(visual, "trunk", visual)  # timm's, or open_clip's own
        if hasattr(trunk, "attnpool"):  # a residual network
            return [trunk.layer3, trunk.layer4]
        if hasattr(trunk, "stages"):  # a ConvNeXt and the like
            return [*trunk.stages[-2:]]
        blocks = trunk.blocks if hasattr(trunk, "blocks") else trunk.transformer.resblocks
        norms = [block.ln_1 if hasattr(block, "ln_1") else block.norm1 for block in blocks]
        return [*norms, blocks[-1]]  # the input of each block, and the output of the last

    def fits(self, text: str) -> bool:
        tokens, (more_tokens, empty) = self.tokenizer([text])[0], self.tokenizer([text, ""], 4 * self.context_length)
        is_rest_empty = bool((more_tokens[self.context_length :] == empty[-1]).all())
        return torch.equal(tokens, more_tokens[: self.context_length]) and is_rest_empty

    @torch.no_grad()
    def embed_text(self, texts: list[str]) -> Tensor:
        with self.text_tower.loaded():
            return F.normalize(self.net.encode_text(self.tokenizer(texts).to(self.device)).float(), dim=-1)

    def encode_image(self, images: Tensor, patch_indices: Tensor | None = None) -> Tensor:
        with only_patches(patch_indices):
            return F.normalize(self.compute(self.net.encode_image, (images - self.mean) / self.std), dim=-1)

    @torch.no_grad()
    def embed_image(self, pictures: list[Image.Image]) -> Tensor:
        pixels = torch.stack([self.preprocess(picture) for picture in pictures]).to(self.device)
        return F.normalize(self.compute(self.net.encode_image, pixels), dim=-1)


class OffloadedTextTower:
    """The matrices of a network beside its ``visual``, read from a safetensors file by memory map when they are needed.

    A run reads texts when it begins and when its prompt is changed; ViT-B/32's text tower takes 0.25 GB. Only matrices
    that the file has, with the same values and names, are offloaded.
    """

    def __init__(self, net: nn.Module, file: Path | None):
        self._lock, self._weights = Lock(), dict[str, Tensor]()
        if file is None:
            return
        self._file, self._version = file, _version(file)
        matrices = {n: w for n, w in net.named_parameters() if w.dim() > 1 and not n.startswith("visual.")}
        with safe_open(file, "pt") as stored:
            for name in matrices.keys() & set(stored.keys()):
                if torch.equal(stored.get_tensor(name).to(matrices[name].dtype), matrices[name]):
                    self._weights[name] = matrices[name]
        self._unload()

    @contextmanager
    def loaded(self) -> Iterator[None]:
        """Have the weights in memory, on the network's device, for the time of a ``with``. One thread at a time."""
        with self._lock:
            try:
                if self._weights:
                    self._load()
                yield
            finally:
                self._unload()

    def _load(self) -> None:
        if _version(self._file) != self._version:
            raise ClipgenError(f"{self._file} was deleted or changed while it was in use: load the perceptor again")
        with safe_open(self._file, "pt") as stored:
            for name, weight in self._weights.items():
                weight.data = stored.get_tensor(name).to(weight)

    def _unload(self) -> None:
        for weight in self._weights.values():
            weight.data = weight.new_empty(0)


def _version(file: Path) -> tuple[int, int] | None:
    """Return the time and size of a file, which another one in its place would have otherwise; None without a file."""
    return (file.stat().st_mtime_ns, file.stat().st_size) if file.is_file() else None


def load_model(architecture: str, file: Path, **options: Any) -> tuple[Any, Any, Path]:
    """Return (model, tokenizer, file) of an architecture, with weights from a safetensors file."""
    import open_clip

    model = open_clip.create_model(
        architecture, pretrained=str(file), pretrained_text=False, weights_only=True, **options
    )
    return model, open_clip.get_tokenizer(architecture), file


def _check_hub(name: str) -> None:
    """Raise ClipgenError if a model of the hub is not available."""
    if name.startswith("hf-hub:"):
        check_hub(name.removeprefix("hf-hub:"), "open_clip_config.json")


def _check_kind(name: str, config: Mapping[str, Any]) -> None:
    """Raise ClipgenError for a model that does not compare pictures with texts."""
    if not is_image_text_model(config):
        raise ClipgenError(
            f"perceptor={name!r}: it does not compare pictures with texts; `python -m clipgen models` lists what does"
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
            "`python -m clipgen models` lists what there is"
        )
    _check_kind(name, config)
    if published().get_pretrained_cfg(architecture, tag) or Path(tag).is_file():
        return architecture, tag
    tags = published().list_pretrained_tags_by_model(architecture)
    matches = [full for full in tags if full.startswith(tag)]
    if len(matches) == 1:
        return architecture, matches[0]
    if not tag and tags:
        raise ClipgenError(f"perceptor={name!r}: also name its weights, such as {name}/{tags[0]}; of {', '.join(tags)}")
    raise ClipgenError(
        f"perceptor={name!r}: {suggest(tag, tags)}{tag!r} is neither a file nor a tag of {architecture} nor the "
        f"beginning of only one of them: {', '.join(tags) or 'none'}"
    )
