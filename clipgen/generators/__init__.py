"""The interface of a generator, a latent and the way from it to an image, and what is known before it is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from clipgen.device import gpu_memory, resolve_device
from clipgen.errors import ClipgenError
from clipgen.precision import share_weights
from clipgen.registry import RELAXATIONS
from clipgen.storage.remote import Published

PIPELINE = "StableDiffusionPipeline"  # what diffusers calls a pipeline that one-step generators are read from
START_GREY = 0.83  # of images at the start: as light as paper, and still easy to darken
NOTEBOOK_STEPS = 500  # of the notebooks of 2021, on a GPU; a CPU takes fewer by default
Randomness = torch.Generator | Sequence[torch.Generator]  # one for the whole batch, or one for each image


class Generator:
    """Maps a latent to an image (B, 3, H, W), float32 in [0, 1].

    A latent is one float32 tensor whose first dimension is the batch; the rest is the generator's own, such as codes,
    frequencies or strokes. The defaults here are those of a continuous latent without a network.
    """

    name: str
    native_size: int  # width and height in pixels that suit it best
    stride = 1  # height and width of an image are multiples of it
    sequence = 0  # number of tokens of an image if they are a row instead of a grid
    lr: float  # the step, in the latent's own units, that a learning rate of 1 stands for
    spread: float  # standard deviation of the noise in ``start``
    limit: float  # latents are clamped to [-limit, limit]
    device: torch.device
    net: Any = None  # an autoencoder with ``encode``, ``decode`` and a module ``decoder``, if there is one
    precision = "fp32"  # see ``clipgen.device``
    is_noise = False  # whether its latent is Gaussian noise
    texts: tuple[str, ...] = ()  # the prompts that ``condition`` was last called with
    is_vector = False  # whether its images are marks that a file can keep, see ``clipgen.generators.drawings``

    def set_precision(self, precision: str) -> None:
        """Compute in one of ``clipgen.device.PRECISIONS``; without a network there is only fp32."""

    def condition(self, texts: Sequence[str]) -> None:
        """Condition on texts; most generators ignore them. Called at the start and when prompts change."""

    def enable_checkpointing(self) -> bool:
        """Recompute activations in the backward pass instead of storing them; return whether that is new."""
        return False

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Return the shape of the latent of one image of (H, W)."""
        raise NotImplementedError

    def image_size(self, latent: Tensor) -> tuple[int, int]:
        """Return the height and width of the image of a latent."""
        if self.sequence:
            return self.native_size, self.native_size
        return latent.shape[-2] * self.stride, latent.shape[-1] * self.stride

    def start(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        """Return a latent of one image of (H, W), drawn on the CPU: a plain light image with a little noise."""
        noise = self.spread * torch.randn(self.shape(size), generator=rng)
        return noise.to(self.device) + self.encode(torch.full((1, 3, *size), START_GREY, device=self.device))

    def encode(self, image: Tensor) -> Tensor:
        """Return the latent whose image is nearest to ``image``, without a gradient."""
        raise NotImplementedError

    def image(self, latent: Tensor, progress: float = 1.0, rng: Randomness | None = None) -> Tensor:
        """Return the image of a latent, differentiable.

        Args:
            latent: One latent or several along the first dimension.
            progress: Share of the run that is done, in [0, 1]; a relaxation may harden with it.
            rng: Source of a relaxation's noise; None for the image that is shown. With a sequence of random generators,
                one per image, each image equals the one decoded on its own, up to rounding.
        """
        raise NotImplementedError

    def distance(self, latent: Tensor, other: Tensor) -> Tensor:
        """Return the distance of two latents, a scalar of about 1 for unrelated images."""
        # The mean squared difference of pixels, divided by that of unrelated ones with a standard deviation of 1/4.
        return (self.image(latent) - self.image(other)).square().mean() / (2 * 0.25**2)

    def residual(self, latent: Tensor) -> Tensor:
        """Return ``latent - encode(image(latent))``, such as the quantisation error; zeros if there is none."""
        return torch.zeros_like(latent)

    def transform(self, latents: Tensor, inverse_affine: Tensor, rng: torch.Generator) -> Tensor:
        """Return the latents of drawings as a camera sees them after its move; other images are moved as pixels."""
        raise NotImplementedError

    def project_(self, latent: Tensor) -> None:
        """Clamp a latent to its range, in place."""
        latent.data.clamp_(-self.limit, self.limit)

    def pack(self, latent: Tensor) -> Tensor:
        """Return what is stored of the latent of one image: the latent as float16, or tokens (h, w) int64."""
        return latent.detach().half()

    def unpack(self, saved: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the latent of an image of (H, W) from what ``pack`` returned; raise ClipgenError if it is none."""
        shape = self.shape(size)
        if tuple(saved.shape) != shape or not saved.isfinite().all():
            raise ClipgenError(
                f"init: a latent of shape {tuple(saved.shape)} was given; {self.name} at this size needs {shape}, "
                "finite numbers"
            )
        return saved.float().to(self.device)


def wrap_edges(generator: Generator) -> Generator:
    """Return a generator with the same weights whose decoder pads with the opposite edge: its images tile."""
    tiling = share_weights(generator)
    for module in tiling.net.decoder.modules() if tiling.net is not None else ():
        if isinstance(module, nn.Conv2d):
            module.padding_mode = "circular"
    return tiling


class _Clamp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, images: Tensor) -> Tensor:  # type: ignore[override]
        clamped = images.clamp(0, 1)
        ctx.save_for_backward(images - clamped)
        return clamped

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (excess,) = ctx.saved_tensors
        return gradient * (gradient * excess >= 0)


def clamp(images: Tensor) -> Tensor:
    """Clamp to [0, 1]. A gradient passes unless it would push a value outside further out (Crowson 2021)."""
    return _Clamp.apply(images)


@dataclass(frozen=True)
class Entry(Published):
    """A row of the catalogue: a generator's loader, and what must be known before that is called."""

    # "module:class or function", called with (name, entry, device); returns the generator, or for one with a codebook
    # its network, for ``load_generator`` to relax.
    loader: str
    config: Mapping[str, Any] = field(default_factory=dict)  # arguments of its network
    native_size: int = 256  # width and height in pixels that suit it best
    stride: int = 16  # height and width of an image are multiples of it
    sequence: int = 0  # number of tokens if they are a row instead of a grid; images then have the native size
    codebook_size: int = 0  # 0: its latent is continuous
    has_logits: bool = False  # whether its encoder gives a logit for each code
    overflows_fp16: bool = False  # whether it computes in fp32 where fp16 is asked for
    tileable: bool = True  # whether its images can repeat without a seam
    defaults: Mapping[str, Any] = field(default_factory=dict)  # settings that suit it
    uses_notebook_defaults: bool = False  # whether a GPU gets the size and steps of the notebooks of 2021
    settled: float = 0.0  # default of the setting ``settled`` when ``steps`` is not given

    @property
    def is_vector(self) -> bool:
        """Whether it draws marks, which can be exported as vectors."""
        return "marks" in self.config

    def defaults_on(self, device: str) -> Mapping[str, Any]:
        """Return the settings that suit it on a device, ``auto`` or a name of torch's."""
        on_gpu = self.uses_notebook_defaults and resolve_device(device).type != "cpu"
        return {**self.defaults, "steps": NOTEBOOK_STEPS} if on_gpu else self.defaults

    def native_size_on(self, device: torch.device) -> int:
        """Return the default width and height on a device: on a GPU what its memory has room for."""
        if not self.uses_notebook_defaults or device.type == "cpu":
            return self.native_size
        return 512 if gpu_memory(device) >= 12e9 else 384

    def check(self, name: str, relax: str, size: tuple[int, int]) -> None:
        """Raise ClipgenError for a (width, height) or a relaxation that it cannot have."""
        check_size(name, self, size)
        kind, numbers = parse_relaxation(relax)
        if kind in ("gumbel", "sample") and not self.has_logits:
            raise ClipgenError(f"relax={kind!r}: {name} has no token logits; use relax='straight-through'")
        if self.codebook_size % numbers.get("groups", 1):
            raise ClipgenError(
                f"relax={relax!r}: {name} has {self.codebook_size} tokens, which cannot be divided into that many "
                "groups; use 2"
            )


def token_grid(model: Entry | Generator, size: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width of the tokens of an image of (H, W)."""
    return (1, model.sequence) if model.sequence else (size[0] // model.stride, size[1] // model.stride)


def parse_relaxation(relax: str) -> tuple[str, dict[str, float]]:
    """Return the name and numbers of ``gumbel:temperature:groups`` or ``none:limit``. Raises ClipgenError."""
    name, *numbers = str(relax).split(":")
    RELAXATIONS.check(name)
    arguments = {"gumbel": ("temperature", "groups"), "none": ("limit",)}.get(name, ())
    try:
        values = dict(zip(arguments, map(float, numbers)))
    except ValueError:  # a word where a number belongs
        values = {}
    are_in_range = all(0 < value < 1e6 for value in values.values()) and values.get("groups", 1) % 1 == 0
    if len(values) < len(numbers) or not are_in_range:
        raise ClipgenError(
            f"relax={relax!r}: only gumbel and none take numbers, above 0, as in gumbel:1.873, gumbel:1.873:2 (two "
            "groups of tokens, each with a softmax) or none:6"
        )
    return name, values


def check_size(name: str, model: Entry | Generator, size: tuple[int, int]) -> None:
    """Raise ClipgenError unless (width, height) in pixels are multiples of the stride, from 4 of them to 4096."""
    only, stride = model.native_size, model.stride
    if model.sequence and tuple(size) != (only, only):
        raise ClipgenError(f"size={tuple(size)}: {name} draws {only}x{only} pixels only; leave size out")
    least = 4 * stride
    nearest = tuple(min(4096, max(least, round(side / stride) * stride)) for side in size)
    if tuple(size) != nearest:
        raise ClipgenError(
            f"size={tuple(size)}: {name} works in steps of {stride} from {least} to 4096; nearest is {nearest}"
        )


def check_tokens(name: str, tokens: Any, shape: tuple[int, int], codes: int) -> None:
    """Raise ClipgenError unless whole numbers have this shape (h, w) and are indices of codes.

    ``codes=0`` means that the generator has none.
    """
    if not codes:
        raise ClipgenError(f"init: tokens were given, and {name} has none; start from a picture")
    if tuple(tokens.shape) != shape or tokens.min() < 0 or tokens.max() >= codes:
        raise ClipgenError(
            f"init: tokens of shape {tuple(tokens.shape)} from {tokens.min()} to {tokens.max()} were given; "
            f"{name} at this size needs {shape}, from 0 to {codes - 1}"
        )
