"""VQGANs in their published formats: taming-transformers' checkpoints and yaml, and LlamaGen's tokenizer."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from clipgen.errors import ClipgenError
from clipgen.generators.codebook import Codebook
from clipgen.generators.entry import Entry
from clipgen.generators.vqgan import VQModel
from clipgen.storage import remote, weights

_FIRST_STAGE = "first_stage_model."  # prefix of the VQGAN in a transformer's checkpoint


def load(name: str, entry: Entry, device: torch.device) -> Codebook:
    """Load a VQGAN in taming's format: a published one, or the checkpoint whose path ``name`` is.

    Checkpoints hold more than the net, such as a transformer or a discriminator: only its tensors are read.
    """
    net = weights.build_empty(VQModel, entry.config)
    names = list(net.state_dict())
    tensor_names = names + [_FIRST_STAGE + key for key in names]
    if entry.files:
        tensors = remote.fetch_weights(entry.files[0], tensor_names)
    else:
        tensors, _ = weights.load_weights(weights.as_safetensors(name, tensor_names))
    prefix = _FIRST_STAGE if any(key.startswith(_FIRST_STAGE) for key in tensors) else ""
    weights.assign_weights(net, {key: tensors[prefix + key] for key in names if prefix + key in tensors}, name)
    return Codebook(name, net.to(device), entry.native_size)


def load_llamagen(name: str, entry: Entry, device: torch.device) -> Codebook:
    net = weights.build_net(VQModel, entry.config, from_llamagen(remote.fetch_weights(entry.files[0])), name)
    return Codebook(name, net.to(device), entry.native_size)


def config_beside(file: Path) -> dict[str, Any]:
    """Return the arguments of VQModel from the yaml next to a checkpoint.

    Raises:
        ClipgenError: There is none.
    """
    for yaml in (file.with_suffix(".yaml"), file.with_name("model.yaml"), file.with_name("config.yaml")):
        if yaml.is_file():
            return from_yaml(yaml)
    raise ClipgenError(f"{file}: its yaml is needed to know the architecture; put it at {file.with_suffix('.yaml')}")


def from_yaml(file: str | Path) -> dict[str, Any]:
    """Return the arguments of VQModel from taming's yaml of a VQModel, GumbelVQ or Net2NetTransformer.

    Raises:
        ClipgenError: Any other model.
    """
    from omegaconf import OmegaConf

    try:
        model: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=True)["model"]  # type: ignore[index,call-overload]
        model = model["params"].get("first_stage_config", model)
        kind, params = model["target"].rsplit(".", 1)[-1], model["params"]
        if kind not in ("VQModel", "GumbelVQ") or params["ddconfig"].get("double_z"):
            raise ClipgenError(f"{file}: a {kind} is not a model that clipgen knows; it takes VQModel and GumbelVQ")
        arguments = inspect.signature(VQModel).parameters
        config = {key: value for key, value in params["ddconfig"].items() if key in arguments}
        return config | {k: params[k] for k in ("n_embed", "embed_dim")} | {"gumbel": kind == "GumbelVQ"}
    except ClipgenError:
        raise
    except Exception as error:  # yaml, omegaconf and a wrong structure fail in many ways
        raise ClipgenError(f"{file}: this yaml does not describe a VQGAN ({error}); get the publisher's") from error


_LLAMAGEN = [
    (r"\.res\.", ".block."),
    (r"\.mid\.0\.", ".mid.block_1."),
    (r"\.mid\.1\.", ".mid.attn_1."),
    (r"\.mid\.2\.", ".mid.block_2."),
    (r"^encoder\.conv_blocks", "encoder.down"),
]


def from_llamagen(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of LlamaGen's tokenizer (Sun et al. 2024), a VQGAN with codes of length one."""
    last = max(int(key.split(".")[2]) for key in tensors if key.startswith("decoder.conv_blocks."))
    renamed = {}
    for key, value in tensors.items():
        if key.startswith("decoder.conv_blocks."):  # counted from the other end
            _, _, level, rest = key.split(".", 3)
            key = f"decoder.up.{last - int(level)}.{rest}"
        for pattern, name in _LLAMAGEN:
            key = re.sub(pattern, name, key)
        renamed[key] = value
    renamed.pop("quantize.codebook_used", None)  # a training statistic
    # The nearest code by angle is the nearest by distance once all codes have the same length.
    renamed["quantize.embedding.weight"] = F.normalize(renamed["quantize.embedding.weight"].float(), dim=-1)
    return renamed
