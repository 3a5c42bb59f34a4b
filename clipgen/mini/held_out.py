"""What the built-in models are measured with: drawings that no model was trained on, a hundred prompts, a judge."""

from __future__ import annotations

import json

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipgen.generators.codebook import Codebook
from clipgen.mini import WEIGHTS
from clipgen.mini.judge import Evaluator, Judge

_SIDE = 128  # of a drawing on the sheet
_README = """a red apple, a cat, pizza, a blue car, a sunflower, a snowman, the sun over the sea,
a rocket in the night sky, an octopus, a castle, a puppy, a red apple and a banana"""
_OTHERS = """a dog, a horse, a lion, an elephant, a penguin, a frog, a butterfly, a bee, a whale, a shark, a crab,
a snail, a turtle, a dragon, a unicorn, an owl, a duck, a rabbit, a bear, a panda, a pig, a cow, a mouse, a monkey,
a rose, a tulip, a cactus, a palm tree, a christmas tree, a mushroom, a banana, strawberry, grapes, a watermelon,
a pineapple, cherries, a lemon, a carrot, corn, bread, cheese, a hamburger, french fries, a hot dog, an egg, ice cream,
a birthday cake, a doughnut, a cup of coffee, a glass of wine, beer, a train, a bus, a bicycle, an airplane, a sailboat,
a helicopter, a tractor, a house, a church, a mountain, a volcano, a rainbow, the moon, a snowflake, a lightning bolt,
fire, an umbrella, a football, a basketball, a guitar, a violin, a piano, a trumpet, a drum, a telephone, a computer,
a television, a camera, a book, a pencil, scissors, a key, a hammer, a light bulb, a clock, a crown, a hat"""
PROMPTS = [prompt.strip() for prompt in f"{_README}, {_OTHERS}".split(",")]


def held_out() -> tuple[Tensor, list[str]]:
    """Return the held-out drawings, (200, 3, 128, 128) in [0, 1], and the names of their things."""
    names = json.loads((WEIGHTS / "heldout.json").read_text())
    with Image.open(WEIGHTS / "heldout.webp") as sheet:
        pixels = torch.from_numpy(np.array(sheet.convert("RGB"))).permute(2, 0, 1).float() / 255
    tiles = pixels.unfold(1, _SIDE, _SIDE).unfold(2, _SIDE, _SIDE).permute(1, 2, 0, 3, 4).flatten(0, 1)
    return tiles[: len(names)], names


def load_judge() -> Judge:
    """Return the net of the perceptor ``evaluator``."""
    return Evaluator().net


def psnr(images: Tensor, originals: Tensor) -> float:
    """Return the mean over (N, 3, H, W) images of the peak signal-to-noise ratio in dB."""
    error = (images - originals).square().mean((1, 2, 3))
    return float((-10 * error.log10()).mean())


@torch.no_grad()
def reconstruction(generator: Codebook, images: Tensor) -> tuple[float, int]:
    """Encode and decode (N, 3, H, W) images; return the mean PSNR in dB and the number of different codes used."""
    latents = [generator.encode(batch) for batch in images.split(32)]
    decoded = torch.cat([generator.image(latent) for latent in latents])
    tokens = torch.cat([generator.tokens(latent) for latent in latents])
    return psnr(decoded, images), tokens.unique().numel()
