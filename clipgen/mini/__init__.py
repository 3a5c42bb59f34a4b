"""The built-in models: entries of the same registries as the published ones, that nobody else imports."""

from pathlib import Path

import torch

from clipgen.generators import Entry
from clipgen.generators.codebook import Codebook, VQBase
from clipgen.generators.dvae import DVAE, from_openai
from clipgen.generators.vqgan import VQModel
from clipgen.storage import weights

WEIGHTS = Path(__file__).parent / "weights"


def load_autoencoder(name: str, entry: Entry, device: torch.device) -> Codebook:
    """Load mini VQGAN (with batch norms, for speed) or mini dVAE: the published architectures, small enough to ship."""
    kind: type[VQBase] = VQModel if name == "mini-vqgan" else DVAE
    tensors, config = weights.load_weights(WEIGHTS / f"{name.removeprefix('mini-')}.safetensors")
    return Codebook(name, weights.build_net(kind, config, from_openai(tensors), name).to(device), entry.native_size)
