"""The built-in models: entries of the registries, that nobody else imports; names of drawings, and held-out ones."""

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipgen.generators import Entry
from clipgen.generators.codebook import VQBase
from clipgen.generators.dvae import DVAE, from_openai
from clipgen.generators.vqgan import VQModel
from clipgen.images.reading import to_image
from clipgen.mini.scenes import COLOURS
from clipgen.storage import weights

WEIGHTS = Path(__file__).parent / "weights"
_SIDE = 128  # of a drawing on the sheet
PROMPTS = (WEIGHTS / "prompts.txt").read_text().splitlines()  # a hundred to measure the built-in models with


def load_autoencoder(name: str, entry: Entry, device: torch.device) -> VQBase:
    """Load mini VQGAN (with batch norms, for speed) or mini dVAE: the published architectures, small enough to ship."""
    kind: type[VQBase] = VQModel if name == "mini-vqgan" else DVAE
    tensors, config = weights.load_weights(WEIGHTS / f"{name.removeprefix('mini-')}.safetensors")
    return weights.build_net(kind, config, from_openai(tensors), name)


class DrawingNames(NamedTuple):
    """The things of which the training has drawings, by name."""

    names: list[str]
    embeddings: Tensor  # (K, 256), of ``everyday_name`` of each by mini CLIP: a thousand texts take seconds


@cache  # the contents of a file
def drawing_names() -> DrawingNames:
    """Return the 1,467 names of drawings."""
    tensors, config = weights.load_weights(WEIGHTS / "names.safetensors")
    return DrawingNames(config["names"], tensors["embeddings"])


def everyday_name(name: str) -> str:
    """Return what a person calls a thing: "dog" for the "dog face"."""
    return name.removesuffix(" face")


def held_out() -> tuple[Tensor, list[str]]:
    """Return the held-out drawings, (200, 3, 128, 128) in [0, 1], and the names of their things."""
    names = json.loads((WEIGHTS / "heldout.json").read_text())
    with Image.open(WEIGHTS / "heldout.webp") as sheet:
        pixels = torch.from_numpy(np.array(sheet.convert("RGB"))).permute(2, 0, 1).float() / 255
    tiles = pixels.unfold(1, _SIDE, _SIDE).unfold(2, _SIDE, _SIDE).permute(1, 2, 0, 3, 4).flatten(0, 1)
    return tiles[: len(names)], names


def common() -> list[str]:
    """Return 285 words: the names of the held-out drawings, other everyday things, and colours."""
    # They are few because mini CLIP mistakes one word for another more often the more there are.
    held_out_names = json.loads((WEIGHTS / "heldout.json").read_text())
    return [*held_out_names, *(WEIGHTS / "everyday.txt").read_text().splitlines(), *COLOURS]


def emoji() -> list[str]:
    """Return 1,478 words for a larger CLIP: the names of all drawings, and colours."""
    return [*drawing_names().names, *COLOURS]


def drawings() -> list[Image.Image]:
    """Return the 200 held-out drawings, the only pictures that ship with the package."""
    return [to_image(tile) for tile in held_out()[0]]
