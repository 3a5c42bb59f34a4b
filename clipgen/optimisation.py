"""One picture in the making: the latent, its optimiser, and everything that pulls at it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import ImageColor
from torch import Tensor
from torch.nn import functional as F

from clipgen import masks, objectives, starts
from clipgen.camera import Camera
from clipgen.errors import ClipgenError
from clipgen.generators import Generator
from clipgen.guidance import Guidance
from clipgen.images import to_tensor
from clipgen.inputs import Inputs
from clipgen.mini.collage import collage
from clipgen.perceptors import Perceptor
from clipgen.prompts import Prompt, parse, strengths
from clipgen.sampling import Drawings, dalle
from clipgen.settings import Settings, optimizer

# A photograph is only a start, but a collage is a goal: left to itself, a CLIP this small is soon fooled.
COLLAGE = 12.0
# Starts that a transformer draws, best of 16: the word for ``init`` and its model.
SECOND_STAGES = {"dalle": "mini", "dalle-mini": "dalle-mini", "dalle-mega": "dalle-mega"}
Loss = Callable[[Tensor, Tensor, int], Tensor]  # (image (1, 3, H, W), latent, step) to a scalar


class Optimisation:
    """Starts a latent as the settings say and moves it, step by step. Knows no files and no threads."""

    def __init__(
        self,
        settings: Settings,
        generator: Generator,
        perceptors: list[tuple[Perceptor, float]],
        inputs: Inputs,
        losses: Sequence[Loss],
        device: torch.device,
    ):
        self.generator, self.perceptors, self.inputs, self.losses = generator, perceptors, inputs, losses
        self.device = device
        assert settings.size is not None
        width, height = settings.size
        self.size = height, width
        self.rng = torch.Generator().manual_seed(settings.seed)
        self.passes, self.slower, self.trouble = settings.passes, 1.0, 0
        self._imagined: dict[str, Drawings] = {}
        latent, goal = generator.random(1, height, width, self.rng), None
        if settings.init in inputs.tokens:
            tokens = torch.from_numpy(inputs.tokens[settings.init].astype(np.int64))[None]
            latent = generator.place(tokens.to(device))
        elif settings.init in inputs.pictures:
            goal = to_tensor(inputs.pictures[settings.init], settings.size, settings.fit).to(device)
            latent = generator.encode(goal)
        elif settings.init in SECOND_STAGES:
            self.settings = settings
            texts = [p for p in parse(settings.prompt) if p.weight > 0 and not p.is_image]
            first = min(p.span[0] for p in texts)
            latent = self._drawn([p for p in texts if p.span[0] == first])
        elif (picture := starts.start(settings.init, self.size, self.rng)) is not None:
            latent = generator.encode(picture.to(device))
        self.goal = goal
        self.base = goal if goal is not None else generator.decode(latent).detach()
        self.latent, self.shown = latent.clone().requires_grad_(), latent.clone()
        # 0.99: the views change with every step, and a long memory of their gradients lags behind.
        options: dict[str, Any] = {"betas": (0.9, 0.99)} if settings.optimizer in ("Adam", "AdamW") else {}
        self.optimizer = optimizer(settings.optimizer)([self.latent], lr=settings.lr, **options)  # type: ignore[call-arg]
        self.follow(settings)

    @property
    def stuck(self) -> bool:
        """Whether three steps in a row came to nothing."""
        return self.trouble >= 3

    def follow(self, settings: Settings) -> None:
        """Take up settings, at the start or when they were changed."""
        self.settings, self.prompts = settings, parse(settings.prompt)
        self.guidance = Guidance(self.prompts, self.perceptors, self.size, self.inputs.pictures, self.device)
        mask = settings.mask and masks.load(settings.mask, self.size, self.inputs.pictures).to(self.device)
        self.mask = mask if isinstance(mask, Tensor) else None
        self.camera, self.palette = Camera.parse(settings.camera), colours(settings.palette)
        self.anchors = self._anchors() if settings.near else []

    def _anchors(self) -> list[tuple[list[int], Tensor, Tensor]]:
        """What to stay near to: (prompts that it stands for, picture, latent)."""
        mini = self.perceptors[0][0]
        if self.goal is not None and self.mask is None:
            goals = [(list(range(len(self.prompts))), self.goal)]
        elif self.settings.init in ("collage", *SECOND_STAGES) or (self.mask is not None and mini.name == "mini"):
            # A story has a collage for each of its spans, and a mask has it in the part that is painted.
            spans = dict.fromkeys(p.span for p in self.prompts if p.weight > 0 and not p.is_image)
            groups = [[i for i, p in enumerate(self.prompts) if p.span == span and not p.is_image] for span in spans]
            goals = [(which, self._goal([self.prompts[i] for i in which])) for which in groups]
        else:
            return []
        return [(w, p, self.generator.expected(self.generator.encode(p))) for w, p in goals]

    def _goal(self, prompts: list[Prompt]) -> Tensor:
        if self.mask is None:
            return self._imagine(prompts, self.size)
        rows, columns = masks.box(self.mask)
        picture, size = self.base.clone(), (rows.stop - rows.start, columns.stop - columns.start)
        picture[..., rows, columns] = self._imagine(prompts, size)
        return masks.blend(picture, self.base, self.mask)

    def _imagine(self, prompts: list[Prompt], size: tuple[int, int]) -> Tensor:
        """(1, 3, H, W): a collage, or the best of what a second stage draws."""
        if self.settings.init not in SECOND_STAGES:
            return collage(self.perceptors[0][0], prompts, size).to(self.device)
        drawing = to_tensor(self._drawings(prompts).images[0]).to(self.device)
        return F.interpolate(drawing, size, mode="bicubic", antialias=True).clamp(0, 1)

    def _drawings(self, prompts: list[Prompt]) -> Drawings:
        text, model = " and ".join(p.text for p in prompts if p.weight > 0), SECOND_STAGES[self.settings.init]
        if text not in self._imagined:
            judge, seed = self.perceptors[0][0], self.settings.seed
            self._imagined[text] = dalle(text, model=model, seed=seed, perceptor=judge, device=str(self.device))
        return self._imagined[text]

    def _drawn(self, prompts: list[Prompt]) -> Tensor:
        """The best drawing as a latent: its very tokens, where the generator has the same."""
        drawings = self._drawings(prompts)
        side = drawings.tokens.shape[1] * self.generator.factor
        if drawings.generator == self.generator.name and self.size == (side, side):
            return self.generator.place(drawings.tokens[:1].to(self.device))
        return self.generator.encode(self._imagine(prompts, self.size))

    # --- a step ---------------------------------------------------------------------------------------

    def advance(self, step: int) -> tuple[float, float]:
        """Make one step; returns (loss, CLIP score)."""
        s, progress = self.settings, step / self.settings.steps
        # A picture settles; what a camera moves through has to be painted to the end.
        schedule = ("constant" if self.camera else "cosine") if s.schedule == "auto" else s.schedule
        fall = {"cosine": 0.5 * (1 + math.cos(math.pi * progress)), "linear": 1 - progress, "constant": 1.0}[schedule]
        self.optimizer.param_groups[0]["lr"] = s.lr * self.generator.pace * (0.1 + 0.9 * fall) * self.slower
        self.optimizer.zero_grad()
        image = self._masked(self.generator.relaxed(self.latent, progress, self.rng))
        # Everything that looks at the picture leaves its gradient here; then one pass goes back through the decoder.
        leaf = image.detach().requires_grad_()
        loss, score = self._look(self.guidance.follow(leaf, step, s, self.rng), leaf)
        extra = self._extra(leaf, step, progress)
        if extra is not None:
            extra.backward()
            loss += float(extra.detach())
        if image.requires_grad and leaf.grad is not None:
            image.backward(leaf.grad)
        gradient = self.latent.grad
        if not math.isfinite(loss) or (gradient is not None and not gradient.isfinite().all()):
            self._stumble()
            return loss, score
        self.trouble = 0
        if gradient is not None:
            self.optimizer.step()
        self.generator.constrain(self.latent)
        self.shown.lerp_(self.latent.detach(), 1 - s.ema)
        return loss, score

    def _look(self, look: Callable[[int], tuple[float, float]], leaf: Tensor) -> tuple[float, float]:
        """CLIP's gradient on the image, in as many passes as the memory asks for."""
        while True:
            try:
                return look(self.passes)
            except RuntimeError as error:
                short = isinstance(error, torch.cuda.OutOfMemoryError) or "alloc" in str(error).lower()
                if not short:
                    raise
                if self.passes >= self.settings.cutouts:
                    raise ClipgenError(
                        "out of memory with one cutout at a time; lower size, or choose a smaller perceptor"
                    ) from error
            leaf.grad = None
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            if self.passes == self.settings.passes:
                warnings.warn("memory is short: the cutouts go through CLIP in several passes now", stacklevel=2)
            self.passes = min(2 * self.passes, self.settings.cutouts)

    def _extra(self, image: Tensor, step: int, progress: float) -> Tensor | None:
        """All that is asked of the picture beside its likeness to the prompts."""
        s, terms = self.settings, []
        for name, regulariser in objectives.REGULARISERS.items():
            if weight := getattr(s, name):
                terms.append(weight * regulariser(image))
        if self.palette is not None:
            terms.append(s.palette_weight * objectives.palette(image, self.palette.to(self.device)))
        near = s.near * (1 - s.near_fade * progress) * (1 if self.goal is not None and self.mask is None else COLLAGE)
        if near and self.anchors:
            much = strengths(self.prompts, step)
            shares = [sum(max(0.0, much[i]) for i in which) for which, *_ in self.anchors]
            for share, (_, picture, latent) in zip(shares, self.anchors, strict=True):
                if share:
                    terms.append(near * share / sum(shares) * self._away(image, picture, latent))
        terms += [loss(image, self.latent, step) for loss in self.losses]
        return torch.stack([term.reshape(()) for term in terms]).sum() if terms else None

    def _away(self, image: Tensor, picture: Tensor, latent: Tensor) -> Tensor:
        if self.settings.near_space == "latent":
            return objectives.distance(self.generator.expected(self.latent), latent) / self.generator.unit**2
        if self.settings.near_space == "pixels":
            return 10 * objectives.distance(image, picture)
        perceptor = self.perceptors[0][0]
        seen, wanted = (
            perceptor.encode_image(F.interpolate(x, (perceptor.size,) * 2, mode="bilinear", antialias=True))
            for x in (image, picture)
        )
        return objectives.spherical_distance(seen, wanted.detach()).mean()

    def _stumble(self) -> None:
        """A loss that is no number: skip the step and go slower; the third time in a row is the last."""
        self.trouble += 1
        self.slower /= 2
        if self.stuck:
            warnings.warn("the loss was not finite three times in a row; stopped at the last good frame", stacklevel=2)
        else:
            warnings.warn("the loss is not finite: this step is skipped, and the learning rate halved", stacklevel=2)

    # --- what it looks like ---------------------------------------------------------------------------

    def _masked(self, image: Tensor) -> Tensor:
        return image if self.mask is None else masks.blend(image, self.base, self.mask)

    @torch.no_grad()
    def picture(self, mean: bool = True) -> tuple[Tensor, Tensor]:
        """(1, 3, H, W) as it is shown, and its tokens (h, w): of the mean of the latents, or of the latent itself."""
        latent = self.shown if mean else self.latent.detach()
        return self._masked(self.generator.decode(latent)), self.generator.tokens(latent)[0]

    def move_camera(self, picture: Tensor, step: int) -> None:
        """Go on from the picture as the camera sees it after its move, if it moves."""
        if self.camera:
            unseen = self.generator.unseen(self.latent.detach())  # or every move would throw it back to the codes
            latent = self.generator.encode(self.camera.move(picture, step)) + unseen
            self.latent.data.copy_(latent)
            self.shown = latent.clone()

    # --- what it goes on from -------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that the next step depends on: tensors, and notes that JSON can say."""
        state = self.optimizer.state_dict()["state"].get(0, {})
        tensors = {"latent": self.latent, "shown": self.shown, "base": self.base, "rng": self.rng.get_state()}
        tensors |= {f"optimizer.{k}": v for k, v in state.items() if isinstance(v, Tensor)}
        notes: dict[str, Any] = {"passes": self.passes, "slower": self.slower, "trouble": self.trouble}
        return tensors, notes | {"optimizer": {k: v for k, v in state.items() if isinstance(v, (int, float))}}

    def restore(self, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
        """Become what ``state`` described."""
        self.rng.set_state(tensors["rng"])
        self.latent.data.copy_(tensors["latent"])
        self.shown, self.base = (tensors[key].to(self.device) for key in ("shown", "base"))
        self.passes, self.slower, self.trouble = notes["passes"], notes["slower"], notes["trouble"]
        named = {key.partition(".")[2]: value for key, value in tensors.items() if key.startswith("optimizer.")}
        state = named | notes["optimizer"]
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": {0: state} if state else {}, "param_groups": groups})


def colours(text: str) -> Tensor | None:
    """'navy, #ffcc00' to (K, 3) in [0, 1]. Raises ClipgenError for a word that is no colour."""
    try:
        rows = [ImageColor.getrgb(part.strip())[:3] for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ClipgenError(f"palette={text!r}: {error}; write colours as 'navy, #ffcc00'") from error
    return torch.tensor(rows) / 255 if rows else None
