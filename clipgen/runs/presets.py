"""The famous notebooks as settings, and what clipgen does differently.

Every number was read in the source. ``recipe="crowson"`` sets all of them; other settings that are given replace them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A notebook: what it makes, its source, what clipgen does differently, and its settings."""

    about: str
    source: str
    otherwise: str
    settings: Mapping[str, Any]


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
_MURDOCH = _PLAIN | {
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
_NEGATIVE = "Its text to remove also names two things that its author did not want on himself."
_SIMON = "github.com/simonsanvil/DALL-E-Explained (DALL_E_CLIP_VAE_Explained.ipynb, after Ryan Murdoch's notebooks)"

PRESETS: dict[str, Preset] = {
    "murdoch-dalle": Preset(
        "a softmax with Gumbel noise over 8,192 tokens; views of half to nearly twice the picture, on black",
        _SIMON,
        "It flips, turns and moves the picture once a step, clipgen each view; corners of a view lie on those of its "
        "cutout, which is sampled at points where clipgen takes means. Every picture that it shows has Gumbel noise of "
        "its own, clipgen's has none. What is darker than black, to an eighth of the range, is shown to CLIP as that, "
        "by clipgen as black. Embeddings are added up at their own lengths, clipgen's at unit length; an image prompt "
        "is squeezed to a square, clipgen's is cropped. Weight decay acts in the first step alone. A picture to start "
        "from has a plain softmax of its tokens, ten times as sharp. It runs until it is stopped. " + _NEGATIVE,
        _MURDOCH | {"generator": "dvae", "relax": "gumbel:1.873:2", "lift": 0.5, "every": 10},
    ),
    "murdoch-vqgan": Preset(
        "the same with VQGAN: a latent that is not snapped to the codebook, within 6 of zero",
        _SIMON,
        "Views, embeddings and their sum as above. A number that Adam takes beyond 6 goes on from there; clipgen's is "
        "brought back to 6. Its weight decay ends when no number is beyond 5 any more, which is late or never. It "
        "takes no picture to start from. " + _NEGATIVE,
        _MURDOCH | {"generator": "vqgan_imagenet_f16_16384", "relax": "none:6", "weight_decay": 0.1},
    ),
    "crowson": Preset(
        "VQGAN+CLIP, z+quantize: 64 plain views, from CLIP's own size to the whole picture",
        "github.com/EleutherAI/vqgan-clip (notebooks/VQGAN+CLIP_(z+quantize_method).ipynb, Katherine Crowson)",
        "It runs until it is stopped, resizes views by Lanczos (clipgen by the mean of what a pixel covers), and adds "
        "up the distances of its prompts, where clipgen takes their weighted mean; Adam does not see that. An image "
        "prompt is embedded as such views, clipgen's as it is.",
        _PLAIN
        | {
            "generator": "vqgan_imagenet_f16_1024",
            "size": (480, 480),
            "cutouts": 64,
            "cut_min": 0.0,
            "cut_max": 1.0,
            "augment": "",
            "lr": 0.05,
        },
    ),
    "nerdyrodent": Preset(
        "the whole picture in 32 views, turned, leaned, coloured and partly erased",
        "github.com/nerdyrodent/VQGAN-CLIP (generate.py, its defaults for 8 GB and more)",
        "It brings the picture to CLIP's size by the mean of average and largest, clipgen by the average. It "
        "resamples a view for each map, clipgen once. Its jitter changes contrast from black and saturation as of "
        "HSV, clipgen both from grey, and clamps colours beyond the range. It adds up distances of prompts. Its "
        "init_weight pulls the latent to zero, by 1/(2i + 1) in step i; it also takes noise as a prompt. An image "
        "prompt is embedded as augmented views, clipgen's as it is.",
        _PLAIN
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
    ),
    "pixray": Preset(
        "close views (60%), and views of the whole on changing greys (40%), for two CLIPs; a rate that drops late",
        "github.com/pixray/pixray (pixray.py, vqgan.py: quality normal, aspect square)",
        "It leans views of the whole half as much and does not stretch them, leans close ones before it cuts them out, "
        "mirrors or stretches the border beyond these, and shows both CLIPs the same views, made smaller as "
        "nerdyrodent's. Its colour changes hue and saturation only. Its optimiser begins anew when the rate drops. It "
        "adds up distances of prompts and CLIPs. It starts from fractal noise of high contrast, clipgen from noise; it "
        "is also drawn, a tenth as strongly as by a prompt, to a stored embedding against text (textoff).",
        _PLAIN
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
    ),
    "das": Preset(
        "no decoder: a sum of pictures at many resolutions, in shifted and noisy views",
        "Direct Ascent Synthesis, Fort and Whitaker 2025, arXiv 2502.07753",
        "It adds up every resolution from 1 to 224, clipgen the halvings, whose first steps go nearly where all would "
        "(a cosine of 0.97). Rate, schedule and average are those that suit clipgen's stack; noise is normal, of a "
        "deviation that is each view's own.",
        {
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
    ),
}
