"""Reading and writing model files: safetensors with the model's configuration in the header."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

EMBEDDED = Path(__file__).parent / "mini" / "weights"


def read(file: Path) -> tuple[dict[str, Tensor], dict]:
    """(float32 tensors by name, configuration). A safetensors file holds numbers and cannot run code."""
    with safe_open(file, "pt") as stored:
        config = json.loads((stored.metadata() or {}).get("config", "{}"))
        tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
    scales = {key.removesuffix(".scale"): tensors.pop(key) for key in list(tensors) if key.endswith(".scale")}
    for key, tensor in tensors.items():
        if tensor.is_floating_point() or key in scales:
            tensors[key] = tensor.float() * scales[key].float() if key in scales else tensor.float()
    return tensors, config


def write(file: Path, tensors: dict[str, Tensor], config: dict, eight_bit: tuple[str, ...] = ()) -> None:
    """Store in 16 bits; the matrices named in ``eight_bit`` in 8 bits with one scale a row."""
    stored = {}
    for key, tensor in tensors.items():
        if key in eight_bit:
            scale = tensor.abs().amax(1, keepdim=True).clamp(min=1e-8) / 127
            stored[key], stored[f"{key}.scale"] = (tensor / scale).round().to(torch.int8), scale
        else:
            # Vectors stay as they are: the variances of batch norms overflow in 16 bits.
            stored[key] = tensor.half() if tensor.is_floating_point() and tensor.dim() > 1 else tensor
    stored = {key: tensor.detach().contiguous() for key, tensor in stored.items()}
    save_file(stored, file, {"config": json.dumps(config)})
