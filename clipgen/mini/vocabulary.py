"""What drawings are called, and the vocabularies that a picture is described with when nobody gives another."""

from __future__ import annotations

import json
from functools import cache
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from clipgen.images.reading import to_image
from clipgen.mini import WEIGHTS
from clipgen.mini.held_out import held_out
from clipgen.mini.scenes import COLOURS
from clipgen.storage import weights

_EVERYDAY = """airplane, apple, banana, basketball, bear, bicycle, birthday cake, bread, butterfly, cactus, camera, car,
carrot, castle, cherries, christmas tree, church, dog, doughnut, dragon, drum, duck, egg, fire, flower, french fries,
frog, grapes, hamburger, hammer, helicopter, horse, hot dog, house, ice cream, key, lemon, light bulb, lion, monkey,
mushroom, octopus, owl, palm tree, panda, pencil, pig, pineapple, rainbow, red heart, rocket, rose, sailboat, scissors,
shark, shoe, smiling face, snail, snowman, strawberry, sun, sunflower, telephone, television, tractor, train, tree,
tulip, turtle, unicorn, violin, volcano, whale, woman"""


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


def common() -> list[str]:
    """Return 285 words: the names of the held-out drawings, other everyday things, and colours.

    They are few because mini CLIP mistakes one word for another more often the more there are.
    """
    everyday = [word.strip() for word in _EVERYDAY.split(",")]
    return [*json.loads((WEIGHTS / "heldout.json").read_text()), *everyday, *COLOURS]


def emoji() -> list[str]:
    """Return 1,478 words for a larger CLIP: the names of all drawings, and colours."""
    return [*drawing_names().names, *COLOURS]


def drawings() -> list[Image.Image]:
    """Return the 200 held-out drawings, the only pictures that ship with the package."""
    return [to_image(tile) for tile in held_out()[0]]
