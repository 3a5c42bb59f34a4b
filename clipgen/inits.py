"""Where a run begins, and what it is drawn to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from clipgen.clip.protocol import Perceptor
from clipgen.generators.protocol import Parameterisation
from clipgen.images import masks
from clipgen.images.reading import to_tensor
from clipgen.losses.objectives import Goal
from clipgen.prompts import Prompt


@dataclass(frozen=True)
class Scene:
    """What a start can look at."""

    param: Parameterisation
    perceptor: Perceptor  # the first, if there are several
    size: tuple[int, int]  # (H, W)
    seed: int
    rng: torch.Generator  # of the run
    latent: Tensor  # where the parameterisation begins by itself
    prompts: Sequence[Prompt]
    mask: Tensor | None = None  # (1, 1, H, W), 1 where it is painted
    base: Tensor | None = None  # (1, 3, H, W), what stays elsewhere; None before there is one
    fallback: Start | None = None  # the perceptor's own start, for the goals of what is painted

    def goal(self, image: Tensor, strength: float = 1.0, prompts: Sequence[int] = (), space: str = "latent") -> Goal:
        """A goal for these prompts, by default for all of them."""
        return Goal(image, self.param.encode(image), strength, tuple(prompts or range(len(self.prompts))), space)

    def goals(
        self,
        imagine: Callable[[list[Prompt], tuple[int, int]], Tensor],
        strength: float = 1.0,
        space: str = "latent",
        drafted: Callable[[Sequence[Prompt]], str] = lambda prompts: "",
    ) -> list[Goal]:
        """A goal for each span of a story; ``imagine`` turns its texts into a (1, 3, H, W) of a size.

        Where a mask is, it is imagined in the part that is painted. ``drafted``: see ``Goal``.
        """
        texts = [(i, prompt) for i, prompt in enumerate(self.prompts) if not prompt.is_image]
        made = []
        for span in dict.fromkeys(prompt.span for _, prompt in texts if prompt.weight > 0):
            which = [i for i, prompt in texts if prompt.span == span]
            prompts = [self.prompts[i] for i in which]
            if self.mask is None or self.base is None:
                image = imagine(prompts, self.size)
            else:
                rows, columns = masks.box(self.mask)
                image = self.base.clone()
                image[..., rows, columns] = imagine(prompts, (rows.stop - rows.start, columns.stop - columns.start))
                image = masks.blend(image, self.base, self.mask)
            made.append(self.goal(image, strength, which, space)._replace(drafted=drafted(prompts)))
        return made


class Start:
    """A way to begin. The least that one says is its ``latent``."""

    redrafted = False  # whether a part that is painted, of a mask, begins with its draft instead

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raise ClipgenError for prompts that it can do nothing with; before anything is loaded."""

    def latent(self, scene: Scene) -> Tensor:
        """The first latent, of one picture."""
        return scene.latent

    def base(self, scene: Scene, latent: Tensor) -> Tensor:
        """(1, 3, H, W): what stays where a mask does not paint; of a picture that has grown, what was there before."""
        return scene.param.image(latent).detach() if scene.base is None else scene.base

    def goals(self, scene: Scene) -> list[Goal]:
        """What the run is drawn to. By default nothing, and in a masked part what the perceptor's own start aims at."""
        return scene.fallback.goals(scene) if scene.fallback and scene.mask is not None else []


class Random(Start):
    """The parameterisation's own beginning, and CLIP alone from there, as in 2021."""

    def goals(self, scene: Scene) -> list[Goal]:
        return []


class Saved(Start):
    """What a journal kept of a latent."""

    def __init__(self, saved: Tensor):
        self.saved = saved

    def latent(self, scene: Scene) -> Tensor:
        return scene.param.unpack(self.saved, scene.size)


class Picture(Start):
    """A given picture, which the run is held near to; ``fit``: how it is brought to size."""

    redrafted = True

    def __init__(self, picture: Image.Image, fit: str = "crop"):
        self.picture, self.fit = picture, fit

    def latent(self, scene: Scene) -> Tensor:
        return scene.param.encode(self.base(scene, scene.latent))

    def base(self, scene: Scene, latent: Tensor) -> Tensor:
        height, width = scene.size
        return to_tensor(self.picture, (width, height), self.fit).to(scene.param.device)

    def goals(self, scene: Scene) -> list[Goal]:
        return [scene.goal(self.base(scene, scene.latent))] if scene.mask is None else super().goals(scene)


class Made(Start):
    """A picture that is drawn with the run's random numbers, such as clouds. It is a beginning, no goal."""

    def draw(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        """(1, 3, H, W) in [0, 1]."""
        raise NotImplementedError

    def latent(self, scene: Scene) -> Tensor:
        return scene.param.encode(self.draw(scene.size, scene.rng).to(scene.param.device))


class Noise(Made):
    """Every pixel a colour of its own."""

    def draw(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        return torch.rand(1, 3, *size, generator=rng)


class Perlin(Made):
    """Coloured clouds: noise at several scales, the coarse counting most (after Perlin 1985)."""

    def draw(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        clouds = torch.zeros(1, 3, *size)
        for octave in range(1, 6):
            coarse = torch.randn(1, 3, *(2**octave + 1,) * 2, generator=rng)
            clouds += F.interpolate(coarse, size, mode="bicubic", align_corners=True) / octave**1.5
        return (0.5 + 0.2 * clouds).clamp(0, 1)


class Gradient(Made):
    """From one random colour to another, in a random direction."""

    def draw(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        colours, angle = torch.rand(2, 1, 3, 1, 1, generator=rng), 6.2832 * torch.rand((), generator=rng)
        y, x = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in size), indexing="ij")
        ramp = x * angle.cos() + y * angle.sin()
        ramp = (ramp - ramp.min()) / (ramp.max() - ramp.min())
        return colours[0].lerp(colours[1], ramp)


class Colour(Made):
    """One colour (3,) everywhere."""

    def __init__(self, colour: Tensor):
        self.colour = colour

    def draw(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        return self.colour[None, :, None, None].expand(1, 3, *size).clone()
