"""One picture in the making: a latent, its optimiser, its average."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from clipgen.images import masks
from clipgen.losses.objectives import Moment, Recipe
from clipgen.memory import Memory, again, empty
from clipgen.scaling import Scaling


class Render:
    """Moves one latent as its ``recipe`` says, which may be replaced between two steps. Knows no files and no threads.

    ``base``: (1, 3, H, W), what stays where a mask does not paint.
    """

    def __init__(self, recipe: Recipe, latent: Tensor, base: Tensor, rng: torch.Generator, passes: int = 1):
        self.rng, self.memory, self.scaling = rng, Memory(passes), Scaling(recipe.precision)
        self.step, self.slower, self.trouble = 0, 1.0, 0
        self.drafted = goal.drafted if (goal := recipe.goal(0)) else ""
        self.grow(recipe, latent, base)

    def grow(self, recipe: Recipe, latent: Tensor, base: Tensor) -> None:
        """Go on with a latent and a base of another size; the optimiser begins anew."""
        self.recipe, self.base = recipe, base
        self.latent, self.average = latent.clone().requires_grad_(), latent.clone()
        self.optimizer = recipe.descent.start(self.latent)
        self.memory.plan(recipe, self.latent)

    def turn(self) -> None:
        """Before a step: where another draft is wanted than before, begin again from that. What is shown goes over.

        To paint one over the other leaves both: colours at their fullest have no gradient left to be changed by.
        """
        goal = self.recipe.goal(self.step, self.drafted)
        if goal is None or goal.drafted in ("", self.drafted):
            return
        if self.drafted:
            self.latent.data.copy_(goal.latent)
            self.optimizer = self.recipe.descent.start(self.latent)
            if self.step == 0:
                self.average.copy_(goal.latent)
        self.drafted = goal.drafted

    def advance(self) -> dict[str, Tensor]:
        """Make one step; returns the loss, and the CLIP score of what it looked at, as scalars on the device.

        The device is waited for once, when the step is known to be sound.
        """
        numbers = self.rng.get_state()
        while True:
            self.begin_step()
            try:
                scores = self.differentiate()
                break
            except (RuntimeError, MemoryError) as error:
                self.memory.relieve(error, self.recipe)
            empty(self.latent.device)
            self.rng.set_state(numbers)  # the same views again
        self.move(scores["loss"])
        return scores

    def begin_step(self) -> None:
        """Forget the gradient of the step before, and set the learning rate."""
        r = self.recipe
        rate = r.descent.rate(self.step / r.steps, r.param.lr, bool(r.camera)) * self.slower
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.zero_grad()

    def differentiate(self) -> dict[str, Tensor]:
        """Leave the gradient of the loss at the latent; returns the scores.

        A function of its own, so that nothing of an attempt for which memory was too short outlives it.
        """
        image = self.masked(self.image(self.rng))
        # All that looks at the picture leaves its gradient here; then one pass goes back through the decoder.
        leaf = image.detach().requires_grad_()
        moment = Moment(leaf, self.latent, self.step, self.recipe, self.rng, self.memory.passes)
        loss = self.memory.backward(moment, self.scaling.factor)
        if image.requires_grad and leaf.grad is not None:
            # backward(leaf.grad) is the same, and imports sympy at the first step.
            (image * leaf.grad).sum().backward()
        return moment.scores | {"loss": loss}

    def move(self, loss: Tensor) -> None:
        """Take the step that the gradient at the latent asks for, if all numbers are finite.

        Its parts take memory before they change anything, so that one for which that is short can be done again, and
        no step is taken by half or twice.
        """
        if again(partial(self._sound, loss), device := self.latent.device):
            parts: list[Callable[[], Any]] = [] if self.latent.grad is None else [self.optimizer.step]
            parts.append(partial(self.recipe.param.project_, self.latent))
            parts.append(partial(self.average.lerp_, self.latent.detach(), 1 - self.recipe.descent.ema))
            for part in parts:
                again(part, device)
        self.step += 1

    @property
    def stuck(self) -> bool:
        """Whether three steps in a row came to nothing."""
        return self.trouble >= 3

    def _sound(self, loss: Tensor) -> bool:
        """Whether all numbers are finite. If not, the step is skipped and the next ones are slower."""
        asked = [loss.isfinite()]
        if self.latent.grad is not None:
            least, most = self.latent.grad.amin(), self.latent.grad.amax()
            asked.append(torch.stack([least, most]).isfinite().all())  # without a copy of it, as large as the latent
        fine = torch.stack(asked).tolist()
        if self.latent.grad is not None:
            self.scaling.unscale_(self.latent.grad)
        if fine[0] and len(fine) == 2 and self.scaling.too_large(fine[1]):
            return False
        if all(fine):
            self.trouble = 0
            return True
        self.trouble += 1
        self.slower /= 2
        if self.stuck:
            warnings.warn("the loss was not finite three times in a row; stopped at the last good frame", stacklevel=3)
        else:
            warnings.warn("the loss is not finite: this step is skipped, and the learning rate halved", stacklevel=3)
        return False

    # --- what it looks like ---------------------------------------------------------------------------

    @property
    def shown(self) -> Tensor:
        """The latent that is shown: the average, but at first where it starts."""
        return self.average if self.step > 1 else self.latent.detach()

    @torch.no_grad()
    def picture(self) -> Tensor:
        """(1, 3, H, W) as it is shown."""
        return self.masked(self.recipe.param.image(self.shown))

    @torch.no_grad()
    def packed(self) -> Tensor:
        """What is kept of the latent that is shown."""
        return self.recipe.param.pack(self.shown)

    def move_camera(self, picture: Tensor) -> None:
        """Go on from the picture as the camera sees it after its move, if it moves; vectors move themselves."""
        camera, param = self.recipe.camera, self.recipe.param
        if camera and (moved := getattr(param, "moved", None)):
            origin = camera.origin(self.step, (picture.shape[-2], picture.shape[-1]))
            latent, self.average = moved(torch.cat([self.latent.detach(), self.average]), origin, self.rng).split(1)
            self.latent.data.copy_(latent)
        elif camera:
            # Without the residual every move would throw the latent back to what its picture shows.
            latent = param.encode(camera.move(picture, self.step)) + param.residual(self.latent.detach())
            self.latent.data.copy_(latent)
            self.average = latent.clone()

    def image(self, rng: torch.Generator) -> Tensor:
        """(1, 3, H, W) as the next step decodes it, before the mask."""
        return self.recipe.param.image(self.latent, self.step / self.recipe.steps, rng)

    def masked(self, image: Tensor) -> Tensor:
        """The image with what stays as it is where the mask does not paint."""
        return image if self.recipe.mask is None else masks.blend(image, self.base, self.recipe.mask)

    # --- what it goes on from -------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that the next step depends on: tensors, and notes that JSON can say."""
        state = self.optimizer.state_dict()["state"].get(0, {})
        tensors = {"latent": self.latent, "shown": self.average, "base": self.base, "rng": self.rng.get_state()}
        tensors |= {f"optimizer.{k}": v for k, v in state.items() if isinstance(v, Tensor)}
        notes: dict[str, Any] = {"passes": self.memory.passes, "slower": self.slower, "trouble": self.trouble}
        notes |= {"scaling": self.scaling.state, "drafted": self.drafted}
        return tensors, notes | {"optimizer": {k: v for k, v in state.items() if isinstance(v, (int, float))}}

    def restore(self, step: int, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
        """Become what ``state`` described after ``step``. Raises anything for what it cannot have described."""
        likes = {"latent": self.latent, "shown": self.average, "base": self.base}
        likes |= {key: self.latent for key, value in tensors.items() if key.startswith("optimizer.") and value.ndim}
        for key, like in likes.items():
            if tensors[key].shape != like.shape:
                raise ValueError(f"{key} is {tuple(tensors[key].shape)} instead of {tuple(like.shape)}")
        self.step, self.drafted = step, notes.get("drafted", self.drafted)
        self.rng.set_state(tensors["rng"])
        self.latent.data.copy_(tensors["latent"])
        self.average, self.base = tensors["shown"].to(self.average), tensors["base"].to(self.base)
        self.memory.passes, self.slower, self.trouble = (
            int(notes["passes"]),
            float(notes["slower"]),
            int(notes["trouble"]),
        )
        if self.memory.passes < 1 or not 0 < self.slower <= 1:
            raise ValueError(f"passes={self.memory.passes}, slower={self.slower}")
        self.scaling.restore(notes.get("scaling", ()))
        named = {key.partition(".")[2]: value for key, value in tensors.items() if key.startswith("optimizer.")}
        state = named | notes["optimizer"]
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": {0: state} if state else {}, "param_groups": groups})
