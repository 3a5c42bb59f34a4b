"""mini VQGAN and mini dVAE: the published architectures, small enough to ship."""

from __future__ import annotations

import torch

from clipgen.generators.codebook import Codebook, VQBase
from clipgen.generators.dvae import DVAE, from_openai
from clipgen.generators.entry import Entry
from clipgen.generators.vqgan import VQModel
from clipgen.mini import WEIGHTS
from clipgen.storage import weights


def load_vqgan(name: str, entry: Entry, device: torch.device) -> Codebook:
    """8 x 8 pixels to one of 1,024 codes of 32 numbers, batch norms for speed."""
    return _load(VQModel, "vqgan", name, entry, device)


def load_dvae(name: str, entry: Entry, device: torch.device) -> Codebook:
    """8 x 8 pixels to one of 1,024 tokens."""
    return _load(DVAE, "dvae", name, entry, device)


def _load(kind: type[VQBase], stem: str, name: str, entry: Entry, device: torch.device) -> Codebook:
    tensors, config = weights.load_weights(WEIGHTS / f"{stem}.safetensors")
    return Codebook(name, weights.build_net(kind, config, from_openai(tensors), name).to(device), entry.native_size)
