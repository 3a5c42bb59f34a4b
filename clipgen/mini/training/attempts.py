"""What a CLIP draws when it is left alone, in every state of the drawing: examples of what a thing does not look like.

CLIP's gradient follows whatever it takes for the thing. Shown what came of that beside a real picture of the same
caption, it learns the difference, as an energy model does in its negative phase (Du and Mordatch 2019).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from clipgen.cutouts import CutoutConfig
from clipgen.generators import START_GREY
from clipgen.generators.catalogue import load_generator
from clipgen.mini.clip import MiniCLIP
from clipgen.mini.training.training import Job

LR, DECAY = 0.032, (0.9, 0.99)  # as clipgen moves a stack
VIEWS = CutoutConfig(4, augment="flip, affine, shift, grain")


class Attempts:
    """``count`` stacks of (size, size) in the making, each towards its own caption, and ``kept`` pictures of them.

    A stack begins on a plain ground, on another's or on its own real picture, or on soft colours; after 8 to ``steps``
    steps of Adam it makes room for the next. Its real picture is kept beside it.
    """

    def __init__(self, job: Job, size: int, count: int, kept: int, steps: int, seed: int):
        self.job, self.steps = job, steps
        self.stack = load_generator("stack", job.device)
        self.rng = torch.Generator().manual_seed(seed)
        self.latent, self.mean, self.square = (
            torch.zeros(count, *self.stack.shape((size, size))[1:], device=job.device) for _ in range(3)
        )
        self.age, self.life = torch.zeros(count, device=job.device), torch.zeros(count, device=job.device)
        self.real = torch.zeros(count, 3, size, size, device=job.device)
        self.captions = [""] * count
        self.shelf = torch.zeros(kept, 2, 3, size, size, dtype=torch.uint8, device=job.device)  # drawn and real
        self.labels: list[str] = [""] * kept
        self.filled = 0  # ever

    def advance(self, model: MiniCLIP, images: Tensor, captions: list[str], share: int) -> None:
        """A step for the next ``share`` stacks; those that are done begin again with these pictures and captions."""
        rows = torch.arange(share, device=self.latent.device)
        done = (self.age[:share] >= self.life[:share]).nonzero().flatten().tolist()
        if done:
            self._begin(done, images, captions)
        with torch.no_grad(), self.job.autocast():
            texts = model.embed_text(self.captions[:share])
        latent = self.latent[rows].requires_grad_()
        picture = self.stack.image(latent)
        seen = VIEWS.sample(picture.shape, picture.shape[-1], self.rng).render(picture)
        with self.job.autocast():
            likeness = (
                model.encode_image(self.job.place(seen)).unflatten(0, (share, VIEWS.cutouts)) * texts[:, None]
            ).sum()
        (uphill,) = torch.autograd.grad(likeness, latent)
        self.age[rows] += 1
        age, life = self.age[rows, None, None, None], self.life[rows, None, None, None]
        self.mean[rows] = self.mean[rows].lerp(uphill, 1 - DECAY[0])
        self.square[rows] = self.square[rows].lerp(uphill.square(), 1 - DECAY[1])
        mean, square = (m[rows] / (1 - d**age) for m, d in zip((self.mean, self.square), DECAY))
        rate = LR * (0.1 + 0.45 * (1 + (math.pi * age / life).cos()))
        self.latent[rows] += rate * mean / (square.sqrt() + 1e-8)
        chance = torch.rand(share, generator=self.rng).tolist()
        for row in range(share):
            if self.age[row] >= self.life[row] or chance[row] < float(self.age[row]) / (4 * self.steps):
                self._keep(row, picture[row].detach())
        # Round and round.
        for name in ("latent", "mean", "square", "age", "life", "real"):
            setattr(self, name, getattr(self, name).roll(-share, 0))
        self.captions = self.captions[share:] + self.captions[:share]

    def draw(self, count: int) -> tuple[Tensor, Tensor, list[str]]:
        """Kept pictures (n, 3, S, S), real pictures of the same captions, and these; fewer than ``count`` at first."""
        rows = torch.randperm(min(self.filled, len(self.shelf)), generator=self.rng)[:count]
        drawn, real = (self.shelf[rows.to(self.shelf.device)].float() / 255).unbind(1)
        return drawn, real, [self.labels[row] for row in rows.tolist()]

    def _begin(self, rows: list[int], images: Tensor, captions: list[str]) -> None:
        size = images.shape[-1]
        for row in rows:
            pick, other = torch.randint(len(captions), (2,), generator=self.rng).tolist()
            kind, low = float(torch.rand((), generator=self.rng)), self.life.new_zeros(())
            if kind < 0.55:
                start = self.stack.start((size, size), self.rng)
            elif kind < 0.85:
                start = self.stack.encode(images[pick if kind < 0.7 else other][None].clamp(0.02, 0.98))
            else:
                soft = torch.rand(1, 3, 4, 4, generator=self.rng).to(images.device)
                start = self.stack.encode(F.interpolate(soft, (size, size), mode="bilinear"))
            self.latent[row], self.real[row], self.captions[row] = start[0], images[pick], captions[pick]
            self.mean[row], self.square[row], self.age[row] = low, low, low
            self.life[row] = int(torch.randint(8, self.steps + 1, (), generator=self.rng))

    def _keep(self, row: int, picture: Tensor) -> None:
        place = self.filled % len(self.shelf)
        self.shelf[place] = (torch.stack([picture, self.real[row]]) * 255).round().clamp(0, 255).byte()
        self.labels[place] = self.captions[row]
        self.filled += 1


def cheats(images: Tensor, rng: torch.Generator) -> Tensor:
    """Pictures (B, 3, S, S) that no longer show the thing, each changed in one of five ways.

    Quarters or sixteenths in another order; a piece all over, mirrored, as a texture; four copies; and nothing at all,
    because a blank page that could pass for the thing would stay blank.
    """
    made = images.clone()
    size = images.shape[-1]
    kinds = torch.randint(5, (len(images),), generator=rng).tolist()
    for row, kind in enumerate(kinds):
        image = images[row]
        if kind < 2:
            parts = (2, 4)[kind]
            side = size // parts
            pieces = image.unfold(1, side, side).unfold(2, side, side).flatten(1, 2)
            # Turned round by at least one place, so that few stay where they were.
            order = torch.randperm(parts * parts, generator=rng)
            order = order[torch.argsort(order.roll(1))].to(images.device)
            pieces = pieces[:, order].unflatten(1, (parts, parts))
            made[row] = pieces.permute(0, 1, 3, 2, 4).reshape(3, size, size)
        elif kind == 2:
            y, x = torch.randint(size // 2, (2,), generator=rng).tolist()
            piece = image[:, y : y + size // 2, x : x + size // 2]
            wide = torch.cat([piece, piece.flip(2)], 2)
            made[row] = torch.cat([wide, wide.flip(1)], 1)
        elif kind == 3:
            made[row] = F.avg_pool2d(image, 2).repeat(1, 2, 2)
        else:
            made[row] = START_GREY
    return made
