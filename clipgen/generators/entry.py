"""What is known of a generator before it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch

from clipgen.device import card_memory, pick
from clipgen.errors import ClipgenError
from clipgen.generators import protocol
from clipgen.generators.defaults import NOTEBOOK_STEPS
from clipgen.registry import RELAXATIONS
from clipgen.storage.remote import Remote

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Entry:
    """A generator by name: where its loader is, and all that must be known before anything is loaded."""

    place: str  # "module:function", called with (name, entry, device)
    files: tuple[Remote, ...] = ()  # none for what ships with clipgen, or needs no weights
    config: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)  # of its net
    licence: str = "MIT"
    side: int = 256  # pixels of a side that it draws best
    stride: int = 16
    codes: int = 0  # 0: its latent is continuous
    logits: bool = False  # whether its encoder gives every token a logit
    wide: bool = False  # whether its activations leave fp16's range, so that it is computed in fp32 instead
    defaults: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)  # settings that suit it
    notebook_size: bool = False  # whether a card draws it as large and as long as the notebooks of 2021 did
    settled: float = 0.0  # that setting, where nobody says how many steps are wanted; 0: all are made

    @property
    def vectors(self) -> bool:
        """Whether it draws with marks, which can be written as vectors."""
        return "marks" in self.config

    @property
    def tiles(self) -> bool:
        """Whether its pictures can repeat without a seam: not what is interpolated or drawn up to an edge."""
        return not (self.vectors or self.place.endswith(".stack:load"))

    @property
    def megabytes(self) -> float:
        return sum(file.megabytes or 0 for file in self.files)

    def defaults_on(self, device: str) -> Mapping[str, Any]:
        """Return the settings that suit it on a device, ``auto`` or a name of torch's."""
        on_card = self.notebook_size and pick(device).type != "cpu"
        return {**self.defaults, "steps": NOTEBOOK_STEPS} if on_card else self.defaults

    def side_on(self, device: torch.device) -> int:
        """Return the side in pixels that it draws on a device by default: of a card as much as fits into its memory."""
        if not self.notebook_size or device.type == "cpu":
            return self.side
        return 512 if card_memory(device) >= 12e9 else 384

    def check(self, name: str, relax: str, size: tuple[int, int]) -> None:
        """Raise ClipgenError for a (width, height) or a relaxation that it cannot have."""
        protocol.check_size(name, self.stride, size)
        kind, numbers = relaxation(relax)
        if kind in ("gumbel", "sample") and not self.logits:
            raise ClipgenError(f"relax={kind!r}: {name} has no token logits; use relax='straight-through'")
        if self.codes % numbers.get("groups", 1):
            raise ClipgenError(f"relax={relax!r}: {name} has {self.codes} tokens, which do not share out so; use 2")

    def check_tokens(self, name: str, tokens: Any, size: tuple[int, int]) -> None:
        """Raise ClipgenError unless whole numbers (h, w) are its tokens of a picture of (H, W) pixels."""
        if not self.codes:
            raise ClipgenError(f"init: tokens were given, and {name} has none; start from a picture")
        protocol.check_tokens(name, tokens, size, self.stride, self.codes)


def relaxation(relax: str) -> tuple[str, dict[str, float]]:
    """Return a relaxation's name and its numbers, as in ``none:6``.

    Args:
        relax: The name; behind colons the temperature of gumbel and the number of its softmaxes (``gumbel:1.873:2``),
            or the limit of none.

    Raises:
        ClipgenError: An unknown name, or a number that it cannot have.
    """
    name, *numbers = relax.split(":")
    RELAXATIONS.check(name)
    arguments = {"gumbel": ("temperature", "groups"), "none": ("limit",)}.get(name, ())
    try:
        values = dict(zip(arguments, map(float, numbers), strict=len(numbers) > len(arguments)))
    except ValueError:
        values = {"": 0.0}
    if not all(0 < value < 1e6 for value in values.values()) or values.get("groups", 1) % 1:
        raise ClipgenError(
            f"relax={relax!r}: only gumbel and none have numbers above 0, as gumbel:1.873, gumbel:1.873:2 (two "
            "softmaxes, a whole number) or none:6"
        )
    return name, values
