"""Patch dropout: a ViT that processes fewer patches is proportionally cheaper (Li et al. 2023, FLIP)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

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


def has_patches(vision_cfg: Mapping[str, Any]) -> bool:
    """Return whether ``add_patch_dropout`` will find patches in the tower that open_clip builds from this."""
    if name := vision_cfg.get("timm_model_name"):
        import timm

        return _is_plain_vit(timm.model_entrypoint(name).__module__)
    return isinstance(vision_cfg.get("layers", 12), int)  # a residual network has a number for every stage


def _is_plain_vit(module: str) -> bool:
    return module == "timm.models.vision_transformer"  # others mix patches, or infer positions from their order
