"""Priors by name."""

from __future__ import annotations

import torch

from clipgen.priors.protocol import Prior
from clipgen.registry import PRIORS


def load_prior(name: str = "mini", device: torch.device | str = "cpu") -> Prior:
    """A prior by name, ready on ``device``: ``mini`` (embedded), or DALL-E mini's published weights.

    Raises ClipgenError for an unknown name, and for weights that cannot be had, read or fitted.
    """
    return PRIORS[name](name, torch.device(device))
