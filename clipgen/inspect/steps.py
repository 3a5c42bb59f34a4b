"""The cutouts of a step: what CLIP is shown, what each scores, and how strongly each pulls at the picture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from clipgen.images.reading import to_image
from clipgen.images.sheets import WARM, contact_sheet, enlarge, overlay_heat, png_bytes
from clipgen.losses.prompt_loss import PromptLoss, Targets, clip_score
from clipgen.optimize import Optimization

CELL, SIDE = 128, 384  # pixels of a cutout on a sheet, and of each half of a film's frame


@dataclass(frozen=True, eq=False)
class View:
    """A cutout as CLIP was shown it."""

    pixels: Tensor  # (3, size, size); augmentations may go beyond [0, 1]
    score: float  # its CLIP score; NaN where all prompts have negative weights
    pull: float  # its share of the gradient norms on the picture; all shares sum to one
    perceptor: str  # the CLIP that it was shown to
    where: str  # the region of its prompts; empty for all of the picture

    @property
    def image(self) -> Image.Image:
        """The cutout as a picture."""
        return to_image(self.pixels)


@dataclass(frozen=True, eq=False)
class StepReport:
    """A step as CLIP saw it; a notebook shows it as a sheet."""

    step: int
    picture: Image.Image  # of the latent itself; a frame shows the average
    views: list[View]
    gradient: Tensor  # (3, H, W), of the prompts on the picture
    score: float  # the CLIP score of the step

    @property
    def overlay(self) -> Image.Image:
        """The picture with the norm of the gradient as a heat map."""
        return overlay_heat(self.picture, self.gradient.norm(dim=0).numpy())

    def sheet(self) -> Image.Image:
        """Return the picture and its overlay, and every cutout with its score and its share of the pull."""
        left = contact_sheet([self.picture, self.overlay], 1, [f"step {self.step}", "where it is pulled"])
        cells = [view.image.resize((CELL, CELL), Image.Resampling.LANCZOS) for view in self.views]
        labels = [f"{view.score:.2f} · pull {view.pull:.0%}" for view in self.views]
        right = contact_sheet(cells, self._columns, labels, CELL) if cells else Image.new("RGB", (0, 0))
        sheet = Image.new("RGB", (left.width + right.width, max(left.height, right.height)), "white")
        sheet.paste(left, (0, 0))
        sheet.paste(right, (left.width, 0))
        return sheet

    def beside(self) -> Image.Image:
        """Return the picture beside its cutouts, as a frame of a film; the warmer an edge, the stronger the pull."""
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


def inspect_step(optimization: Optimization) -> StepReport:
    """Return what CLIP is shown in the next step. The optimisation is not changed."""
    scale, rng = optimization.loss_scaler.scale, torch.Generator()
    rng.set_state(optimization.rng.get_state())
    image = optimization.decode(rng).detach().requires_grad_()
    context = optimization.context(image, rng)
    (loss,) = (loss for loss in optimization.spec.losses if isinstance(loss, PromptLoss))
    views, norms, gradient = list[View](), list[float](), torch.zeros_like(image[0])
    for batch in loss.view_batches(context):
        cutouts, patches = batch.render()
        pixels = cutouts.detach().requires_grad_()  # its gradient is CLIP's part of the way back
        embeddings = batch.perceptor.encode_image(pixels, patches)
        (batch.evaluate(embeddings) * scale).backward()
        for pull in _pulls(cutouts, pixels.grad, image):
            norms.append(float(pull.norm()))
            gradient += pull / scale
        where = loss.prompts[batch.region.prompts[0]].where
        scores = _scores(batch.targets, embeddings.detach())
        for cutout, score in zip(pixels.detach().cpu(), scores, strict=True):
            views.append(View(cutout, score, 0.0, batch.perceptor.name, where))
    total = sum(norms) or 1.0
    views = [replace(view, pull=norm / total) for view, norm in zip(views, norms, strict=True)]
    picture = to_image(image.detach()[0])
    return StepReport(optimization.step + 1, picture, views, gradient.cpu(), float(context.scores["clip"]))


def _pulls(cutouts: Tensor, gradient: Tensor | None, image: Tensor) -> Iterator[Tensor]:
    """Yield the gradient of each cutout alone on the picture (3, H, W), from those on the cutouts (n, 3, S, S)."""
    for i in range(len(cutouts)):
        own = torch.zeros_like(cutouts)
        if gradient is not None:
            own[i] = gradient[i]
        yield torch.autograd.grad(cutouts, image, own, retain_graph=True)[0][0]


def _scores(targets: Targets, embeddings: Tensor) -> list[float]:
    """Return the CLIP score of each cutout (n, d)."""
    if not (targets.weights > 0).any():
        return [math.nan] * len(embeddings)
    return [float(clip_score(one[None], targets.embeddings, targets.weights)) for one in embeddings]
