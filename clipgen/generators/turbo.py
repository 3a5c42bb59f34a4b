"""One-step diffusion models, such as SD-Turbo (Sauer et al. 2023): the latent is the noise (ReNO, Eyring et al. 2024).

The picture is one step of the U-Net, conditioned by the prompt, and the decoder. All nets are diffusers'.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clipgen.errors import ClipgenError
from clipgen.generators.base import Entry, Generator, Randomness, check_size, clamp
from clipgen.precision import MixedPrecision
from clipgen.storage.download import check_hub

HUB = "hf-hub:"
PIPELINE = "StableDiffusionPipeline"
NORM_TOLERANCE = 0.05  # how far the norm of a noise may be from that of a Gaussian's, as a share


class OneStepNet(nn.Module):
    """The nets of a pipeline, and the numbers of its scheduler's only step, which is linear."""

    def __init__(self, pipeline: Any):
        super().__init__()
        self.unet, self.vae = pipeline.unet, pipeline.vae
        self.pipeline = [pipeline]  # its text encoder stays on the CPU
        scheduler = pipeline.scheduler
        scheduler.set_timesteps(1)
        self.timestep = scheduler.timesteps[0]
        one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
        self.start_scale = float(scheduler.init_noise_sigma)  # of the noise
        self.input_scale = float(scheduler.scale_model_input(one, self.timestep))  # of what the U-Net is given
        self.from_noise, self.from_output = (self._step(scheduler, *pair) for pair in ((zero, one), (one, zero)))
        self.mix = [float(scheduler.add_noise(*pair, self.timestep[None])) for pair in ((one, zero), (zero, one))]

    def _step(self, scheduler: Any, output: Tensor, noisy: Tensor) -> float:
        scheduler.set_timesteps(1)
        scheduler.scale_model_input(noisy, self.timestep)
        return float(scheduler.step(output, self.timestep, noisy).prev_sample)

    @property
    def decoder(self) -> nn.Module:
        return self.vae.decoder

    def denoise(self, noise: Tensor, condition: Tensor) -> Tensor:
        """Return the clean latents of noise (B, c, h, w)."""
        noisy = noise * self.start_scale
        condition = condition.expand(len(noise), -1, -1)
        output = self.unet(noisy * self.input_scale, self.timestep, encoder_hidden_states=condition).sample
        return self.from_noise * noisy + self.from_output * output

    def decode(self, latent: Tensor) -> Tensor:
        """Return the images (B, 3, H, W) of clean latents, about in [0, 1]."""
        return self.vae.decode(latent / self.vae.config.scaling_factor).sample / 2 + 0.5

    def encode(self, images: Tensor) -> Tensor:
        """Return the clean latents of images (B, 3, H, W) in [0, 1]."""
        return self.vae.encode(images * 2 - 1).latent_dist.mode() * self.vae.config.scaling_factor


class OneStep(MixedPrecision, Generator):
    """A frozen one-step generator whose latent (B, channels, H/stride, W/stride) is its noise."""

    lr = 1.0
    limit = 5.0
    is_noise = True
    text_embedding: Tensor

    def __init__(self, name: str, net: OneStepNet, native_size: int, device: torch.device):
        self.name, self.native_size, self.device = name, native_size, device
        self.stride = 2 ** (len(net.vae.config.block_out_channels) - 1)
        self.net = net.to(device).eval().requires_grad_(False)
        self.condition([""])

    @torch.no_grad()
    def condition(self, texts: Sequence[str]) -> None:
        """Draw these texts from now on, joined by commas."""
        (pipeline,) = self.net.pipeline
        embedding, _ = pipeline.encode_prompt(", ".join(texts), torch.device("cpu"), 1, False)
        self.text_embedding, self.texts = embedding.float().to(self.device), tuple(texts)

    def enable_checkpointing(self) -> bool:
        parts = [self.net.unet, self.net.vae]
        changed = not all(part.is_gradient_checkpointing for part in parts)
        for part in parts:
            part.enable_gradient_checkpointing()
        return changed

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        return 1, self.net.unet.config.in_channels, size[0] // self.stride, size[1] // self.stride

    def start(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        """Return Gaussian noise."""
        return torch.randn(self.shape(size), generator=rng).to(self.device)

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """Return the noised latent of (B, 3, H, W), as image-to-image starts from, always with the same noise."""
        check_size(self.name, self.stride, (image.shape[-1], image.shape[-2]))
        clean = self.compute(self.net.encode, image)
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).to(clean)
        clean_share, noise_share = self.net.mix
        return (clean_share * clean + noise_share * noise) / self.net.start_scale

    def image(self, latent: Tensor, progress: float = 1.0, rng: Randomness | None = None) -> Tensor:
        return clamp(self.compute(lambda noise: self.net.decode(self.net.denoise(noise, self.text_embedding)), latent))

    def distance(self, latent: Tensor, other: Tensor) -> Tensor:
        """Return the mean squared difference, divided by that of two unrelated noises."""
        return (latent - other).square().mean() / 2

    def project_(self, latent: Tensor) -> None:
        """Keep the norm near that of Gaussian noise, in place."""
        expected = latent[0].numel() ** 0.5
        norm = torch.linalg.vector_norm(latent.data, dim=(1, 2, 3), keepdim=True)
        target = norm.clamp(expected * (1 - NORM_TOLERANCE), expected * (1 + NORM_TOLERANCE))
        latent.data.mul_(target / norm.clamp(min=1e-12))


def is_pipeline(name: str) -> bool:
    """Return whether ``hf-hub:org/name`` is a pipeline. Raises ClipgenError for one that clipgen does not take."""
    try:
        kind = pipeline_class(name.removeprefix(HUB))
    except Exception:  # nothing, or a hub that is silent; its errors differ between its versions
        return False
    if kind and kind != PIPELINE:
        raise ClipgenError(f"generator={name!r} is {kind}; of pipelines clipgen takes {PIPELINE}, made for one step")
    return bool(kind)


@lru_cache  # of answers, not of errors: the hub may be reached the next time
def pipeline_class(repo: str) -> str:
    """Return the class of the pipeline in a repository of the hub; empty if it has none, such as an autoencoder."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError

    check_hub(repo, "model_index.json")
    try:
        return json.loads(Path(hf_hub_download(repo, "model_index.json")).read_text())["_class_name"]
    except LocalEntryNotFoundError:  # offline
        raise
    except EntryNotFoundError:
        return ""


def load(name: str, entry: Entry, device: torch.device) -> OneStep:
    """Load a pipeline from the hub; ``entry.config`` has its ``repo``."""
    if not importlib.util.find_spec("diffusers") or not importlib.util.find_spec("transformers"):
        raise ClipgenError(f'generator={name!r} needs diffusers and transformers; pip install ".[diffusion]"')
    from diffusers import StableDiffusionPipeline

    options = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    try:  # only safetensors are read, by diffusers' and transformers' own classes: no code from the hub is run
        pipeline = StableDiffusionPipeline.from_pretrained(
            entry.config["repo"], use_safetensors=True, low_cpu_mem_usage=False, **options
        )
    except Exception as error:  # diffusers and the hub fail in their own ways
        reason = " ".join(str(error).split())[:300]
        raise ClipgenError(f"generator={name!r} cannot be loaded ({reason}); check the name") from error
    pipeline.text_encoder.requires_grad_(False)
    return OneStep(name, OneStepNet(pipeline), entry.native_size, device)
