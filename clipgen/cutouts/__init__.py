"""Random cutouts of a picture for CLIP, so that single pixels cannot fool it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import torch
from torch import Tensor

from clipgen import device as devices
from clipgen.cutouts import rendering
from clipgen.cutouts.rendering import CutoutParams
from clipgen.device import copy_to
from clipgen.errors import ClipgenError
from clipgen.setting import UNSIGNED
from clipgen.setting import setting as declare

setting = partial(declare, section="cutouts")
PADDINGS = {"border": "border", "reflection": "reflection", "black": "zeros", "grey": "zeros", "wrap": "wrap"}


class Augmentation(NamedTuple):
    """The strength of an augmentation, and the probability that a cutout has it."""

    strength: float
    probability: float
    group: str = ""  # augmentations of one group are on the same cutouts


# Defaults. Sizes are shares of the cutout's side, areas of its area.
AUGMENTATIONS = {
    "flip": Augmentation(1, 0.5),  # mirrored horizontally
    "affine": Augmentation(6.8755, 1),  # rotation, at most this many degrees
    "shear": Augmentation(5, 1),  # at most this many degrees
    "stretch": Augmentation(1.2, 1),  # wider or taller, at most by this factor
    "shift": Augmentation(0.17, 1),  # translation, at most
    "perspective": Augmentation(0.5, 1),  # corners moved inwards, at most this share of half the side
    "colour": Augmentation(0.1, 1),  # jitter of brightness, contrast, saturation; hue as a share of a turn
    "grey": Augmentation(1, 0.2),  # share of the colour that is removed
    "noise": Augmentation(0.03, 1),  # Gaussian, standard deviation
    "grain": Augmentation(0.1, 1),  # noise with a deviation drawn for each cutout, at most this
    "shift_y": Augmentation(0.1, 1),  # vertical translation, at most
    "erase": Augmentation(0.4, 1),  # a black box, from a tenth to this share of the area
    "erase_all": Augmentation(0.4, 1),  # the same box in all cutouts of a step, in this share of the steps
    "blur": Augmentation(1, 0.5),  # by a mean of 3 x 3 pixels
    "levels": Augmentation(1, 1),  # all cutouts of a step are stretched together, from black to white
}
_ITEM = re.compile(rf"([a-z_]+)\s*(?:=\s*({UNSIGNED})\s*)?(?::\s*({UNSIGNED}))?")


def parse_augmentations(text: str) -> dict[str, Augmentation]:
    """Parse ``flip, affine=15 + shear=5:0.7``: names with ``=strength`` (0: none) and ``:share of cutouts``.

    Those joined by ``+`` are on the same cutouts; the last of them has the share. ``erase_all`` and ``levels`` are on
    all cutouts of a step or on none, also after a ``+``. Raises ClipgenError for an unknown name, and for a share
    above 1.
    """
    result: dict[str, Augmentation] = {}
    for item in filter(None, map(str.strip, text.split(","))):
        matches = [_ITEM.fullmatch(part.strip()) for part in item.split("+")]
        names = [match[1] for match in matches if match and match[1] in AUGMENTATIONS]
        if len(names) < len(matches) or any(match and match[3] for match in matches[:-1]):
            raise ClipgenError(
                f"augment={item!r}: choose among {', '.join(AUGMENTATIONS)}, as affine=15:0.7, or as affine=15 + "
                "shear=5:0.7 for both on the same cutouts"
            )
        group = names[0] if len(names) > 1 else ""
        strengths = [float(match[2]) if match and match[2] else None for match in matches]
        last = matches[-1]
        default = max(AUGMENTATIONS[name].probability for name in names)
        probability = float(last[3]) if last and last[3] else default
        if probability > 1:
            raise ClipgenError(f"augment={item!r}: what follows the colon is a share of the cutouts, at most 1")
        for name, strength in zip(names, strengths, strict=True):
            usual = AUGMENTATIONS[name].strength
            result[name] = Augmentation(usual if strength is None else strength, probability, group)
    if {"erase", "erase_all"} <= result.keys():
        raise ClipgenError(f"augment={text!r}: erase and erase_all cut out the same box; choose one of them")
    return result


@dataclass(frozen=True)
class CutoutConfig:
    """How cutouts are sampled. Raises ClipgenError for an unknown augmentation."""

    cutouts: int = setting(16, "cutouts shown to CLIP per step", 1, 10**4)
    cut_min: float = setting(
        0.65, "smallest side of a cutout, as a share of the picture's shorter side; 0: CLIP's input size", 0, 4
    )
    cut_max: float = setting(1.05, "largest side of a cutout", 0.05, 4)
    cut_sizes: str = setting(
        "uniform",
        "distribution of sizes: uniform; area (uniform in area); normal (deviation a fifth of the range)",
        choices=("uniform", "area", "normal"),
    )
    cut_pad: float = setting(0.0, "how far cutouts may reach beyond the picture, as a share of its side", 0, 2)
    padding: str = setting(
        "border",
        "what fills cutouts beyond the edge (grey: random per step; wrap: the opposite side)",
        choices=tuple(PADDINGS),
    )
    lift: float = setting(0.0, "level that black is raised to for CLIP; 0.5 uses the upper half of the range", 0, 0.95)
    overview: float = setting(0.0, "share of cutouts that show the whole picture", 0, 1)
    overview_size: float = setting(1.05, "side of those cutouts, as a share of the picture's longer side", 0.05, 4)
    augment: str = setting(
        "flip, affine, noise",
        f"augmentations, as 'affine=15:0.7' (name=strength:share of cutouts): {', '.join(AUGMENTATIONS)}",
    )
    patch_dropout: float = setting(0.0, "share of each cutout's patches that a ViT skips; faster", 0, 0.9)

    def __post_init__(self) -> None:
        if self.cut_min > self.cut_max:
            raise ClipgenError(f"cut_min={self.cut_min}: is above cut_max={self.cut_max}; swap them")
        _ = self.augmentations  # raises for an unknown one

    @cached_property
    def augmentations(self) -> dict[str, Augmentation]:
        """The augmentations by name."""
        return parse_augmentations(self.augment)

    def sample(
        self,
        shape: Sequence[int],
        size: int,
        rng: torch.Generator,
        patch_count: int = 0,
        device: torch.device | None = None,
    ) -> CutoutParams:
        """Sample the cutouts of a step.

        Args:
            shape: (B, 3, H, W) of the pictures.
            size: Pixels of a cutout's side.
            rng: A CPU generator, so that a seed gives the same cutouts on every device, but for their noise.
            patch_count: Patches per cutout of a CLIP that can leave some out, otherwise 0.
            device: Where noise is drawn, by default the CPU: see ``clipgen.device.fork_rng``.
        """
        b, _, height, width = shape
        draws = _Draws(self.augmentations, b * self.cutouts, rng)
        warp = self._draw_warps(draws, shape, size)
        # Cutouts of one pooling level become adjacent. Only masks already drawn need the new order.
        pooling_levels = rendering.pooling_levels(warp, size, (height, width))
        batch_indices = torch.arange(b).repeat_interleave(self.cutouts)
        order = (pooling_levels + (pooling_levels.max() + 1) * batch_indices).argsort(stable=True)
        draws.reorder(order)
        return CutoutParams(
            self.cutouts,
            size,
            warp[order],
            pooling_levels[order],
            PADDINGS[self.padding],
            self.lift,
            float(torch.rand((), generator=rng)) if self.padding == "grey" else 0.0,
            self._draw_colour_matrices(draws),
            self._draw_noise(draws, size, device or rng.device),
            self._draw_holes(draws),
            draws.mask("blur") if "blur" in self.augmentations else None,
            self._draw_patch_indices(draws, patch_count),
            "levels" in self.augmentations and bool(draws.mask("levels")[0]),
        )

    def _draw_warps(self, draws: _Draws, shape: Sequence[int], size: int) -> Tensor:
        """Draw matrices (n, 3, 3) from coordinates in cutouts to those in the picture."""
        _, _, height, width = shape
        short = min(height, width)
        scale = self._draw_sides(draws, size / short)
        if overviews := round(self.overview * self.cutouts):
            scale.view(-1, self.cutouts)[:, -overviews:] = self.overview_size * max(height, width) / short
        angle, mirror = draws.signed("affine"), 1 - 2 * draws.mask("flip")
        stretch = draws.strength("stretch") or 1.0
        ratio: Tensor | float = 1.0
        if stretch != 1:
            ratio = torch.exp(0.5 * math.log(stretch) * draws.uniform(-1, 1) * draws.mask("stretch"))
        # Sides of the cutouts, and of the picture with what lies around it, as shares of the picture's.
        x_side, y_side, extent = scale * ratio * short / width, scale / ratio * short / height, 1 + 2 * self.cut_pad
        x_offset = draws.uniform(-1, 1) * (extent - x_side).abs()
        offset = torch.stack([x_offset, draws.uniform(-1, 1) * (extent - y_side).abs()], 1)
        if self.padding == "wrap":  # there is no edge to stay away from
            offset = draws.uniform(-1, 1, 2)
        if "shift" in self.augmentations:
            strength, mask = self.augmentations["shift"].strength, draws.mask("shift")
            offset = offset + mask[:, None] * draws.uniform(-2 * strength, 2 * strength, 2)
        offset[:, 1] += 2 * draws.signed("shift_y")
        warp = rendering.affine(x_side, y_side, mirror, angle, draws.signed("shear"), offset)
        if "perspective" in self.augmentations:
            strength, mask = self.augmentations["perspective"].strength, draws.mask("perspective")
            warp = warp @ rendering.perspective(mask[:, None, None] * draws.uniform(0, strength, 4, 2))
        return warp

    def _draw_sides(self, draws: _Draws, clip_side: float) -> Tensor:
        """Draw sides (n,) as shares of the shorter side; ``clip_side``: that of CLIP's input."""
        low, high = self.cut_min or min(clip_side, self.cut_max), self.cut_max
        if self.cut_sizes == "normal":
            middle, deviation = (low + high) / 2, (high - low) / 5
            return (middle + deviation * torch.randn(draws.n, generator=draws.rng)).clamp(low, high)
        if self.cut_sizes == "area":
            return (low**2 + (high**2 - low**2) * torch.rand(draws.n, generator=draws.rng)).sqrt()
        return draws.uniform(low, high)

    def _draw_colour_matrices(self, draws: _Draws) -> Tensor | None:
        """Draw colour matrices (n, 3, 4)."""
        if not self.augmentations.keys() & {"colour", "grey"}:
            return None
        strength, mask = draws.strength("colour"), draws.mask("colour")
        brightness, contrast, saturation, hue = (mask * draws.uniform(-strength, strength) for _ in range(4))
        saturation = (1 + saturation) * (1 - draws.strength("grey") * draws.mask("grey"))
        return rendering.colour_matrix(brightness, 1 + contrast, saturation, hue)

    def _draw_noise(self, draws: _Draws, size: int, device: torch.device) -> Tensor | None:
        """Draw noise (n, 3, size, size) on a device."""
        deviations = torch.zeros(draws.n)
        for name in ("noise", "grain"):
            strength, mask = draws.strength(name), draws.mask(name)
            if strength:
                factor = torch.rand(draws.n, generator=draws.rng) if name == "grain" else 1.0
                deviations = (deviations.square() + (strength * mask * factor) ** 2).sqrt()
        if not deviations.any():
            return None
        rng = devices.fork_rng(draws.rng, device)
        noise = torch.randn(draws.n, 3, size, size, generator=rng, device=device)
        return copy_to(deviations, device)[:, None, None, None] * noise

    def _draw_holes(self, draws: _Draws) -> Tensor | None:
        """Draw boxes (n, 4): left, top, width and height as shares."""
        name = next((name for name in ("erase", "erase_all") if name in self.augmentations), None)
        if name is None:
            return None
        strength, mask = draws.strength(name), draws.mask(name)
        area = mask * draws.uniform(min(0.1, strength), strength)
        aspect = draws.uniform(-1.2, 1.2).exp()  # from 0.3 to 3.3
        sides = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], 1).clamp(max=1)
        holes = torch.cat([draws.uniform(0, 1, 2) * (1 - sides), sides], 1)
        if name == "erase_all":  # that of a picture's first cutout
            holes = holes[:: self.cutouts].repeat_interleave(self.cutouts, 0)
        return holes

    def _draw_patch_indices(self, draws: _Draws, patch_count: int) -> Tensor | None:
        """Draw the indices (n, k) of the patches that are encoded."""
        if not (self.patch_dropout and patch_count):
            return None
        count = max(1, round((1 - self.patch_dropout) * patch_count))
        return torch.rand(draws.n, patch_count, generator=draws.rng).argsort(1)[:, :count]


class _Draws:
    """The random numbers of ``n`` cutouts, and which of them have an augmentation."""

    def __init__(self, augmentations: Mapping[str, Augmentation], n: int, rng: torch.Generator):
        self.augmentations, self.n, self.rng = augmentations, n, rng
        self._group_masks: dict[str, Tensor] = {}

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Draw uniform numbers (n, *shape)."""
        return low + (high - low) * torch.rand(self.n, *shape, generator=self.rng)

    def strength(self, name: str) -> float:
        """Return the strength of an augmentation, 0 without it."""
        return self.augmentations[name].strength if name in self.augmentations else 0.0

    def mask(self, name: str) -> Tensor:
        """Draw the mask (n,) of the cutouts that an augmentation is applied to, 0 or 1; one for all of a group."""
        if name not in self.augmentations:
            return torch.zeros(self.n)
        strength, probability, group = self.augmentations[name]
        mask = self._group_masks.get(group)
        if mask is None:
            mask = torch.full((self.n,), float(probability == 1))
            if 0 < probability < 1:
                mask = (self.uniform(0, 1) < probability).float()
            if group:
                self._group_masks[group] = mask
        return mask if strength else torch.zeros(self.n)

    def signed(self, name: str) -> Tensor:
        """Draw numbers (n,) between minus and plus a strength; 0 for cutouts without the augmentation."""
        mask = self.mask(name)
        return mask * self.uniform(-self.strength(name), self.strength(name)) if name in self.augmentations else mask

    def reorder(self, order: Tensor) -> None:
        """Apply a new order of the cutouts to the masks of groups."""
        self._group_masks = {name: mask[order] for name, mask in self._group_masks.items()}


def cutouts(images: Tensor, count: int, size: int, rng: torch.Generator, **settings) -> Tensor:
    """Return ``count`` cutouts of each image (B, 3, H, W) in [0, 1] as (B·count, 3, size, size)."""
    return CutoutConfig(cutouts=count, **settings).sample(images.shape, size, rng, device=images.device).render(images)
