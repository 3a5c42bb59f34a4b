"""Random cutouts of a picture for CLIP, so that it scores the picture and not its pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor
from torch.nn import functional as F

from clipgen import device as devices
from clipgen.cutouts import warps
from clipgen.cutouts.augmentations import AUGMENTATIONS, Augmentation, parse_augmentations
from clipgen.device import constant, copy_to
from clipgen.errors import ClipgenError
from clipgen.setting import setting as declare

setting = partial(declare, section="cutouts")
PADDINGS = {"border": "border", "reflection": "reflection", "black": "zeros", "grey": "zeros", "wrap": "wrap"}


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
        _ = self.augmentations

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
        # Cutouts of one pooling level become adjacent. Masks of groups follow the new order; later draws need not.
        pooling_levels = warps.pooling_levels(warp, size, (height, width))
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
        stretch = self.augmentations["stretch"].strength if "stretch" in self.augmentations else 1.0
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
        warp = warps.affine(x_side, y_side, mirror, angle, draws.signed("shear"), offset)
        if "perspective" in self.augmentations:
            strength, mask = self.augmentations["perspective"].strength, draws.mask("perspective")
            warp = warp @ warps.perspective(mask[:, None, None] * draws.uniform(0, strength, 4, 2))
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
        return warps.colour_matrix(brightness, 1 + contrast, saturation, hue)

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
        _, probability, group = self.augmentations[name]
        if group in self._group_masks:
            return self._group_masks[group]
        mask = torch.full((self.n,), float(probability == 1))
        if 0 < probability < 1:
            mask = (self.uniform(0, 1) < probability).float()
        if group:
            self._group_masks[group] = mask
        return mask

    def signed(self, name: str) -> Tensor:
        """Draw numbers (n,) between minus and plus a strength; 0 for cutouts without the augmentation."""
        mask = self.mask(name)
        return mask * self.uniform(-self.strength(name), self.strength(name)) if name in self.augmentations else mask

    def reorder(self, order: Tensor) -> None:
        """Apply a new order of the cutouts to the masks of groups."""
        self._group_masks = {name: mask[order] for name, mask in self._group_masks.items()}


@dataclass(frozen=True)
class CutoutParams:
    """The random numbers of ``count`` cutouts of each picture.

    They are sampled before the rendering, so that cutouts rendered in several passes are the same.
    """

    count: int
    size: int
    warp: Tensor  # (B·count, 3, 3) from coordinates in the cutout to those in the picture
    pooling_levels: Tensor  # (B·count,) how the picture is pooled for each, see ``warps.pooling_levels``
    padding: str = "border"  # of grid_sample, or wrap
    lift: float = 0.0  # black becomes this grey, and white stays; the padding is not lifted
    padding_grey: float = 0.0  # where ``padding`` is zeros
    colour_matrix: Tensor | None = None  # (B·count, 3, 4) from colour to colour
    noise: Tensor | None = None  # (B·count, 3, size, size)
    hole: Tensor | None = None  # (B·count, 4) x, y, width, height as shares
    blur: Tensor | None = None  # (B·count,) 0 or 1
    patch_indices: Tensor | None = None  # (B·count, k) of the patches that a ViT encodes; None: all
    levels: bool = False  # whether a picture's cutouts are stretched together to the whole range

    def render(self, images: Tensor, part: slice = slice(None)) -> Tensor:
        """Render cutouts ``part`` of images (B, 3, H, W) in [0, 1], in one differentiable resampling.

        Returns (B·n, 3, size, size), the cutouts of an image adjacent.
        """
        if self.lift:
            images = self.lift + (1 - self.lift) * images

        def select(tensor: Tensor) -> Tensor:
            return self._select(tensor, part, images.device)

        cutouts = self._sample(images, part)
        if self.colour_matrix is not None:
            matrix = select(self.colour_matrix)
            cutouts = torch.einsum("nij,njhw->nihw", matrix[:, :, :3], cutouts) + matrix[:, :, 3, None, None]
        if self.blur is not None:
            soft = F.avg_pool2d(cutouts, 3, 1, 1, count_include_pad=False)
            cutouts = cutouts.lerp(soft, select(self.blur)[:, None, None, None])
        if self.hole is not None:
            axis = torch.linspace(0, 1, self.size, device=images.device)
            x, y, w, h = (select(self.hole)[:, i, None] for i in range(4))
            inside = ((axis >= y) & (axis < y + h))[:, :, None] & ((axis >= x) & (axis < x + w))[:, None]
            cutouts = cutouts.masked_fill(inside[:, None], 0.0)
        if self.noise is not None:
            cutouts = cutouts + select(self.noise)
        if self.levels:  # the range is that of the cutouts rendered together: each pass has its own
            batch = cutouts.unflatten(0, (len(images), -1))
            least, most = batch.amin((1, 2, 3, 4), keepdim=True), batch.amax((1, 2, 3, 4), keepdim=True)
            cutouts = ((batch - least) / (most - least).clamp(min=1e-6)).flatten(0, 1)
        return cutouts

    def _sample(self, images: Tensor, part: slice) -> Tensor:
        """Sample cutouts ``part`` of images (B, 3, H, W) as (B·n, 3, size, size), without other augmentations."""
        cutouts = []
        for image, warp, levels in zip(
            images.split(1), self.warp.split(self.count), self.pooling_levels.split(self.count)
        ):
            warp, levels = warp[part], levels[part]
            for level in levels.unique_consecutive().tolist():
                cutouts.append(self._sample_pooled(image, warp[levels == level], level))
        return cutouts[0] if len(cutouts) == 1 else torch.cat(cutouts)

    def _sample_pooled(self, image: Tensor, warp: Tensor, pooling_level: int) -> Tensor:
        """Sample the cutouts of ``warp`` (n, 3, 3) from an image (1, 3, H, W) after pooling.

        Bilinear sampling aliases where a cutout shrinks the picture, so the picture is average-pooled first, as in a
        mipmap.
        """
        halvings, averaged = divmod(pooling_level, 2)
        for _ in range(halvings):
            image = F.avg_pool2d(image, 2)
        grid = warps.grid(copy_to(warp, image.device), self.size)
        if self.padding == "wrap":
            image, grid = warps.wrap(image, grid)
        if averaged:  # the mean of four pixels lies between them
            height, width = image.shape[-2:]
            grid = grid * constant((width / (width - 1), height / (height - 1)), grid.device)
            image = F.avg_pool2d(image, 2, 1)
        padding = "border" if self.padding == "wrap" else self.padding
        if not self.padding_grey:
            return warps.sample_grid(image, grid, padding)
        return warps.sample_grid(image - self.padding_grey, grid, padding) + self.padding_grey

    def select_patches(self, part: slice, device: torch.device) -> Tensor | None:
        """Return the patch indices of cutouts ``part``, as ``Perceptor.encode_image`` takes them."""
        return None if self.patch_indices is None else self._select(self.patch_indices, part, device)

    def _select(self, tensor: Tensor, part: slice, device: torch.device) -> Tensor:
        return copy_to(tensor.unflatten(0, (-1, self.count))[:, part].flatten(0, 1), device)


def cutouts(images: Tensor, count: int, size: int, rng: torch.Generator, **settings) -> Tensor:
    """Return ``count`` cutouts of each image (B, 3, H, W) in [0, 1] as (B·count, 3, size, size)."""
    return CutoutConfig(cutouts=count, **settings).sample(images.shape, size, rng, device=images.device).render(images)
