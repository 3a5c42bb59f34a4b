"""The notebooks' loops in our own words, on the reference packages, beside clipgen's own, number by number.

A recipe's test says its source's loop as a ``Loop``; ``beside`` makes the same steps with it and with clipgen, from the
same latent and the same random numbers, and tells how far apart the two are. Nets are small, their weights random, and
both sides load them from files in the published formats.

What is drawn at random (where views lie, their noise) is clipgen's on both sides: what kinds of it a source draws, and
how often, is compared in ``test_recipes.py``.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dall_e.decoder
import dall_e.encoder
import open_clip
import torch
from omegaconf import OmegaConf
from taming.modules.diffusionmodules.model import Decoder, Encoder
from taming.modules.vqvae.quantize import VectorQuantizer2
from torch import Tensor, nn
from torch.nn import functional as F

from clipgen.cutouts import CutoutConfig, CutoutParams
from clipgen.generators.catalogue import GENERATORS
from clipgen.optimize import Optimization
from clipgen.prompts import parse
from clipgen.runs.settings import Settings
from clipgen.runs.spec import Models, RunSpec
from clipgen.runs.step_specs import StepSpecBuilder

SIDE, TOKENS = 64, 512  # pixels of a picture and of CLIP's views; the dVAE's vocabulary
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
DEVIATION = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
DDCONFIG = {
    "double_z": False,
    "z_channels": 32,
    "resolution": SIDE,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [16],
    "dropout": 0.0,
}


def openai_clip() -> Any:
    """Return OpenAI's package."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pkg_resources
        import clip
    return clip


def small_clip(folder: Path) -> tuple[nn.Module, str]:
    """Return a ViT of OpenAI's package, and the name by which clipgen loads the same."""
    clip, name = openai_clip(), "oracle-vit"
    vision = {"image_size": SIDE, "layers": 2, "width": 64, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text, "quick_gelu": True}
    (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{name}.json")
    model = clip.model.CLIP(32, SIDE, 2, 64, 16, 77, 49408, 64, 1, 2).eval().requires_grad_(False)
    for weight in model.parameters():
        weight.data += 0.02 * torch.randn_like(weight)
    torch.save(model.state_dict(), folder / "clip.pt")
    return model, f"{name}/{folder / 'clip.pt'}"


def small_dvae(cache: Path, monkeypatch: Any, contrast: float = 2.0) -> nn.Module:
    """Return a decoder of OpenAI's package, which clipgen loads as ``dvae`` with this cache folder."""
    small = {"n_hid": 64, "n_blk_per_group": 1, "vocab_size": TOKENS}
    encoder, decoder = dall_e.encoder.Encoder(**small), dall_e.decoder.Decoder(n_init=16, **small)
    for weight in decoder.parameters():
        weight.data += 0.02 * torch.randn_like(weight)
    decoder.blocks.input.w.data *= 8  # a trained one's tokens differ more
    decoder.blocks.output.conv.w.data *= contrast
    (cache / "dvae").mkdir(parents=True)
    for half, net in (("encoder", encoder), ("decoder", decoder)):
        torch.save(net, cache / "dvae" / f"{half}.pkl")
    entry = dataclasses.replace(GENERATORS["dvae"], config=small | {"n_init": 16}, codebook_size=TOKENS)
    monkeypatch.setitem(GENERATORS, "dvae", entry)
    monkeypatch.setenv("CLIPGEN_CACHE", str(cache))
    return decoder.eval().requires_grad_(False)


class Taming(nn.Module):
    """The parts of taming's VQModel, whose module cannot be imported beside today's Lightning."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(**DDCONFIG), Decoder(**DDCONFIG)
        self.quantize = VectorQuantizer2(64, 32, beta=0.25)
        self.quant_conv, self.post_quant_conv = nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 1)
        for weight in self.parameters():
            weight.data += 0.01 * torch.randn_like(weight)
        self.quantize.embedding.weight.data.normal_()

    def decode(self, latent: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(latent))


def small_vqgan(folder: Path) -> tuple[Taming, str]:
    """Return a VQGAN of taming's parts, and the path by which clipgen loads the same."""
    net = Taming().eval().requires_grad_(False)
    torch.save({"state_dict": net.state_dict()}, folder / "model.ckpt")
    params = {"embed_dim": 32, "n_embed": 64, "ddconfig": DDCONFIG, "lossconfig": {"target": "none"}}
    model = {"target": "taming.models.vqgan.VQModel", "params": params}
    OmegaConf.save(OmegaConf.create({"model": model}), folder / "model.yaml")
    return net, str(folder / "model.ckpt")


class Loop:
    """A source's loop. ``latent`` is the leaf that ``optimiser`` moves; say what is not said here."""

    optimiser: torch.optim.Optimizer

    def __init__(self, latent: Tensor, settings: Settings, clip: nn.Module, net: nn.Module):
        self.latent = latent.detach().clone().contiguous().requires_grad_()
        self.settings, self.clip, self.net = settings, clip, net
        texts = [prompt.text for prompt in parse(settings.prompt)]
        self.texts = clip.encode_text(openai_clip().tokenize(texts))

    def decode(self, rng: torch.Generator) -> Tensor:
        """Return what the decoder makes of the latent in a step, before anything is cut from it."""
        raise NotImplementedError

    def cut(self, picture: Tensor, views: CutoutParams) -> Tensor:
        """Return what CLIP is shown of it, before CLIP's own normalisation."""
        return views.render(picture)

    def loss(self, embedded: Tensor) -> Tensor:
        """Return the loss of views, as CLIP gives them, not at unit length."""
        raise NotImplementedError

    def after(self) -> None:
        """Do what the source does after the optimiser's step."""

    def shown(self) -> Tensor:
        """Return the picture that a person is shown."""
        raise NotImplementedError

    def counted(self, latent: Tensor) -> Tensor:
        """Return what counts of a latent: where the source does not bring it back to a range, it may go beyond."""
        return latent

    def step(self, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Make a step; returns what CLIP was shown, and the loss."""
        picture = self.decode(rng)
        views = self.cut(picture, self.settings.select(CutoutConfig).sample(picture.shape, SIDE, rng))
        loss = self.loss(self.clip.encode_image((views - MEAN) / DEVIATION))
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.after()
        return views.detach(), loss.detach()


class Watched:
    """A perceptor that remembers what it was shown last."""

    def __init__(self, perceptor: Any):
        self._perceptor, self.views = perceptor, torch.zeros(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._perceptor, name)

    def encode_image(self, images: Tensor, kept: Tensor | None = None) -> Tensor:
        self.views = images.detach()
        return self._perceptor.encode_image(images, kept)


@dataclass
class Apart:
    """How far clipgen and the source are apart after some steps."""

    views: list[float]  # of every step, the largest difference of what CLIP is shown
    losses: list[tuple[float, float]]  # clipgen's, and the source's
    cosines: list[float]  # of the latent's gradients
    moved: float  # the norm of the latents' difference, as a share of how far the source's has moved
    shown: float  # the mean difference of what a person is shown
    optimization: Optimization
    source: Loop


def beside(
    recipe: str, kind: type[Loop], clip: tuple[nn.Module, str], net: nn.Module, steps: int = 10, **asked: Any
) -> Apart:
    """Make the same steps with a recipe and with its source's loop; returns how far apart they are."""
    settings = {"perceptor": clip[1], "size": (SIDE, SIDE), "precision": "fp32", "device": "cpu"} | asked
    spec = RunSpec.create(settings.pop("prompt", "a city | a blur:-0.5"), {"recipe": recipe, **settings})
    loaded = spec.load_models()
    watched = Watched(loaded.perceptors[0][0])
    models: Models = dataclasses.replace(loaded, perceptors=[(watched, 1.0)])  # type: ignore[list-item]
    step_specs = StepSpecBuilder(spec, models)
    optimization = step_specs.create_optimization(spec.settings.at(0))
    source = kind(optimization.latent, spec.settings, clip[0], net)
    begin, views, losses, cosines = source.latent.detach().clone(), list[float](), [], list[float]()
    for step in range(steps):
        step_specs.update(optimization, spec.settings.at(step))
        rng = torch.Generator()
        rng.set_state(optimization.rng.get_state())
        told = optimization.advance()
        theirs, loss = source.step(rng)
        views.append(float((watched.views - theirs).abs().max()))
        losses.append((float(told["loss"]), float(loss)))
        assert optimization.latent.grad is not None and source.latent.grad is not None
        cosines.append(float(F.cosine_similarity(optimization.latent.grad.flatten(), source.latent.grad.flatten(), 0)))
    ours, theirs, begin = (source.counted(latent.detach()) for latent in (optimization.latent, source.latent, begin))
    moved = (ours - theirs).norm() / (theirs - begin).norm()
    with torch.no_grad():
        shown = (optimization.render_frame() - source.shown()).abs().mean()
    return Apart(views, losses, cosines, float(moved), float(shown), optimization, source)
