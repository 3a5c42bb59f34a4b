"""Random cutouts of a picture for CLIP, so that it scores the picture and not its pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor
from torch.nn import functional as F

from clipgen.cutouts import warps
from clipgen.cutouts.augmentations import AUGMENTATIONS, Augmentation, parse_augmentations
from clipgen.errors import ClipgenError
from clipgen.setting import setting as declare

setting = partial(declare, section="cutouts")
PADDINGS = {"border": "border", "reflection": "reflection", "black": "zeros", "grey": "zeros", "wrap": "wrap"}

Rand = Callable[..., Tensor]  # (low, high, *more) to uniform numbers (n, *more)
Having = Callable[[str], tuple[float, Tensor]]  # name to the strength of an augmentation, and its mask (n,)


@dataclass(frozen=True)
class Cutouts:
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

    def sample(self, shape: Sequence[int], size: int, rng: torch.Generator, patches: int = 0) -> Views:
        """Sample the cutouts of a step.

        Args:
            shape: (B, 3, H, W) of the pictures.
            size: Pixels of a cutout's side.
            rng: On the CPU, so that a seed gives the same cutouts on every device.
            patches: How many a CLIP cuts a cutout into, if some can be left out.
        """
        b, _, height, width = shape
        n = b * self.cutouts

        def rand(low: float, high: float, *more: int) -> Tensor:
            return low + (high - low) * torch.rand(n, *more, generator=rng)

        groups: dict[str, Tensor] = {}

        def having(name: str) -> tuple[float, Tensor]:
            """Return the strength of an augmentation, and a mask (n,) of the cutouts that it is applied to, 0 or 1."""
            strength, share, group = self.augmentations.get(name, (0.0, 0.0, ""))
            if group in groups:
                return strength, groups[group]
            chosen = torch.full((n,), float(share == 1))
            if 0 < share < 1:
                chosen = (rand(0, 1) < share).float()
            if group:
                groups[group] = chosen
            return strength, chosen

        warp = self._warp(shape, size, rng, rand, having)
        # Cutouts of one reduction become adjacent. Masks of groups follow the new order; later draws need not.
        reductions = warps.reductions(warp, size, (height, width))
        order = (reductions + len(reductions) * torch.arange(b).repeat_interleave(self.cutouts)).argsort(stable=True)
        groups = {name: chosen[order] for name, chosen in groups.items()}
        return Views(
            self.cutouts,
            size,
            warp[order],
            reductions[order],
            PADDINGS[self.padding],
            self.lift,
            float(torch.rand((), generator=rng)) if self.padding == "grey" else 0.0,
            self._tint(rand, having),
            self._noise(n, size, having, rng),
            self._holes(rand, having),
            having("blur")[1] if "blur" in self.augmentations else None,
            self._patch_indices(n, patches, rng),
            "levels" in self.augmentations and bool(having("levels")[1][0]),
        )

    def _warp(self, shape: Sequence[int], size: int, rng: torch.Generator, rand: Rand, having: Having) -> Tensor:
        """Sample matrices (n, 3, 3) from coordinates in cutouts to those in the picture."""
        b, _, height, width = shape
        short = min(height, width)

        def signed(name: str) -> Tensor:
            """Return (n,) numbers between minus and plus a strength; 0 for cutouts without the augmentation."""
            strength, chosen = having(name)
            return chosen * rand(-strength, strength) if name in self.augmentations else chosen

        scale = self._sizes(b * self.cutouts, size / short, rng)
        if overviews := round(self.overview * self.cutouts):
            scale.view(-1, self.cutouts)[:, -overviews:] = self.overview_size * max(height, width) / short
        angle, mirror = signed("affine"), 1 - 2 * having("flip")[1]
        stretch = self.augmentations["stretch"].strength if "stretch" in self.augmentations else 1.0
        ratio = torch.exp(0.5 * math.log(stretch) * rand(-1, 1) * having("stretch")[1]) if stretch != 1 else 1.0
        across, down = scale * ratio * short / width, scale / ratio * short / height
        room = 1 + 2 * self.cut_pad
        offset = torch.stack([rand(-1, 1) * (room - across).abs(), rand(-1, 1) * (room - down).abs()], 1)
        if self.padding == "wrap":  # there is no edge to stay away from
            offset = rand(-1, 1, 2)
        if "shift" in self.augmentations:
            strength, chosen = having("shift")
            offset = offset + chosen[:, None] * rand(-2 * strength, 2 * strength, 2)
        offset[:, 1] += 2 * signed("shift_y")
        warp = warps.affine(across, down, mirror, angle, signed("shear"), offset)
        if "perspective" in self.augmentations:
            strength, chosen = having("perspective")
            warp = warp @ warps.perspective(chosen[:, None, None] * rand(0, strength, 4, 2))
        return warp

    def _sizes(self, n: int, own: float, rng: torch.Generator) -> Tensor:
        """Sample sides (n,) as shares of the shorter side; ``own``: CLIP's."""
        low, high = self.cut_min or min(own, self.cut_max), self.cut_max
        if self.cut_sizes == "normal":
            middle, deviation = (low + high) / 2, (high - low) / 5
            return (middle + deviation * torch.randn(n, generator=rng)).clamp(low, high)
        if self.cut_sizes == "area":
            return (low**2 + (high**2 - low**2) * torch.rand(n, generator=rng)).sqrt()
        return low + (high - low) * torch.rand(n, generator=rng)

    def _tint(self, rand: Rand, having: Having) -> Tensor | None:
        """Sample colour matrices (n, 3, 4)."""
        if not self.augmentations.keys() & {"colour", "grey"}:
            return None
        strength, coloured = having("colour")
        light, contrast, colour, hue = (coloured * rand(-strength, strength) for _ in range(4))
        lost, chosen = having("grey")
        return warps.tint(light, 1 + contrast, (1 + colour) * (1 - lost * chosen), hue)

    def _noise(self, n: int, size: int, having: Having, rng: torch.Generator) -> Tensor | None:
        """Sample noise (n, 3, size, size)."""
        deviations = torch.zeros(n)
        for name in ("noise", "grain"):
            strength, chosen = having(name)
            if strength:
                own = torch.rand(n, generator=rng) if name == "grain" else 1.0
                deviations = (deviations.square() + (strength * chosen * own) ** 2).sqrt()
        if not deviations.any():
            return None
        return deviations[:, None, None, None] * torch.randn(n, 3, size, size, generator=rng)

    def _holes(self, rand: Rand, having: Having) -> Tensor | None:
        """Sample boxes (n, 4): left, top, width and height as shares."""
        name = next((name for name in ("erase", "erase_all") if name in self.augmentations), None)
        if name is None:
            return None
        strength, chosen = having(name)
        area, aspect = chosen * rand(min(0.1, strength), strength), rand(-1.2, 1.2).exp()  # from 0.3 to 3.3
        sides = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], 1).clamp(max=1)
        holes = torch.cat([rand(0, 1, 2) * (1 - sides), sides], 1)
        if name == "erase_all":  # that of a picture's first cutout
            holes = holes[:: self.cutouts].repeat_interleave(self.cutouts, 0)
        return holes

    def _patch_indices(self, n: int, patches: int, rng: torch.Generator) -> Tensor | None:
        """Sample the indices (n, k) of the patches that are encoded."""
        if not (self.patch_dropout and patches):
            return None
        return torch.rand(n, patches, generator=rng).argsort(1)[:, : max(1, round((1 - self.patch_dropout) * patches))]


@dataclass(frozen=True)
class Views:
    """The random numbers of ``count`` cutouts of each picture.

    They are sampled before the rendering, so that cutouts rendered in several passes are the same.
    """

    count: int
    size: int
    warp: Tensor  # (B·count, 3, 3) from coordinates in the cutout to those in the picture
    reductions: Tensor  # (B·count,) how the picture is reduced for each, as of ``warps.reductions``
    padding: str = "border"  # of grid_sample, or wrap
    lift: float = 0.0  # black becomes this grey, and white stays; the padding is not lifted
    level: float = 0.0  # of grey, where ``padding`` is zeros
    tint: Tensor | None = None  # (B·count, 3, 4) from colour to colour
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

        def some(tensor: Tensor) -> Tensor:
            return self._select(tensor, part, images.device)

        views = self._sampled(images, part)
        if self.tint is not None:
            tint = some(self.tint)
            views = torch.einsum("nij,njhw->nihw", tint[:, :, :3], views) + tint[:, :, 3, None, None]
        if self.blur is not None:
            soft = F.avg_pool2d(views, 3, 1, 1, count_include_pad=False)
            views = views.lerp(soft, some(self.blur)[:, None, None, None])
        if self.hole is not None:
            axis = torch.linspace(0, 1, self.size, device=images.device)
            x, y, w, h = (some(self.hole)[:, i, None] for i in range(4))
            inside = ((axis >= y) & (axis < y + h))[:, :, None] & ((axis >= x) & (axis < x + w))[:, None]
            views = views.masked_fill(inside[:, None], 0.0)
        if self.noise is not None:
            views = views + some(self.noise)
        if self.levels:  # of the cutouts that are rendered together: each pass has its own range
            batch = views.unflatten(0, (len(images), -1))
            least, most = batch.amin((1, 2, 3, 4), keepdim=True), batch.amax((1, 2, 3, 4), keepdim=True)
            views = ((batch - least) / (most - least).clamp(min=1e-6)).flatten(0, 1)
        return views

    def _sampled(self, images: Tensor, part: slice) -> Tensor:
        """Sample cutouts ``part`` of images (B, 3, H, W) as (B·n, 3, size, size), without other augmentations."""
        views = []
        for image, warp, reductions in zip(
            images.split(1), self.warp.split(self.count), self.reductions.split(self.count)
        ):
            warp, reductions = warp[part], reductions[part]
            for reduction in reductions.unique_consecutive().tolist():
                views.append(self._sampled_from(image, warp[reductions == reduction], reduction))
        return views[0] if len(views) == 1 else torch.cat(views)

    def _sampled_from(self, image: Tensor, warp: Tensor, reduction: int) -> Tensor:
        """Sample the cutouts of ``warp`` (n, 3, 3) from an image (1, 3, H, W) after its ``reduction``.

        Bilinear sampling aliases where a cutout shrinks the picture, so the picture is average-pooled first, as in a
        mipmap.
        """
        halvings, averaged = divmod(reduction, 2)
        for _ in range(halvings):
            image = F.avg_pool2d(image, 2)
        grid = warps.grid(_to(warp, image.device), self.size)
        if self.padding == "wrap":
            image, grid = warps.wrap(image, grid)
        if averaged:  # the mean of four pixels lies between them
            height, width = image.shape[-2:]
            grid = grid * torch.tensor([width / (width - 1), height / (height - 1)]).to(grid.device)
            image = F.avg_pool2d(image, 2, 1)
        padding = "border" if self.padding == "wrap" else self.padding
        return warps.sample_grid(image - self.level, grid, padding) + self.level

    def patches(self, part: slice, device: torch.device) -> Tensor | None:
        """Return the patch indices of cutouts ``part``, as ``Perceptor.encode_image`` takes them."""
        return None if self.patch_indices is None else self._select(self.patch_indices, part, device)

    def _select(self, tensor: Tensor, part: slice, device: torch.device) -> Tensor:
        return _to(tensor.unflatten(0, (-1, self.count))[:, part].flatten(0, 1), device)


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # copied without waiting for the device
    return tensor.to(device, non_blocking=True)


def cutouts(images: Tensor, count: int, size: int, rng: torch.Generator, **settings) -> Tensor:
    """Return ``count`` cutouts of each image (B, 3, H, W) in [0, 1] as (B·count, 3, size, size)."""
    return Cutouts(cutouts=count, **settings).sample(images.shape, size, rng).render(images)
