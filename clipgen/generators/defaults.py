"""The settings that suit each family, where they are not those of everybody: what is asked for wins over them."""

from __future__ import annotations

from typing import Any

# Without a decoder that knows pictures: views of every strength of noise keep a CLIP from reading grain as form.
BARE: dict[str, Any] = {"augment": "flip, affine, grain=0.2", "ema": 0.9}
FFT = BARE | {"lr": 0.3, "augment": "flip, affine, grain=0.3"}
STROKES: dict[str, Any] = {"augment": "flip, affine, grain=0.2", "near_space": "pixels", "lr": 0.2}
# What the notebooks of 2021 settled on for decoders of photographs, with OpenAI's CLIP: see ``clipgen.runs.presets``.
NOTEBOOK_STEPS = 500  # what they made on a card; a CPU makes fewer by default
_PHOTOGRAPHS: dict[str, Any] = {
    "steps": 300,
    "cutouts": 32,
    "cut_min": 0.0,
    "cut_max": 1.0,
    "augment": "flip, affine=15:0.7, shift=0.1:0.7, perspective=0.5:0.7, colour:0.7, erase:0.7, grain",
    "beta2": 0.999,
    "lr_unit": "absolute",
}
CONTINUOUS = {name: value for name, value in _PHOTOGRAPHS.items() if name != "lr_unit"} | {"lr": 0.05}
VQGAN = _PHOTOGRAPHS | {"lr": 0.1, "init": "perlin"}
# Crowson's notebook also adds noise to the logits and never draws the codes that DALL-E does not use; neither is here.
# Gradients of logits, thousands for each place, are some 1e-9 at 512x512: with Adam's usual eps few move at the rate.
DVAE = _PHOTOGRAPHS | {"lr": 0.05, "optimizer": "AdamW", "relax": "sample", "init": "random", "eps": 1e-10}
# Its codes are of length 1 in 8 numbers: 0.1 of them would be 0.28 of their deviation.
LLAMAGEN = VQGAN | {"lr_unit": "own"}
