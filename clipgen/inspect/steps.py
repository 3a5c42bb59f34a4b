"""What CLIP sees in a step: its views, what each of them scores, and how strongly each pulls at the picture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from clipgen.clip.protocol import Perceptor
from clipgen.images.heat import WARM, heated
from clipgen.images.reading import to_image
from clipgen.images.sheets import contact_sheet, enlarge, png_bytes
from clipgen.losses.objectives import Moment
from clipgen.losses.prompt_loss import PromptLoss, Spot, clip_score, combination
from clipgen.optimize import Render
from clipgen.prompts import weights_at

CELL, SIDE = 128, 384  # pixels of a view on a sheet, and of each half of a film's frame


@dataclass(frozen=True, eq=False)
class View:
    """A cutout as CLIP was shown it."""

    pixels: Tensor  # (3, size, size); augmentations may go beyond [0, 1]
    score: float  # its cosine to the prompts, as of the CLIP score; nan where all of them push away
    pull: float  # its share of the gradients' norms on the picture; the views' shares sum to one
    perceptor: str  # which of an ensemble it was shown to
    where: str  # the part of the picture that its prompts are about; empty for all of it

    @property
    def image(self) -> Image.Image:
        """The view as a picture."""
        return to_image(self.pixels)


@dataclass(frozen=True, eq=False)
class Seen:
    """A step as CLIP saw it; in a notebook a sheet of its views."""

    step: int
    picture: Image.Image  # that the views are cut from: the loop's own, before the average that a frame shows
    views: list[View]
    gradient: Tensor  # (3, H, W), of the prompts on the picture
    score: float  # the CLIP score of the step

    @property
    def overlay(self) -> Image.Image:
        """The picture, glowing where the prompts pull at it."""
        return heated(self.picture, self.gradient.norm(dim=0).numpy())

    def sheet(self) -> Image.Image:
        """The picture and the gradient on it; beside them every view with its score and its share of the pull."""
        left = contact_sheet([self.picture, self.overlay], 1, [f"step {self.step}", "where it is pulled"])
        cells = [view.image.resize((CELL, CELL), Image.Resampling.LANCZOS) for view in self.views]
        labels = [f"{view.score:.2f} · pull {view.pull:.0%}" for view in self.views]
        right = contact_sheet(cells, self._columns, labels, CELL) if cells else Image.new("RGB", (0, 0))
        sheet = Image.new("RGB", (left.width + right.width, max(left.height, right.height)), "white")
        sheet.paste(left, (0, 0))
        sheet.paste(right, (left.width, 0))
        return sheet

    def beside(self) -> Image.Image:
        """The picture, and beside it its views, as a frame of a film. The warmer a view's edge, the more it pulls."""
        frame = Image.new("RGB", (2 * SIDE, SIDE), "black")
        picture = enlarge(self.picture, SIDE)
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        frame.paste(picture, ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2))
        columns, cell = self._columns, SIDE // self._columns
        edge = max(1, cell // 24)
        most = max((view.pull for view in self.views), default=0) or 1.0
        draw = ImageDraw.Draw(frame)
        for i, view in enumerate(self.views):
            x, y = SIDE + i % columns * cell, i // columns * cell
            colour = tuple(round(channel * view.pull / most) for channel in WARM)
            draw.rectangle((x, y, x + cell - 1, y + cell - 1), colour)
            inner = view.image.resize((cell - 2 * edge,) * 2, Image.Resampling.LANCZOS)
            frame.paste(inner, (x + edge, y + edge))
        return frame

    @property
    def _columns(self) -> int:
        return math.ceil(math.sqrt(len(self.views))) or 1

    def _repr_png_(self) -> bytes:
        return png_bytes(self.sheet())


class _Onlooker:
    """A perceptor that remembers what it is shown, and cuts the way back there: CLIP's part and the picture's apart."""

    def __init__(self, perceptor: Perceptor):
        self._perceptor, self.size, self.patches = perceptor, perceptor.size, perceptor.patches
        self.shown: list[tuple[Tensor, Tensor, Tensor]] = []  # views from the picture, the same alone, embeddings

    def encode_image(self, images: Tensor, kept: Tensor | None = None) -> Tensor:
        if not torch.is_grad_enabled():  # a first look, of several parts
            return self._perceptor.encode_image(images, kept)
        alone = images.detach().requires_grad_()
        seen = self._perceptor.encode_image(alone, kept)
        self.shown.append((images, alone, seen.detach()))
        return seen


def look(render: Render) -> Seen:
    """What CLIP is shown in the step that a render would make next; the render stays as it is.

    The step's own code runs, with the random numbers that it would draw, and is listened to.
    """
    r, rng = render.recipe, torch.Generator()
    rng.set_state(render.rng.get_state())
    leaf = render.masked(render.image(rng)).detach().requires_grad_()
    moment = Moment(leaf, render.latent, render.step, r, rng, render.memory.passes)
    (loss,) = (objective for objective in r.objectives if isinstance(objective, PromptLoss))
    views, norms, score, gradient = list[View](), list[float](), 0.0, torch.zeros_like(leaf[0])
    for spot in loss.spots:
        for (perceptor, share), targets in zip(loss.perceptors, loss.targets, strict=True):
            onlooker = _Onlooker(perceptor)
            watched = cast(Perceptor, onlooker), share
            for term in replace(loss, spots=[spot], perceptors=[watched], targets=[targets]).terms(moment):
                (term * render.scaling.factor).backward()
            score += float(moment.scores["clip"])
            where = loss.prompts[spot.which[0]].where
            for shown, alone, seen in onlooker.shown:
                for pull in _pulls(shown, alone.grad, leaf):
                    norms.append(float(pull.norm()))
                    gradient += pull / render.scaling.factor
                told = _scores(loss, spot, targets, seen, moment.step)
                pixels = alone.detach().cpu()
                views += [View(*pair, 0.0, perceptor.name, where) for pair in zip(pixels, told, strict=True)]
    whole = sum(norms) or 1.0
    views = [replace(view, pull=norm / whole) for view, norm in zip(views, norms, strict=True)]
    return Seen(render.step + 1, to_image(leaf.detach()[0]), views, gradient.cpu(), score)


def _pulls(shown: Tensor, gradient: Tensor | None, image: Tensor) -> Iterator[Tensor]:
    """What each view alone leaves on the picture, (3, H, W); ``gradient``: on the views (n, 3, size, size)."""
    for i in range(len(shown)):
        own = torch.zeros_like(shown)
        if gradient is not None:
            own[i] = gradient[i]
        yield torch.autograd.grad(shown, image, own, retain_graph=True)[0][0]


def _scores(loss: PromptLoss, spot: Spot, every: Tensor, seen: Tensor, step: int) -> list[float]:
    """The CLIP score of each view (n, d) by itself."""
    weights = torch.tensor(weights_at(loss.prompts, step)).to(every)[spot.which]
    stops = torch.tensor([prompt.stop for prompt in loss.prompts]).to(every)[spot.which]
    asked = every[spot.which], weights, stops
    targets, weights, _ = combination(*asked) if loss.combined else asked
    if not (weights > 0).any():
        return [math.nan] * len(seen)
    return [float(clip_score(one[None], targets, weights)) for one in seen]
