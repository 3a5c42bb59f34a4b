"""What CLIP sees: here a step with its parts, its cutouts and the judge of its frame; beside it whole pictures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from PIL import Image, ImageOps
from torch import Tensor

from clipgen.clip import Perceptor
from clipgen.errors import ClipgenError
from clipgen.images.reading import to_image
from clipgen.images.sheets import WARM, contact_sheet, enlarge, overlay_heat, png_bytes
from clipgen.losses.prompt_loss import PromptLoss, Region, clip_score
from clipgen.optimize import Optimization
from clipgen.prompts import Prompt, weights_at

if TYPE_CHECKING:
    from IPython.display import SVG

CELL, SIDE = 128, 384  # pixels of a cutout on a sheet, and of each half of a film's frame
PARTS = ("latent", "decoder", "picture", "cutouts", "CLIP", "text")  # from left to right
WIDTH, GAP, INK, MARK = 92, 28, "#333", "#ffd166"
ARROW_MARKER = (
    '<marker id="a" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    f'<path d="M0 0L8 4L0 8z" fill="{INK}"/></marker>'
)


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
    picture: Image.Image  # of the latent itself; frames show the EMA
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
        frame.paste(ImageOps.pad(enlarge(self.picture, SIDE), (SIDE, SIDE), Image.Resampling.LANCZOS), (0, 0))
        columns, cell = self._columns, SIDE // self._columns
        edge = max(1, cell // 24)
        most = max((view.pull for view in self.views), default=0) or 1.0
        for i, view in enumerate(self.views):
            inner = view.image.resize((cell - 2 * edge,) * 2, Image.Resampling.LANCZOS)
            colour = tuple(round(channel * view.pull / most) for channel in WARM)
            frame.paste(ImageOps.expand(inner, edge, colour), (SIDE + i % columns * cell, i // columns * cell))
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
    image = optimization.render_for_loss(rng).detach().requires_grad_()
    context = optimization.context(image, rng)
    (loss,) = (loss for loss in optimization.spec.losses if isinstance(loss, PromptLoss))
    views, norms, gradient = list[View](), list[float](), torch.zeros_like(image[0])
    for batch in loss.cutout_batches(context):
        cutouts, patches = batch.render()
        pixels = cutouts.detach().requires_grad_()  # its gradient is CLIP's part of the way back
        embeddings = batch.perceptor.encode_image(pixels, patches)
        (batch.evaluate(embeddings) * scale).backward()
        targets, where = batch.targets, loss.prompts[batch.region.prompts[0]].where
        for i, cutout in enumerate(pixels.detach()):
            own_gradient = torch.zeros_like(cutouts)
            if pixels.grad is not None:
                own_gradient[i] = pixels.grad[i]
            pull = torch.autograd.grad(cutouts, image, own_gradient, retain_graph=True)[0][0]
            norms.append(float(pull.norm()))
            gradient += pull / scale
            score = math.nan
            if (targets.weights > 0).any():
                score = float(clip_score(embeddings[i : i + 1].detach(), targets.embeddings, targets.weights))
            views.append(View(cutout.cpu(), score, 0.0, batch.perceptor.name, where))
    total = sum(norms) or 1.0
    views = [replace(view, pull=norm / total) for view, norm in zip(views, norms, strict=True)]
    picture = to_image(image.detach()[0])
    return StepReport(optimization.step + 1, picture, views, gradient.cpu(), float(context.scores["clip"]))


@dataclass(frozen=True)
class FrameJudge:
    """The judge of a run, and the prompts that it compares frames with.

    It sees each frame as it was trained to see pictures, without cutouts, augmentations or random numbers.
    """

    judge: Perceptor
    prompts: Sequence[Prompt]
    embeddings: Tensor  # (P, d), of the prompts by the judge
    regions: Sequence[Region]

    def score(self, frame: Image.Image, step: int) -> float:
        """Return the cosine of a frame to the positive prompts of a step, averaged by weight; 0 if there are none.

        A prompt about a region is compared with that region. A judge that reads no texts scores the frame alone.
        """
        if (rating := self.judge.rate(frame)) is not None:
            return rating
        positive = torch.tensor(weights_at(self.prompts, step)).clamp(min=0).to(self.embeddings)
        score = 0.0
        for region in self.regions:
            weights = positive[region.prompts]
            if total := float(weights.sum()):
                embedding = self.judge.embed_image([region.crop_picture(frame)])
                region_score = float(clip_score(embedding, self.embeddings[region.prompts], weights))
                score += total / float(positive.sum()) * region_score
        return score


def draw_pipeline(*marked: str) -> "SVG":
    """Return a drawing of the loop from latent to gradient, with some of its parts marked.

    Args:
        marked: Names of the parts to mark: latent, decoder, picture, cutouts, CLIP, text, gradient.

    Raises:
        ClipgenError: For another name.
    """
    from IPython.display import SVG

    if unknown := set(marked).difference(PARTS, ["gradient"]):
        raise ClipgenError(f"marked={unknown.pop()!r}: choose among {', '.join(PARTS)}, gradient")
    step = WIDTH + GAP
    left = [12 + i * step for i in range(len(PARTS))]
    boxes = []
    outlines = [(x, 12, WIDTH) for x in left] + [(left[1], 82, 3 * step - GAP)]
    for name, (x, y, width) in zip((*PARTS, "gradient"), outlines, strict=True):
        colour, weight = (MARK, "bold") if name in marked else ("#fff", "normal")
        boxes.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="34" rx="6" fill="{colour}" stroke="{INK}"/>'
            f'<text x="{x + width // 2}" y="{y + 22}" text-anchor="middle" font-weight="{weight}">{name}</text>'
        )
    ends = [(x + WIDTH, x + step) for x in left[:4]] + [(left[5], left[4] + WIDTH)]  # text points to CLIP
    paths = [f"M{start} 29H{end}" for start, end in ends]
    paths += [f"M{left[4] + WIDTH // 2} 46V99H{left[4] - GAP}", f"M{left[1]} 99H{left[0] + WIDTH // 2}V46"]
    lines = "".join(f'<path d="{path}" fill="none" stroke="{INK}" marker-end="url(#a)"/>' for path in paths)
    size = f'viewBox="0 0 {left[-1] + WIDTH + 12} 128" width="{left[-1] + WIDTH + 12}"'
    return SVG(
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="14" role="img">'
        f"<title>From a text to a picture: {', '.join(marked) or 'all parts'}</title>"
        f"<defs>{ARROW_MARKER}</defs>"
        f'<rect width="100%" height="100%" fill="#fff"/>{lines}{"".join(boxes)}</svg>'
    )
