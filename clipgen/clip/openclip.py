"""Published CLIPs as perceptors: whatever open_clip loads."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from clipgen import fast
from clipgen.clip import Perceptor, published
from clipgen.errors import ClipgenError
from clipgen.storage import weights
from clipgen.storage.remote import fetch


class OpenCLIP(Perceptor):
    """A model of open_clip, with its own normalisation, input size, tokenizer and context length."""

    head: Tensor | None = None  # of a model by name that rates pictures without a text

    @classmethod
    def knows(cls, name: str) -> bool:
        if name in published.NAMED or "/" in name or name.startswith(published.PREFIXES):
            return True
        return published.read_config(name) is not None

    @classmethod
    def check(cls, name: str) -> None:
        if name not in published.NAMED and not name.startswith(published.PREFIXES):
            published.parse_name(name)

    @classmethod
    def has_patches(cls, name: str) -> bool:
        import open_clip

        if name in published.NAMED:
            return True  # all of them are plain ViTs
        published.check_hub_model(name)
        architecture = name if name.startswith(published.PREFIXES) else published.parse_name(name)[0]
        vision_cfg = open_clip.get_model_config(architecture)["vision_cfg"]
        if timm_name := vision_cfg.get("timm_model_name"):
            import timm

            return _is_plain_vit(timm.model_entrypoint(timm_name).__module__)
        return isinstance(vision_cfg.get("layers", 12), int)  # a residual network has a number for every stage

    def __init__(self, name: str, device: torch.device | str = "cpu"):
        import open_clip
        from open_clip.transform import PreprocessCfg, image_transform_v2

        self.name, self.device = name, torch.device(device)
        try:
            self.net, self.tokenizer, file = self.load(published.loadable_name(name))
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
        if (bias := getattr(self.net, "logit_bias", None)) is not None:  # SigLIP's alone
            self.bias = float(bias)
        config = open_clip.get_model_preprocess_cfg(self.net)
        size = config["size"]
        self.size = size if isinstance(size, int) else size[0]
        self.preprocess: Any = image_transform_v2(PreprocessCfg(**config), is_train=False)
        if named := published.NAMED.get(name):
            self.is_preference = named.is_preference
            if head := published.head_of(name):
                self.head = published.load_head(head, self.device)
        self.mean, self.std = (torch.tensor(config[k], device=self.device)[:, None, None] for k in ("mean", "std"))

    @staticmethod
    def load(name: str) -> tuple[Any, Any, Path | None]:
        """Return (model, tokenizer, file of its weights or None). Nothing in the file is run."""
        import open_clip

        if name.startswith(published.PREFIXES):
            published.check_hub_model(name)
            published.check_kind(name, open_clip.get_model_config(name))
            model = open_clip.create_model(name, require_pretrained=True, weights_only=True)
            return model, open_clip.get_tokenizer(name), None
        architecture, tag = published.parse_name(name)
        preprocess: dict[str, Any] = {}
        if config := published.open_clip_lists().get_pretrained_cfg(architecture, tag):
            file = fetch(published.find_remote(architecture, tag))
            preprocess = {k: config[k] for k in ("mean", "std", "interpolation", "resize_mode") if k in config}
            is_quick_gelu = config.get("quick_gelu", False)
        else:
            # OpenAI's own archives are the TorchScript ones, and were trained with QuickGELU.
            file, is_quick_gelu = Path(tag), weights.is_torchscript(tag)
        is_quick_gelu = is_quick_gelu or architecture.endswith("-quickgelu")
        file = weights.as_safetensors(file)
        model = open_clip.create_model(
            architecture,
            pretrained=str(file),
            force_quick_gelu=is_quick_gelu,
            force_preprocess_cfg=preprocess,
            pretrained_text=False,
            weights_only=True,
        )
        return model, open_clip.get_tokenizer(architecture), file

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
        # It fits if a context four times as long gives the same tokens, followed by padding.
        tokens, (more_tokens, empty) = self.tokenizer([text])[0], self.tokenizer([text, ""], 4 * self.context_length)
        is_rest_padding = bool((more_tokens[self.context_length :] == empty[-1]).all())
        return torch.equal(tokens, more_tokens[: self.context_length]) and is_rest_padding

    @torch.no_grad()
    def embed_text(self, texts: list[str]) -> Tensor:
        """Return unit vectors (P, d); with a head, whose score reads no text, its direction for each text."""
        if self.head is not None:
            return F.normalize(self.head[:-1], dim=0).expand(len(texts), -1)
        with self.text_tower.loaded():
            return F.normalize(self.net.encode_text(self.tokenizer(texts).to(self.device)).float(), dim=-1)

    def encode_image(self, images: Tensor, patch_indices: Tensor | None = None) -> Tensor:
        with only_patches(patch_indices):
            return F.normalize(self.compute(self.net.encode_image, (images - self.mean) / self.std), dim=-1)

    @torch.no_grad()
    def embed_image(self, pictures: list[Image.Image]) -> Tensor:
        pixels = torch.stack([self.preprocess(picture) for picture in pictures]).to(self.device)
        return F.normalize(self.compute(self.net.encode_image, pixels), dim=-1)

    def rate(self, picture: Image.Image) -> float | None:
        return None if self.head is None else float(published.apply_head(self.head, self.embed_image([picture])))


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
        """Keep the weights in memory, on the network's device, within a ``with``. One thread at a time."""
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
    """Return the time and size of a file, by which a change of it is noticed; None without a file."""
    return (file.stat().st_mtime_ns, file.stat().st_size) if file.is_file() else None


# --- patch dropout: a ViT that processes fewer patches is proportionally cheaper (Li et al. 2023, FLIP) --------

_patch_indices: ContextVar[Tensor | None] = ContextVar("patch_indices", default=None)  # each thread has its own


@contextmanager
def only_patches(indices: Tensor | None) -> Iterator[None]:
    """Let every PatchDropout of this thread keep the patches (B, n); None: all of them."""
    token = _patch_indices.set(indices)
    try:
        yield
    finally:
        _patch_indices.reset(token)


class PatchDropout(nn.Module):
    """Applied after the positional embedding. Keeps the class token, registers, and the patches of only_patches."""

    def __init__(self, prefix_tokens: int):
        super().__init__()
        self.prefix_tokens = prefix_tokens

    def forward(self, tokens: Tensor) -> Tensor:
        """Select the patches: (B, prefix + N, width) to (B, prefix + n, width)."""
        if (indices := _patch_indices.get()) is None:
            return tokens
        prefix, patches = tokens[:, : self.prefix_tokens], tokens[:, self.prefix_tokens :]
        return torch.cat([prefix, patches.gather(1, indices[..., None].expand(-1, -1, tokens.shape[-1]))], 1)


def add_patch_dropout(visual: Any) -> int:
    """Give open_clip's image tower a PatchDropout if it is a plain ViT; return the number of its patches, or 0."""
    if hasattr(visual, "patch_dropout") and hasattr(visual, "grid_size"):
        visual.patch_dropout = PatchDropout(1)
        return visual.grid_size[0] * visual.grid_size[1]
    trunk = getattr(visual, "trunk", None)
    if trunk is None or not _is_plain_vit(type(trunk).__module__):
        return 0
    trunk.patch_drop = PatchDropout(trunk.num_prefix_tokens)
    return trunk.patch_embed.num_patches


def _is_plain_vit(module: str) -> bool:
    return module == "timm.models.vision_transformer"  # others mix patches, or infer positions from their order
