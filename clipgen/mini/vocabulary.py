"""The words that a picture is described with when nobody says others, and the pictures that they are measured by."""

from __future__ import annotations

import json

from PIL import Image

from clipgen.images.reading import to_image
from clipgen.mini import WEIGHTS
from clipgen.mini.collage import library
from clipgen.mini.scenes import COLOURS

_EVERYDAY = """airplane, apple, banana, basketball, bear, bicycle, birthday cake, bread, butterfly, cactus, camera, car,
carrot, castle, cherries, christmas tree, church, dog, doughnut, dragon, drum, duck, egg, fire, flower, french fries,
frog, grapes, hamburger, hammer, helicopter, horse, hot dog, house, ice cream, key, lemon, light bulb, lion, monkey,
mushroom, octopus, owl, palm tree, panda, pencil, pig, pineapple, rainbow, red heart, rocket, rose, sailboat, scissors,
shark, shoe, smiling face, snail, snowman, strawberry, sun, sunflower, telephone, television, tractor, train, tree,
tulip, turtle, unicorn, violin, volcano, whale, woman"""


def common() -> list[str]:
    """285 words: the names of the held-out drawings, other everyday things, and colours.

    So few because mini CLIP tells few apart: each word more is one more to be mistaken for.
    """
    everyday = [word.strip() for word in _EVERYDAY.split(",")]
    return [*json.loads((WEIGHTS / "heldout.json").read_text()), *everyday, *COLOURS]


def emoji() -> list[str]:
    """1,478 words: everything that a drawing of the training was called, and colours; for a larger CLIP."""
    return [*library().names, *COLOURS]


def drawings() -> list[Image.Image]:
    """The 200 held-out drawings: the only pictures of many things that ship with the package."""
    from clipgen.mini.evaluate import held_out

    return [to_image(tile) for tile in held_out()[0]]
