"""What is known of a generator before it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch

from clipgen.device import card_memory, pick
from clipgen.errors import ClipgenError
from clipgen.generators import base
from clipgen.registry import RELAXATIONS
from clipgen.storage.remote import Remote

NOTEBOOK_STEPS = 500  # of the notebooks of 2021 on a card; a CPU makes fewer by default
_EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Entry:
    """A row of the catalogue: a generator's loader, and what must be known before that is called."""

    loader: str  # "module:class or function", called with (name, entry, device)
    files: tuple[Remote, ...] = ()  # its weights, if they are published ones
    config: Mapping[str, Any] = field(default_factory=lambda: _EMPTY)  # arguments of its net
    licence: str = "MIT"
    native_size: int = 256  # width and height in pixels that suit it best
    stride: int = 16  # height and width of an image are multiples of it
    codes: int = 0  # size of the codebook; 0: its latent is continuous
    has_logits: bool = False  # whether its encoder gives a logit for each code
    overflows_fp16: bool = False  # whether it computes in fp32 where fp16 is asked for
    tileable: bool = True  # whether its images can repeat without a seam
    defaults: Mapping[str, Any] = field(default_factory=lambda: _EMPTY)  # settings that suit it
    notebook_size: bool = False  # whether size and steps on a card are those of the notebooks of 2021
    settled: float = 0.0  # the setting ``settled`` if no number of steps is given

    @property
    def is_vector(self) -> bool:
        """Whether it draws marks, which can be exported as vectors."""
        return "marks" in self.config

    @property
    def megabytes(self) -> float:
        return sum(file.megabytes or 0 for file in self.files)

    def defaults_on(self, device: str) -> Mapping[str, Any]:
        """Return the settings that suit it on a device, ``auto`` or a name of torch's."""
        on_card = self.notebook_size and pick(device).type != "cpu"
        return {**self.defaults, "steps": NOTEBOOK_STEPS} if on_card else self.defaults

    def native_size_on(self, device: torch.device) -> int:
        """Return the default width and height on a device: on a card what its memory has room for."""
        if not self.notebook_size or device.type == "cpu":
            return self.native_size
        return 512 if card_memory(device) >= 12e9 else 384

    def check(self, name: str, relax: str, size: tuple[int, int]) -> None:
        """Raise ClipgenError for a (width, height) or a relaxation that it cannot have."""
        base.check_size(name, self.stride, size)
        kind, numbers = parse_relaxation(relax)
        if kind in ("gumbel", "sample") and not self.has_logits:
            raise ClipgenError(f"relax={kind!r}: {name} has no token logits; use relax='straight-through'")
        if self.codes % numbers.get("groups", 1):
            raise ClipgenError(f"relax={relax!r}: {name} has {self.codes} tokens, which do not share out so; use 2")

    def check_tokens(self, name: str, tokens: Any, size: tuple[int, int]) -> None:
        """Raise ClipgenError unless whole numbers (h, w) are its tokens of an image of (H, W) pixels."""
        if not self.codes:
            raise ClipgenError(f"init: tokens were given, and {name} has none; start from a picture")
        base.check_tokens(name, tokens, size, self.stride, self.codes)


def parse_relaxation(relax: str) -> tuple[str, dict[str, float]]:
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
