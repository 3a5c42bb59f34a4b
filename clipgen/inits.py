"""Where a run starts, and the pictures that the init loss keeps it near."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from clipgen.clip import Perceptor
from clipgen.errors import ClipgenError
from clipgen.generators import Generator
from clipgen.generators.codebook import Codebook
from clipgen.images import masks
from clipgen.images.reading import to_tensor
from clipgen.losses import InitTarget
from clipgen.priors import Drawings, dalle
from clipgen.prompts import Prompt, positive_text_prompts


@dataclass(frozen=True)
class InitContext:
    """What a start can use."""

    generator: Generator
    perceptor: Perceptor  # the first of an ensemble
    size: tuple[int, int]  # (H, W)
    seed: int
    rng: torch.Generator  # of the run
    latent: Tensor  # the generator's own start
    prompts: Sequence[Prompt]
    mask: Tensor | None = None  # (1, 1, H, W), 1 where the picture is painted
    background: Tensor | None = None  # (1, 3, H, W), the picture outside the mask; None before it exists
    fallback: "Init | None" = None  # the perceptor's default start; where only a part is painted, its targets are used
    show: Callable[[Tensor], None] | None = None  # called with the draft (1, 3, H, W) after each row of tokens

    def target(self, image: Tensor, strength: float = 1.0, space: str = "latent") -> InitTarget:
        """Return an init target for all prompts."""
        return InitTarget(image, self.generator.encode(image), strength, tuple(range(len(self.prompts))), space)


class Init:
    """Where a run starts: by default at the generator's own start."""

    starts_mask_from_draft = False  # whether the masked part of a picture starts from the draft of its prompts

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raise ClipgenError for prompts that it cannot start from, before anything is loaded."""

    def latent(self, context: InitContext) -> Tensor:
        """Return the first latent, of one picture."""
        return context.latent

    def background(self, context: InitContext, latent: Tensor) -> Tensor:
        """Return the picture (1, 3, H, W) that is kept outside the mask; ``context.background`` if it is given."""
        return context.generator.image(latent).detach() if context.background is None else context.background

    def targets(self, context: InitContext) -> list[InitTarget]:
        """Return the init targets: by default none, or with a mask those of ``context.fallback``."""
        return context.fallback.targets(context) if context.fallback and context.mask is not None else []


class Random(Init):
    """The generator's own start, led by CLIP alone, as in 2021."""

    def targets(self, context: InitContext) -> list[InitTarget]:
        return []


class Saved(Init):
    """A latent from a journal."""

    def __init__(self, saved: Tensor):
        self.saved = saved

    def latent(self, context: InitContext) -> Tensor:
        return context.generator.unpack(self.saved, context.size)


class Picture(Init):
    """A given picture, which the init loss keeps the run near; ``fit``: how it is resized."""

    starts_mask_from_draft = True

    def __init__(self, picture: Image.Image, fit: str = "crop"):
        self.picture, self.fit = picture, fit

    def latent(self, context: InitContext) -> Tensor:
        return context.generator.encode(self.background(context, context.latent))

    def background(self, context: InitContext, latent: Tensor) -> Tensor:
        height, width = context.size
        return to_tensor(self.picture, (width, height), self.fit).to(context.generator.device)

    def targets(self, context: InitContext) -> list[InitTarget]:
        if context.mask is not None:
            return super().targets(context)
        return [context.target(self.background(context, context.latent))]


class Procedural(Init):
    """A picture drawn with the run's random numbers, such as clouds. No init loss keeps the run near it."""

    def draw(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        """Return an image (1, 3, H, W) in [0, 1]."""
        raise NotImplementedError

    def latent(self, context: InitContext) -> Tensor:
        return context.generator.encode(self.draw(context.size, context.rng).to(context.generator.device))


class Noise(Procedural):
    """Every pixel a random colour."""

    def draw(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        return torch.rand(1, 3, *size, generator=rng)


class Perlin(Procedural):
    """Coloured clouds: noise at several scales, the coarse ones strongest (after Perlin 1985)."""

    def draw(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        clouds = torch.zeros(1, 3, *size)
        for octave in range(1, 6):
            coarse = torch.randn(1, 3, *(2**octave + 1,) * 2, generator=rng)
            clouds += F.interpolate(coarse, size, mode="bicubic", align_corners=True) / octave**1.5
        return (0.5 + 0.2 * clouds).clamp(0, 1)


class Gradient(Procedural):
    """From one random colour to another, in a random direction."""

    def draw(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        colours, angle = torch.rand(2, 1, 3, 1, 1, generator=rng), 6.2832 * torch.rand((), generator=rng)
        y, x = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in size), indexing="ij")
        ramp = x * angle.cos() + y * angle.sin()
        ramp = (ramp - ramp.min()) / (ramp.max() - ramp.min())
        return colours[0].lerp(colours[1], ramp)


class Colour(Procedural):
    """One colour (3,) everywhere."""

    def __init__(self, colour: Tensor):
        self.colour = colour

    def draw(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        return self.colour[None, :, None, None].expand(1, 3, *size).clone()


class Dalle(Init):
    """The best drawing of the built-in transformer, with a large weight of the init loss."""

    strength, space = 12.0, "latent"  # of the init targets

    def __init__(self, model: str = "mini"):
        self.model = model
        self._drawings: dict[str, Drawings] = {}

    def check(self, prompts: Sequence[Prompt]) -> None:
        if not positive_text_prompts(prompts):
            raise ClipgenError(f"init: {self.model}'s transformer needs a text prompt; add one or choose init='random'")

    def find_subject(self, prompts: Sequence[Prompt]) -> Any:
        """Return what is drawn for prompts: the texts of the positive ones, joined by "and"."""
        return " and ".join(prompt.text for prompt in prompts if prompt.weight > 0)

    def draft_key(self, subject: Any) -> str:
        """Return the name of the draft of a subject, as in ``InitTarget``."""
        return subject

    def single_text(self, subject: Any) -> str:
        """Return the text whose drawing is the whole draft; empty if the draft has several parts."""
        return subject

    def latent(self, context: InitContext) -> Tensor:
        """Return the latent of the draft: a drawing's own tokens if the generator has the same codebook."""
        subject, generator = self.first_subject(context), context.generator
        if context.show:
            for image in self.stages(context, subject, context.size):
                context.show(image)
        if text := self.single_text(subject):
            drawings = self.drawings(context, text)
            side = drawings.tokens.shape[1] * generator.stride
            if drawings.generator == generator.name and context.size == (side, side):
                return cast(Codebook, generator).from_tokens(drawings.tokens[:1].to(generator.device))
        return generator.encode(self.draw(context, subject, context.size))

    def strength_and_space(self, subject: Any) -> tuple[float, str]:
        """Return how firmly, and in which space, a run is held to the draft of a subject, as in ``InitTarget``."""
        return self.strength, self.space

    def first_subject(self, context: InitContext) -> Any:
        """Return the subject of the text prompts that are active first."""
        self.check(context.prompts)  # they may have been changed since
        prompts = positive_text_prompts(context.prompts)
        first = min(prompt.span[0] for prompt in prompts)
        return self.find_subject([prompt for prompt in prompts if prompt.span[0] == first])

    def targets(self, context: InitContext) -> list[InitTarget]:
        """Return an init target for each span of steps that text prompts have."""
        indices = [i for i, prompt in enumerate(context.prompts) if not prompt.is_image]
        spans = dict.fromkeys(context.prompts[i].span for i in indices if context.prompts[i].weight > 0)
        targets = []
        for span in spans:
            members = tuple(i for i in indices if context.prompts[i].span == span)
            subject = self.find_subject([context.prompts[i] for i in members])
            target = context.target(self._draw_in_mask(context, subject), *self.strength_and_space(subject))
            targets.append(target._replace(prompts=members, draft_key=self.draft_key(subject)))
        return targets

    def _draw_in_mask(self, context: InitContext, subject: Any) -> Tensor:
        if context.mask is None or context.background is None:
            return self.draw(context, subject, context.size)
        rows, columns = masks.bounding_box(context.mask)
        image = context.background.clone()
        image[..., rows, columns] = self.draw(context, subject, (rows.stop - rows.start, columns.stop - columns.start))
        return masks.blend(image, context.background, context.mask)

    def draw(self, context: InitContext, subject: Any, size: tuple[int, int]) -> Tensor:
        """Return the draft of a subject as an image (1, 3, H, W)."""
        return deque(self.stages(context, subject, size), maxlen=1).pop()

    def stages(self, context: InitContext, subject: Any, size: tuple[int, int]) -> Iterator[Tensor]:
        """Yield the best drawing of a text after each row of tokens, its border repeated where it is not square."""
        side = min(size)
        top, left = (size[0] - side) // 2, (size[1] - side) // 2
        for drawings in self._drawing_stages(context, subject):
            drawing = to_tensor(drawings.images[0]).to(context.generator.device)
            square = F.interpolate(drawing, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
            yield F.pad(square, (left, size[1] - side - left, top, size[0] - side - top), mode="replicate")

    def drawings(self, context: InitContext, text: str) -> Drawings:
        """Return the drawings of a text, best first, drawn once."""
        return deque(self._drawing_stages(context, text), maxlen=1).pop()

    def _drawing_stages(self, context: InitContext, text: str) -> Iterator[Drawings]:
        """Yield the drawings of a text after each row; cached drawings are yielded once, complete."""
        if text in self._drawings:
            yield self._drawings[text]
            return
        for drawings in self.sample(context, text):
            yield drawings
        self._drawings[text] = drawings

    def sample(self, context: InitContext, text: str) -> Iterator[Drawings]:
        """Yield new drawings of a text after each row of tokens, in the end all of them, best first."""
        device = str(context.generator.device)
        options: dict[str, Any] = {"model": self.model, "perceptor": context.perceptor, "device": device}
        return dalle(text, stream="likeliest", seed=context.seed, **options)


# With DALL-E mini's published weights.
DalleMini, DalleMega = partial(Dalle, "dalle-mini"), partial(Dalle, "dalle-mega")
