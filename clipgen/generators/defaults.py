"""Settings that suit each family of generators; what a person sets takes precedence."""

from typing import Any

# Without a decoder that has seen images: noise of every strength keeps a CLIP from reading grain as form.
PIXELS: dict[str, Any] = {"augment": "flip, affine, grain=0.2", "ema": 0.9, "lr": 0.3}
DRAWING: dict[str, Any] = {"augment": "flip, affine, grain=0.2", "near_space": "pixels", "lr": 0.2}
# What the notebooks of 2021 used for decoders of photographs, with OpenAI's CLIP: see ``clipgen.runs.presets``.
PHOTOGRAPHS: dict[str, Any] = {
    "steps": 300,
    "cutouts": 32,
    "cut_min": 0.0,
    "cut_max": 1.0,
    "augment": "flip, affine=15:0.7, shift=0.1:0.7, perspective=0.5:0.7, colour:0.7, erase:0.7, grain",
    "beta2": 0.999,
}
CONTINUOUS = PHOTOGRAPHS | {"lr": 0.05}
VQGAN = PHOTOGRAPHS | {"lr_unit": "absolute", "lr": 0.1, "init": "perlin"}
# Codes of length 1 in 8 numbers: an absolute 0.1 would be 0.28 of their standard deviation.
LLAMAGEN = VQGAN | {"lr_unit": "own"}
# Lao Beyer et al. 2025, "Highly Compressed Tokenizer Can Generate Without Training".
TITOK = PHOTOGRAPHS | {"lr_unit": "absolute", "lr": 0.1, "ema": 0.98, "init": "perlin"}
# ReNO's optimiser (Eyring et al. 2024) with plain CLIP: see ``clipgen.runs.presets``.
ONE_STEP = {
    "steps": 50,
    "cutouts": 16,
    "cut_min": 0.7,
    "cut_max": 1.0,
    "augment": "flip",
    "optimizer": "SGD",
    "lr_unit": "absolute",
    "lr": 5.0,
    "momentum": 0.9,
    "nesterov": True,
    "clip_grad": 0.1,
    "ema": 0.0,
    "schedule": "constant",
    "init": "random",
    "near": 0.0,
    "keep": "best",
}
# Crowson's notebook also adds noise to the logits and masks codes that DALL-E never uses; neither is implemented. A
# logit's gradient is about 1e-9 at 512x512, below Adam's usual eps of 1e-8, with which most logits would hardly move.
DVAE = PHOTOGRAPHS | {
    "lr_unit": "absolute",
    "lr": 0.05,
    "optimizer": "AdamW",
    "relax": "sample",
    "init": "random",
    "eps": 1e-10,
}
