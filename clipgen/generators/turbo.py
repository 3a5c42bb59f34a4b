"""One-step diffusion models, such as SD-Turbo (Sauer et al. 2023): the latent is the noise (ReNO, Eyring et al. 2024).

The picture is one step of the U-Net, conditioned by the prompt, and the decoder. All networks are diffusers'.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from clipgen.generators import Entry, Randomness, clamp, vae

NORM_TOLERANCE = 0.05  # share by which the norm of the noise may differ from that of Gaussian noise


class OneStepNet(vae.Diffusers):
    """The networks of a pipeline, and the numbers of its scheduler's only step, which is linear.

    ``tiny``: a TAESD that decodes for the gradient, in a fraction of the time and of the memory.
    """

    text_embedding: Tensor  # (1, n, d), of what is drawn

    def __init__(self, pipeline: Any, tiny: Any = None):
        super().__init__(pipeline.vae)
        self.unet, self.tiny = pipeline.unet, tiny
        self.pipeline = [pipeline]  # its text encoder stays on the CPU
        scheduler = pipeline.scheduler
        scheduler.set_timesteps(1)
        timestep = scheduler.timesteps[0]
        one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
        self.start_scale = float(scheduler.init_noise_sigma)  # of the noise
        self.input_scale = float(scheduler.scale_model_input(one, timestep))  # of what the U-Net is given
        self.from_noise, self.from_output = _one_step(scheduler, zero, one), _one_step(scheduler, one, zero)
        self.clean_share = float(scheduler.add_noise(one, zero, timestep[None]))
        self.noise_share = float(scheduler.add_noise(zero, one, timestep[None]))
        self.register_buffer("timestep", timestep, persistent=False)

    def encode(self, images: Tensor) -> Tensor:
        """Return the noised latents of images, as image-to-image starts from, always with the same noise."""
        clean = super().encode(images).float()
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).to(clean)
        return (self.clean_share * clean + self.noise_share * noise) / self.start_scale

    def decode(self, noise: Tensor) -> Tensor:
        """Return the images (B, 3, H, W) of noise (B, c, h, w), about in [0, 1]."""
        return super().decode(self.denoise(noise))

    def denoise(self, noise: Tensor) -> Tensor:
        """Return the clean latents of noise (B, c, h, w)."""
        noisy = noise * self.start_scale
        condition = self.text_embedding.expand(len(noise), -1, -1)
        output = self.unet(noisy * self.input_scale, self.timestep, encoder_hidden_states=condition).sample
        return self.from_noise * noisy + self.from_output * output


def _one_step(scheduler: Any, output: Tensor, noisy: Tensor) -> float:
    """Return what a scheduler's only step makes of a number, given the U-Net's output for it."""
    scheduler.set_timesteps(1)
    scheduler.scale_model_input(noisy, scheduler.timesteps[0])
    return float(scheduler.step(output, scheduler.timesteps[0], noisy).prev_sample)


class OneStep(vae.VAE):
    """A frozen one-step generator whose latent (B, channels, H/stride, W/stride) is its noise."""

    is_noise = True
    net: OneStepNet

    @torch.no_grad()
    def condition(self, texts: Sequence[str]) -> None:
        """Draw these texts from now on, joined by commas."""
        (pipeline,) = self.net.pipeline
        embedding, _ = pipeline.encode_prompt(", ".join(texts), torch.device("cpu"), 1, False)
        self.net.text_embedding, self.texts = embedding.float().to(self.device), tuple(texts)

    def image(self, latent: Tensor, progress: float = 1.0, rng: Randomness | None = None) -> Tensor:
        """Return the image of a noise; without ``rng``, which is the one that is shown, by the full decoder."""
        if rng is None or self.net.tiny is None:
            return super().image(latent)
        return clamp(self.compute(lambda noise: self.net.tiny.decode(self.net.denoise(noise)), latent))

    def start(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        """Return Gaussian noise."""
        return torch.randn(self.shape(size), generator=rng).to(self.device)

    def project_(self, latent: Tensor) -> None:
        """Keep the norm near that of Gaussian noise, in place."""
        expected = latent[0].numel() ** 0.5
        norm = torch.linalg.vector_norm(latent.data, dim=(1, 2, 3), keepdim=True)
        target = norm.clamp(expected * (1 - NORM_TOLERANCE), expected * (1 + NORM_TOLERANCE))
        latent.data.mul_(target / norm.clamp(min=1e-12))


def load(name: str, entry: Entry, device: torch.device) -> OneStep:
    """Load a pipeline; ``entry.config`` has its ``class`` and ``repo``, and maybe the entry of a ``tiny`` decoder."""
    options = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipeline = vae.load_diffusers(name, entry.config, **options)
    tiny = vae.load("taesd", entry.config["tiny"], device).net if "tiny" in entry.config else None
    generator = OneStep(name, OneStepNet(pipeline, tiny), entry.native_size, device)
    generator.condition([""])
    return generator
