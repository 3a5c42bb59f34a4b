"""The built-in models: entries of the registries, that nobody else imports; names of drawings, and held-out ones."""

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipgen.clip import Perceptor
from clipgen.clip.catalogue import embed, load_perceptor
from clipgen.generators import Entry
from clipgen.generators.codebook import VQBase
from clipgen.generators.dvae import DVAE, from_openai
from clipgen.generators.vqgan import VQModel
from clipgen.images.reading import to_image
from clipgen.mini.scenes import COLOURS, with_article
from clipgen.storage import weights

WEIGHTS = Path(__file__).parent / "weights"
# Least cosine of two names' embeddings for them to mean one thing: car and automobile 0.91, squirrel and bison 0.86.
MIN_COSINE = 0.88
ARTICLES = {"a", "an", "the"}
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
    keywords: dict[str, list[int]]  # the one to three things that a word also stands for: "squirrel" the chipmunk


@cache  # the contents of a file
def drawing_names() -> DrawingNames:
    """Return the 1,467 names of drawings."""
    tensors, config = weights.load_weights(WEIGHTS / "names.safetensors")
    return DrawingNames(config["names"], tensors["embeddings"], config["keywords"])


def everyday_name(name: str) -> str:
    """Return what a person calls a thing: "dog" for the "dog face"."""
    return name.removesuffix(" face")


def strip_articles(text: str) -> str:
    """Return a text without its articles."""
    return " ".join(word for word in text.split() if word not in ARTICLES)


@cache
def everyday_names() -> list[str]:
    """Return the names of drawings, everyday and in small letters. The transformer was trained on 1,428 of them."""
    return [everyday_name(name).lower() for name in drawing_names().names]


def canonical_name(text: str, perceptor: Perceptor) -> str:
    """Return a thing by its name in the training: "a ghost" for "ghost", "a chipmunk" for "a squirrel".

    It is the thing that a keyword stands for, or else the nearest name by mini CLIP; if none is near, that of "coffee"
    for "a cup of coffee", or one that ends with the text: "a crescent moon".
    """
    bare = strip_articles(text)
    text = with_article(bare) if bare and not text.startswith(("a ", "an ")) else text
    keywords = drawing_names().keywords
    if bare in (*everyday_names(), *drawing_names().names, "") and bare not in keywords:  # a train: a locomotive
        return text
    mini = perceptor if perceptor.name == "mini" else load_perceptor("mini")
    cosines = drawing_names().embeddings.to(mini.device) @ embed(mini, [text])[0]
    ending = [i for i, name in enumerate(everyday_names()) if name.endswith(f" {bare}")]
    near = [int(cosines.argmax())] if cosines.max() >= MIN_COSINE else []
    kinds = keywords.get(bare) or near or keywords.get(bare.rpartition(" of ")[2]) or ending
    if not kinds:
        return text
    best = max(kinds, key=lambda i: float(cosines[i]))
    number = keywords.get(everyday_names()[best], [best])[0]
    name = everyday_names()[number]
    # "Cat" names two drawings, a face and a whole cat: they need their full names.
    return with_article(name if everyday_names().count(name) == 1 else drawing_names().names[number])


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
