"""Patch dropout: a ViT that looks at some of a picture's patches alone costs as much less (Li et al. 2023, FLIP)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

_kept: ContextVar[Tensor | None] = ContextVar("kept", default=None)  # threads that share a net have their own


@contextmanager
def only(kept: Tensor | None) -> Iterator[None]:
    """For a while towers look at these patches (B, n) of every picture alone; None: at all of them."""
    before = _kept.set(kept)
    try:
        yield
    finally:
        _kept.reset(before)


class Sieve(nn.Module):
    """Stands behind the positional embedding: what is no patch goes through, and of the patches those that are kept."""

    def __init__(self, others: int):
        super().__init__()
        self.others = others

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, others + N, width) to (B, others + n, width)."""
        if (kept := _kept.get()) is None:
            return tokens
        chosen = kept[..., None].expand(-1, -1, tokens.shape[-1])
        return torch.cat([tokens[:, : self.others], tokens[:, self.others :].gather(1, chosen)], 1)


def fit(visual: Any) -> int:
    """Let a tower of open_clip drop patches, if it is a ViT of its own or timm's; how many it has, else 0."""
    if hasattr(visual, "patch_dropout") and hasattr(visual, "grid_size"):
        visual.patch_dropout = Sieve(1)
        return visual.grid_size[0] * visual.grid_size[1]
    trunk = getattr(visual, "trunk", None)
    if trunk is None or not _plain(type(trunk).__module__):
        return 0
    trunk.patch_drop = Sieve(trunk.num_prefix_tokens)
    return trunk.patch_embed.num_patches


def droppable(vision: Mapping[str, Any]) -> bool:
    """Whether the tower of such a ``vision_cfg`` has patches that can be dropped."""
    if name := vision.get("timm_model_name"):
        import timm

        return _plain(timm.model_entrypoint(name).__module__)
    return isinstance(vision.get("layers", 12), int)  # a residual net has a number for every stage


def _plain(module: str) -> bool:
    return module == "timm.models.vision_transformer"  # others mix patches, or know where they are by their order
