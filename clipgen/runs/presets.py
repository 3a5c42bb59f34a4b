"""The famous notebooks as settings: ``recipe="crowson"`` sets all of them; other settings that are given replace them.

The numbers are the sources'. notebooks/guide/published-models.md names these, what differs on purpose, and why.
"""

from collections.abc import Mapping
from typing import Any

from clipgen.generators.defaults import ONE_STEP

# No average over the steps, a constant learning rate, and no pull towards a picture to start from.
_PLAIN = {
    "perceptor": "ViT-B-32/openai",
    "init": "random",
    "near": 0.0,
    "steps": 500,
    "ema": 0.0,
    "schedule": "constant",
    "beta2": 0.999,
    "lr_unit": "absolute",
}
# Half a side of black around the picture, cutouts of about 1.2 of the side, and three of 32 that show all of it.
_MURDOCK = _PLAIN | {
    "size": (512, 512),
    "cutouts": 32,
    "cut_min": 0.43,
    "cut_max": 1.9,
    "cut_sizes": "normal",
    "cut_pad": 0.5,
    "padding": "black",
    "overview": 3 / 32,
    "overview_size": 1.4,
    "augment": "flip, affine=24, shift=0.2, grain=0.11",
    "distance": "cosine",
    "combine": "embeddings",
    "optimizer": "AdamW",
    "lr": 0.015,
    # The source's loss, -10 cos + 5 cos of what is unwanted, is 15 times the weighted mean that clipgen takes.
    "eps": 1e-8 / 15,
    "negative": "incoherent, confusing, cropped, watermarks",
}
PRESETS: dict[str, Mapping[str, Any]] = {
    # A softmax with Gumbel noise over 8,192 tokens; cutouts of half to nearly twice the picture, on black.
    "murdock-dalle": _MURDOCK | {"generator": "dvae", "relax": "gumbel:1.873:2", "lift": 0.5, "every": 10},
    # The same with VQGAN: a latent that is not snapped to the codebook, within 6 of zero.
    "murdock-vqgan": _MURDOCK | {"generator": "vqgan_imagenet_f16_16384", "relax": "none:6", "weight_decay": 0.1},
    # VQGAN+CLIP, z+quantize: 64 plain cutouts, from CLIP's own size to the whole picture.
    "crowson": _PLAIN
    | {
        "generator": "vqgan_imagenet_f16_1024",
        "size": (480, 480),
        "cutouts": 64,
        "cut_min": 0.0,
        "cut_max": 1.0,
        "augment": "",
        "lr": 0.05,
    },
    # The whole picture in 32 cutouts, turned, leaned, coloured and partly erased.
    "nerdyrodent": _PLAIN
    | {
        "generator": "vqgan_imagenet_f16_16384",
        "size": (512, 512),
        "cutouts": 32,
        "cut_min": 1.0,
        "cut_max": 1.0,
        "padding": "black",
        "augment": "affine=15 + shear=5 + shift_y=0.1:0.7, perspective=0.7:0.7, colour=0.1:0.7, erase_all=0.4:0.7, "
        "grain=0.1",
        "lr": 0.1,
    },
    # Close cutouts (60%), and the whole on changing greys (40%), for two CLIPs; a rate that drops late.
    "pixray": _PLAIN
    | {
        "generator": "vqgan_imagenet_f16_16384",
        "perceptor": "ViT-B-32/openai | ViT-B-16/openai",
        "init": "noise",
        "size": (288, 288),
        "steps": 250,
        "cutouts": 30,
        "cut_min": 0.5,
        "cut_max": 0.975,
        "cut_sizes": "area",
        "overview": 0.4,
        "overview_size": 1 / 0.95,
        "padding": "grey",
        "augment": "stretch=1.2, perspective=0.4:0.7, colour=0.1:0.8, grain=0.1, levels",
        "lr": "0.2@0-187, 0.02@187-",
    },
    # No decoder: a sum of pictures at many resolutions, in shifted and noisy cutouts.
    "das": {
        "generator": "stack",
        "perceptor": "ViT-B-32/openai",
        "init": "random",
        "near": 0.0,
        "size": (224, 224),
        "steps": 400,
        "cutouts": 64,
        "cut_min": 1.0,
        "cut_max": 1.0,
        "augment": "shift=0.1667, grain=0.2",
        "lr": 0.08,
        "ema": 0.9,
    },
    # The noise of a one-step generator, for what people prefer.
    "reno": ONE_STEP
    | {
        "generator": "sd-turbo",
        # 5 x HPS, 0.05 x PickScore and 0.01 x CLIP, the last two multiplied by the model's own scale of 100.
        "perceptor": "hps-v2.1:5 | pickscore:5 | ViT-H-14/laion2b_s32b_b79k:1",
        "size": (512, 512),
        "every": 1,
        "cutouts": 1,
        "cut_min": 1.0,
        "cut_max": 1.0,
        "augment": "",
        "distance": "cosine",
        # The source's loss is 11 times the weighted mean that clipgen takes.
        "lr": 5.0 * 11,
        "clip_grad": 0.1 / 11,
        "noise_norm": 0.01 / 11,
    },
    # Thirty-two tokens of a picture, drawn towards a text from a picture's own tokens.
    "token-opt": _PLAIN
    | {
        "generator": "titok_l32",
        "perceptor": "ViT-B-32/laion2b_s34b_b79k",
        "size": (256, 256),
        "steps": 351,
        "cutouts": 8,
        "cut_min": 224 / 256,
        "cut_max": 224 / 256,
        "augment": "flip",
        "distance": "cosine",
        "lr": 0.1,
        "ema": 0.98,
        # The source's pull to the seed is 0.05 of the squared difference; near counts in variances of the codes, 1/12.
        "near": 0.05 / 12,
        "near_space": "latent",
    },
    # Pixels and a CLIP that was trained against attacks; crops weigh five times as much as whole pictures.
    "clipag": _PLAIN
    | {
        "generator": "pixels",
        "perceptor": "clipag",
        "init": "perlin",
        "size": (224, 224),
        "steps": 100,
        "cutouts": 64,
        "cut_min": 128 / 224,
        "cut_max": 128 / 224,
        "overview": 1 / 6,
        "overview_size": 1.0,
        "padding": "black",
        "augment": "stretch=1.2, shift=0.125, colour=0.5, erase=0.25, noise=0.01",
        "distance": "cosine",
        "optimizer": "AdamW",
        "lr": 4 * 0.0175,
        "weight_decay": 0.01,
        "keep": "best",
        "clip_grad": 0.001 / 6,  # the source's loss is six times the mean that clipgen takes
    },
}


def canonical_recipe(name: str) -> str:
    """Return the name of a recipe; older runs spell Ryan Murdock's with a ch."""
    return name.replace("murdoch", "murdock")
