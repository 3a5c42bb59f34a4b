"""Generators: a latent that can be moved, and a pretrained decoder that turns it into a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipgen import downloads, weights
from clipgen.device import autocast
from clipgen.errors import ClipgenError
from clipgen.generators.codes import straight_through
from clipgen.generators.dvae import DVAE
from clipgen.generators.registry import REGISTRY
from clipgen.generators.vqgan import VQModel, from_llamagen, from_taming, from_yaml


class Generator:
    """A frozen autoencoder with a codebook. Latents are (B, dim, H/factor, W/factor) float32.

    Two families share it because both nets offer ``codebook``, ``encode``, ``tokens``, ``lookup`` and
    ``decode``; what differs stays in their files.
    """

    def __init__(self, name: str, net: VQModel | DVAE, size: int = 256):
        self.name, self.size, self.factor = name, size, net.factor
        self.net = net.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        codes = net.codebook
        self.low, self.high = codes.amin(0)[:, None, None], codes.amax(0)[:, None, None]
        self.unit = float(codes.std())  # distances on the codebook are told in it
        self.pace = self.unit  # and learning rates in this

    def check_size(self, size: tuple[int, int]) -> None:
        """Raise ClipgenError unless (width, height) in pixels are positive multiples of ``factor``."""
        nearest = tuple(max(1, round(side / self.factor)) * self.factor for side in size)
        if tuple(size) != nearest or min(size) < 4 * self.factor or max(size) > 4096:
            nearest = tuple(min(4096, max(side, 4 * self.factor)) for side in nearest)
            raise ClipgenError(
                f"size={tuple(size)}: {self.name} works in steps of {self.factor} from {4 * self.factor} to 4096; "
                f"nearest is {nearest}"
            )

    def random(self, batch: int, height: int, width: int, rng: torch.Generator) -> Tensor:
        """A latent of codes drawn at random, for pictures of (height, width) pixels."""
        shape = batch, height // self.factor, width // self.factor
        return self.net.lookup(torch.randint(len(self.net.codebook), shape, generator=rng).to(self.low.device)).clone()

    def place(self, tokens: Tensor) -> Tensor:
        """(B, h, w) int64 to the latent that stands for them."""
        return self.net.lookup(tokens).clone()

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1], H and W multiples of ``factor``, to a latent, snapped to the codebook."""
        self.check_size((images.shape[-1], images.shape[-2]))
        with autocast(images.device):
            tokens = self.net.tokens(self.net.encode(images))
        return self.net.lookup(tokens)

    @torch.no_grad()
    def tokens(self, latent: Tensor) -> Tensor:
        """(B, h, w) int64: the code of every position."""
        return self.net.tokens(latent)

    def decode(self, latent: Tensor) -> Tensor:
        """A latent, or (B, h, w) tokens, to images (B, 3, H, W) in [0, 1].

        The latent is snapped to the codebook on the way, with a straight-through gradient.
        """
        if latent.dtype == torch.int64:
            return self._draw(self.net.lookup(latent))
        return self._draw(straight_through(self.net.lookup(self.tokens(latent)), latent))

    def _draw(self, codes: Tensor) -> Tensor:
        with autocast(codes.device):
            return self.net.decode(codes).float()

    def relaxed(self, latent: Tensor, progress: float, rng: torch.Generator) -> Tensor:
        """``decode`` as optimisation sees it, ``progress`` of the way through: here, the same."""
        return self.decode(latent)

    def expected(self, latent: Tensor) -> Tensor:
        """(B, dim, h, w): where on the codebook a latent stands."""
        return latent

    @torch.no_grad()
    def unseen(self, latent: Tensor) -> Tensor:
        """How far a latent has gone from its codes: way that its picture does not show yet."""
        return latent - self.net.lookup(self.net.tokens(latent))

    def constrain(self, latent: Tensor) -> None:
        """Clamp the latent, in place, to the range of the codebook's channels."""
        latent.data.clamp_(self.low, self.high)

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] through the tokens and back."""
        return self.decode(self.encode(images))


class GumbelGenerator(Generator):
    """The same with token logits (B, codes, h, w) for a latent, relaxed as DALL-E's dVAE was trained.

    The decoder sees a softmax over the whole codebook, with Gumbel noise and a temperature that falls from 1 to
    1/16 (Ramesh et al. 2021; Jang et al. 2017). It takes codes/dim times the memory of a latent on the codebook.
    """

    def __init__(self, name: str, net: VQModel | DVAE, size: int = 256):
        super().__init__(name, net, size)
        if not net.has_logits:
            raise ClipgenError(f"relax='gumbel': {name} has no token logits; use relax='straight-through'")
        self.pace = 1.0

    def random(self, batch: int, height: int, width: int, rng: torch.Generator) -> Tensor:
        shape = batch, len(self.net.codebook), height // self.factor, width // self.factor
        return torch.randn(shape, generator=rng).to(self.low.device)

    def place(self, tokens: Tensor) -> Tensor:
        return 8 * torch.nn.functional.one_hot(tokens, len(self.net.codebook)).permute(0, 3, 1, 2).float()

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        self.check_size((images.shape[-1], images.shape[-2]))
        with autocast(images.device):
            return self.net.logits(images).float()

    @torch.no_grad()
    def tokens(self, latent: Tensor) -> Tensor:
        return latent.argmax(1)

    def decode(self, latent: Tensor) -> Tensor:
        """The likeliest tokens' picture; for gradients there is ``relaxed``."""
        return self._draw(self.net.lookup(latent if latent.dtype == torch.int64 else self.tokens(latent)))

    def relaxed(self, latent: Tensor, progress: float, rng: torch.Generator) -> Tensor:
        noise = torch.rand(latent.shape, generator=rng).clamp(min=1e-20).log().neg().log().neg()
        return self._draw(self._mix((latent + noise.to(latent.device)) * 16**progress))

    def expected(self, latent: Tensor) -> Tensor:
        return self._mix(latent)

    def unseen(self, latent: Tensor) -> Tensor:
        return torch.zeros_like(latent)  # no measure of it: the encoder's logits have a scale of their own

    def _mix(self, logits: Tensor) -> Tensor:
        return torch.einsum("bkhw,kd->bdhw", logits.softmax(1), self.net.codebook)

    def constrain(self, latent: Tensor) -> None:
        """Logits may be anything."""


RELAXATIONS = {"straight-through": Generator, "gumbel": GumbelGenerator}


def load_generator(
    name: str = "mini-vqgan", device: torch.device | str = "cpu", relax: str = "straight-through"
) -> Generator:
    """A generator by its name in the registry or by its checkpoint's path, ready on ``device``.

    A path: a VQGAN's checkpoint with its yaml beside it (``model.ckpt`` and ``model.yaml``). ``relax``:
    straight-through, or gumbel where the encoder gives token logits. Published weights are downloaded at the first
    use. Raises ClipgenError for an unknown name, and for weights that cannot be had, read or fitted.
    """
    if relax not in RELAXATIONS:
        raise ClipgenError(f"relax={relax!r} is unknown; choose one of: {', '.join(RELAXATIONS)}")
    if name in REGISTRY:
        net, size = _known(name), REGISTRY[name].size
    elif Path(name).is_file():
        net, size = _fitted(VQModel, _beside(Path(name)), from_taming(_tensors(Path(name))), name), 256
    else:
        raise ClipgenError(
            f"generator={name!r} is unknown; choose one of: {', '.join(REGISTRY)}, or the path of a checkpoint"
        )
    return RELAXATIONS[relax](name, net.to(device), size)


def _known(name: str) -> VQModel | DVAE:
    entry = REGISTRY[name]
    if entry.family == "embedded":
        kind = name.removeprefix("mini-")
        tensors, config = weights.read(weights.EMBEDDED / f"{kind}.safetensors")
        return _fitted({"vqgan": VQModel, "dvae": DVAE}[kind], config, tensors, name)
    files = [downloads.fetch(remote) for remote in entry.files]
    if entry.family == "dvae":
        halves = zip(("encoder", "decoder"), files, strict=True)
        return _fitted(DVAE, {}, {f"{half}.{k}": v for half, file in halves for k, v in _tensors(file).items()}, name)
    rename = from_llamagen if entry.family == "llamagen" else from_taming
    return _fitted(VQModel, entry.config, rename(_tensors(files[0])), name)


def _tensors(file: Path) -> dict[str, Tensor]:
    return weights.read(weights.as_safetensors(file))[0]


def _beside(file: Path) -> dict[str, Any]:
    """The configuration in the yaml next to a checkpoint."""
    for yaml in (file.with_suffix(".yaml"), file.with_name("model.yaml"), file.with_name("config.yaml")):
        if yaml.is_file():
            return from_yaml(yaml)
    raise ClipgenError(f"{file}: its yaml is needed to know the architecture; put it at {file.with_suffix('.yaml')}")


def _fitted(kind: type, config: Mapping[str, Any], tensors: dict[str, Tensor], name: str) -> VQModel | DVAE:
    with torch.device("meta"):
        net = kind(**config)
    weights.fit(net, tensors, name)
    return net
