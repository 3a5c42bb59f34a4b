"""The optimisation loop: one latent moved along the gradient of its losses."""

import math
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from clipgen.device import deterministic
from clipgen.images import masks
from clipgen.losses import Loss, StepContext, StepSpec
from clipgen.memory import MemoryPlan, release, retry_after_oom
from clipgen.precision import RangeChecks, deferred_range_checks


class Optimization:
    """One latent, its optimiser and its moving average (EMA). Does no file I/O.

    Args:
        spec: What a step computes with; may be replaced between two steps.
        latent: The start, of one picture.
        background: (1, 3, H, W), the picture that is kept outside the mask.
        rng: The run's random number generator, on the CPU.
        passes: The cutouts go through CLIP in at least this many parts.
    """

    def __init__(self, spec: StepSpec, latent: Tensor, background: Tensor, rng: torch.Generator, passes: int = 1):
        self.rng, self.step = rng, 0
        self.memory, self.loss_scaler = MemoryPlan(passes), LossScaler(spec.precision)
        self.lr_scale, self.nonfinite_steps = 1.0, 0  # see ``unscale_and_check``
        target = spec.init_target(0)
        self.draft_key = target.draft_key if target else ""
        self.restart(spec, latent, background)

    def restart(self, spec: StepSpec, latent: Tensor, background: Tensor) -> None:
        """Continue with a latent and a background of another size, and a new optimiser."""
        self.spec, self.background = spec, background
        self.latent, self.ema_latent = latent.clone().requires_grad_(), latent.clone()
        self.optimizer = spec.optimizer.create(self.latent)
        self.memory.plan(spec, self.latent)

    def advance(self) -> dict[str, Tensor]:
        """Take one step; return its loss and CLIP score as scalar tensors."""
        rng_state = self.rng.get_state()
        while True:
            try:
                with deterministic(self.spec.deterministic), deferred_range_checks() as checks:
                    scores = self.compute_gradient()
            except (RuntimeError, MemoryError) as error:
                self.memory.handle_oom(error, self.spec)
            else:
                self.update_latent(scores["loss"], checks)
                if not checks.failed:
                    return scores
            # Try again, with less memory or beyond fp16's range, from the same random numbers.
            release(self.latent.device)
            self.rng.set_state(rng_state)

    def compute_gradient(self, decoded: Tensor | None = None) -> dict[str, Tensor]:
        """Compute the gradient of the losses with respect to the latent; return the scores of the step.

        ``decoded``: the picture of the latent, if it is decoded already; the gradient then ends there.
        """
        self.begin_step()
        image = self.render_for_loss(self.rng) if decoded is None else self.apply_mask(decoded)
        # Losses see a detached copy; the sum of their gradients then goes through the decoder once.
        image_copy = image.detach().requires_grad_()
        context = self.context(image_copy, self.rng)
        loss = backward(self.spec.losses, context, self.loss_scaler.scale)
        if image.requires_grad and image_copy.grad is not None:
            (image * image_copy.grad).sum().backward()  # image.backward with this gradient would import sympy
        return context.scores | {"loss": loss}

    def begin_step(self) -> None:
        """Clear the gradient and set the learning rate."""
        spec = self.spec
        lr = spec.optimizer.lr_at(self.step / spec.steps, spec.generator.lr, bool(spec.camera))
        self.optimizer.param_groups[0]["lr"] = lr * self.lr_scale
        self.optimizer.zero_grad()

    def render_for_loss(self, rng: torch.Generator) -> Tensor:
        """Return the picture (1, 3, H, W) of the latent that the losses of the next step see."""
        return self.apply_mask(self.spec.generator.image(self.latent, self.step / self.spec.steps, rng))

    def context(self, image: Tensor, rng: torch.Generator) -> StepContext:
        """Return what losses see of the next step."""
        return StepContext(
            image, self.latent, self.step, self.spec, rng, self.memory.passes, background=self.background
        )

    def update_latent(self, loss: Tensor, checks: RangeChecks | None = None) -> None:
        """Take an optimiser step, unless a number is not finite. After an fp16 overflow, leave the latent alone.

        Each part allocates before it changes anything, and can be repeated when memory runs out.
        """
        retry, checks = partial(retry_after_oom, self.latent.device), checks or RangeChecks()
        finite = retry(self.unscale_and_check, loss, checks)
        if checks.failed:
            return
        if finite:
            if self.latent.grad is not None:
                self.spec.optimizer.clip_gradient_(self.latent.grad)
                retry(self.optimizer.step)
            retry(self.spec.generator.project_, self.latent)
            retry(self.ema_latent.lerp_, self.latent.detach(), 1 - self.spec.optimizer.ema)
        self.step += 1

    def unscale_and_check(self, loss: Tensor, checks: RangeChecks) -> bool:
        """Unscale the gradient; return whether it and the loss are finite, and no network left fp16's range.

        If not, reduce the scale or the rate, and count the steps in a row that were not finite.
        """
        gradient = self.latent.grad
        extremes = () if gradient is None else gradient.aminmax()  # isfinite() would copy all of it
        numbers = torch.stack([loss.float(), *extremes, *checks.sums]).tolist()  # the step's only wait for the device
        loss_is_finite, *others = map(math.isfinite, numbers)
        gradient_is_finite = all(others[: len(extremes)])
        if checks.read(others[len(extremes) :]):
            return False
        if gradient is not None:
            self.loss_scaler.unscale_(gradient)
            if loss_is_finite and self.loss_scaler.update(gradient_is_finite):
                return False
        if loss_is_finite and gradient_is_finite:
            self.nonfinite_steps = 0
            return True
        self.nonfinite_steps += 1
        self.lr_scale /= 2
        if self.diverged:
            warnings.warn("the loss was not finite three times in a row; stopped at the last good frame", stacklevel=4)
        else:
            warnings.warn("the loss is not finite: this step is skipped, and the learning rate halved", stacklevel=4)
        return False

    @property
    def diverged(self) -> bool:
        """Whether three steps in a row were not finite."""
        return self.nonfinite_steps >= 3

    # --- between two steps ----------------------------------------------------------------------------

    def restart_from_draft(self) -> None:
        """Reset the latent to the current draft if the draft has changed; the average then fades to it.

        Optimising from the old draft would leave traces of it, because saturated colours have no gradient.
        """
        target = self.spec.init_target(self.step, self.draft_key)
        if target is None or target.draft_key in ("", self.draft_key):
            return
        if self.draft_key:  # without an earlier draft there are no traces of one to remove
            self.latent.data.copy_(target.latent)
            self.optimizer = self.spec.optimizer.create(self.latent)
            if self.step == 0:
                self.ema_latent.copy_(target.latent)
        self.draft_key = target.draft_key

    def move_camera(self, image: Tensor) -> None:
        """Continue from the picture as the camera sees it after its move. A vector drawing's marks move instead."""
        camera, generator = self.spec.camera, self.spec.generator
        if not camera:
            return
        if generator.is_vector:
            inverse_affine = camera.inverse_affine(self.step, (image.shape[-2], image.shape[-1]))
            latents = torch.cat([self.latent.detach(), self.ema_latent])
            latent, self.ema_latent = generator.transform(latents, inverse_affine, self.rng).split(1)
            self.latent.data.copy_(latent)
        else:
            # The residual (for a codebook, the quantisation error) is lost by re-encoding, so add it back.
            latent = generator.encode(camera.move(image, self.step)) + generator.residual(self.latent.detach())
            self.latent.data.copy_(latent)
            self.ema_latent = latent.clone()

    # --- the picture ----------------------------------------------------------------------------------

    @property
    def output_latent(self) -> Tensor:
        """The latent of a frame: the average; in the first frame, which shows the start, the latent itself."""
        return self.ema_latent if self.step > 1 else self.latent.detach()

    @torch.no_grad()
    def render_frame(self) -> Tensor:
        """Return the picture (1, 3, H, W) of ``output_latent``."""
        return self.apply_mask(self.spec.generator.image(self.output_latent))

    @torch.no_grad()
    def packed_latent(self) -> Tensor:
        """Return ``output_latent`` as the journal stores it."""
        return self.spec.generator.pack(self.output_latent)

    def apply_mask(self, image: Tensor) -> Tensor:
        """Return the image with the background outside the mask."""
        return image if self.spec.mask is None else masks.blend(image, self.background, self.spec.mask)

    # --- saving and restoring -------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return everything that the next step depends on, as tensors and as values for JSON."""
        state = self.optimizer.state_dict()["state"].get(0, {})
        # The names are those of the file format, older than the attributes'.
        tensors = {
            "latent": self.latent,
            "shown": self.ema_latent,
            "base": self.background,
            "rng": self.rng.get_state(),
        }
        tensors |= {f"optimizer.{key}": value for key, value in state.items() if isinstance(value, Tensor)}
        values = {
            "passes": self.memory.passes,
            "slower": self.lr_scale,
            "trouble": self.nonfinite_steps,
            "scaling": self.loss_scaler.state,
            "drafted": self.draft_key,
            "optimizer": {key: value for key, value in state.items() if isinstance(value, (int, float))},
        }
        return tensors, values

    def _empty_moments(self) -> dict[str, Tensor]:
        """Return the tensors that the optimiser keeps, as they are after a step with a gradient of zero."""
        latent = torch.zeros_like(self.latent)
        latent.requires_grad_().grad = torch.zeros_like(latent)
        optimizer = self.spec.optimizer.create(latent)
        optimizer.step()
        state = optimizer.state_dict()["state"].get(0, {})
        return {key: value for key, value in state.items() if isinstance(value, Tensor)}

    def restore(self, step: int, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Continue from what ``state`` returned after ``step``. May raise any exception for another run's state."""
        shapes = {"latent": self.latent.shape, "shown": self.latent.shape, "base": self.background.shape}
        moments = {key: tensor for key, tensor in tensors.items() if key.startswith("optimizer.")}
        if moments:  # there are none before the first gradient
            shapes |= {f"optimizer.{key}": tensor.shape for key, tensor in self._empty_moments().items()}
        for key, shape in shapes.items():
            if tensors[key].shape != shape:
                raise ValueError(f"{key} is {tuple(tensors[key].shape)} instead of {tuple(shape)}")
        self.step, self.draft_key = step, values.get("drafted", self.draft_key)
        self.rng.set_state(tensors["rng"])
        self.latent.data.copy_(tensors["latent"])
        self.ema_latent, self.background = tensors["shown"].to(self.ema_latent), tensors["base"].to(self.background)
        self.memory.passes, self.lr_scale = int(values["passes"]), float(values["slower"])
        self.nonfinite_steps = int(values["trouble"])
        if self.memory.passes < 1 or not 0 < self.lr_scale <= 1:
            raise ValueError(f"passes={self.memory.passes}, slower={self.lr_scale}")
        self.loss_scaler.restore(values.get("scaling", ()))
        state = {key.partition(".")[2]: tensor for key, tensor in moments.items()} | values["optimizer"]
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": {0: state} if state else {}, "param_groups": groups})


def backward(losses: Sequence[Loss], context: StepContext, scale: float) -> Tensor:
    """Add the gradients of all losses, times ``scale``, to the image and the latent; return the sum of the losses."""
    values = []
    for loss in losses:
        for term in loss.terms(context):
            if term.requires_grad:  # else it is a constant
                (term * scale).backward()
            values.append(term.detach().reshape(()))
    return sum(values[1:], values[0]) if values else torch.zeros((), device=context.image.device)


class LossScaler:
    """Loss scaling for fp16, whose range small gradients would fall below (Micikevicius et al. 2018).

    The scale is quartered where a gradient overflows, and doubled after ``GROWTH_INTERVAL`` good steps in a row.
    torch.amp.GradScaler has no upper bound, no lower bound of 1, and needs a torch optimiser. Published architectures
    with random weights overflow at 2^16 and not at 2^10, which is one quartering of the initial scale.
    """

    INIT_SCALE, MAX_SCALE, GROWTH_INTERVAL = 2.0**12, 2.0**24, 200

    def __init__(self, precision: str):
        self.enabled = precision == "fp16"
        self.scale, self.good_steps = (self.INIT_SCALE if self.enabled else 1.0), 0

    def unscale_(self, gradient: Tensor) -> None:
        """Divide a gradient by the scale, in place."""
        if self.enabled:
            gradient.div_(self.scale)

    def update(self, finite: bool) -> bool:
        """Update the scale after a gradient; return whether the scale made it overflow, so that the step is skipped."""
        if not self.enabled:
            return False
        if finite:
            self.good_steps += 1
            if self.good_steps == self.GROWTH_INTERVAL:
                self.scale, self.good_steps = min(self.MAX_SCALE, 2 * self.scale), 0
            return False
        scale = self.scale
        self.scale, self.good_steps = max(1.0, scale / 4), 0
        return scale > 1

    @property
    def state(self) -> list[float]:
        return [self.scale, self.good_steps]

    def restore(self, state: Sequence[float]) -> None:
        if self.enabled and state:
            self.scale, self.good_steps = float(state[0]), int(state[1])
            if self.scale < 1:
                raise ValueError(f"the scale of the loss is {self.scale}")
