"""Where a text's score comes from: a heat map over a picture, by a perceptor's own gradient or by covering parts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from threading import get_ident
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from clipgen.clip.base import Perceptor
from clipgen.clip.catalogue import embed
from clipgen.errors import ClipgenError
from clipgen.images.heat import heated
from clipgen.images.reading import to_tensor
from clipgen.images.sheets import enlarge, png_bytes
from clipgen.inspect.looking import embedded, looked_at

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HOWS = ("gradient", "occlusion")
# What any picture could be of: only what speaks for a text more than for these is shown.
_ANYTHING = ("a cat", "a car", "a tree", "a house", "food", "a face", "a tool", "the sky", "an animal", "a person")


@dataclass(frozen=True)
class Explanation:
    """Which regions of a picture speak for a text, as a perceptor sees them."""

    picture: Image.Image
    text: str
    map: Tensor  # (H, W) float32 from 0, nothing, to 1, the most; all 0 if nothing speaks for the text
    score: float  # cosine of the picture to the text, as ``clipgen.rank`` has it before its softmax
    how: str  # gradient or occlusion

    @property
    def overlay(self) -> Image.Image:
        """The picture, dark where nothing speaks for the text and glowing where most does."""
        return heated(self.picture, self.map.numpy())

    def figure(self) -> Figure:
        """The picture, the map with its scale, and both together, as a matplotlib figure."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 3.6), layout="constrained")
        before, heat, after = figure.subplots(1, 3)
        before.imshow(enlarge(self.picture))
        before.set_title("picture")
        shown = heat.imshow(self.map.numpy(), cmap="inferno", vmin=0, vmax=1)
        heat.set_title(self.how)
        figure.colorbar(shown, ax=heat, shrink=0.8)
        after.imshow(enlarge(self.overlay))
        after.set_title(f"{self.text}: {self.score:.3f}")
        for axes in (before, heat, after):
            axes.set_axis_off()
        return figure

    def _repr_png_(self) -> bytes:
        return png_bytes(self.overlay)


def explain(
    image: Any,
    text: str,
    perceptor: Perceptor | str | None = None,
    *,
    how: str = "gradient",
    device: str = "auto",
) -> Explanation:
    """A heat map of the regions that make a picture match a text.

    ``image``: a picture in any form, a file, a run (its newest frame, seen by its own perceptor) or a frame.

    ``gradient``: in a convolutional net, the Grad-CAM (Selvaraju et al. 2017) of the last two stages, multiplied: the
    last knows what, the one before where. In a ViT, gradient times token where each block begins, added up: what a
    patch tells the others, and through them the score. ``occlusion``: how much the score falls where a window is
    covered (Zeiler and Fergus 2014); a hundred looks, slow, and true whatever the net is. Both explain how much more
    the picture matches this text than any, and look at squares along the longer side of a picture that is none.

    Raises ClipgenError for a picture that cannot be read, no text, and another ``how``.
    """
    if not text.strip():
        raise ClipgenError(f"text={text!r}: write what is looked for, such as 'a cat'")
    if how not in HOWS:
        raise ClipgenError(f"how={how!r}: choose one of: {', '.join(HOWS)}")
    picture, perceptor = looked_at(image, perceptor, device)
    wanted = embed(perceptor, [text])[0]
    target = F.normalize(wanted - embedded(perceptor, _ANYTHING).mean(0), dim=-1)
    method: Callable[[Perceptor, Tensor, Tensor], Tensor] = _gradient if how == "gradient" else _occlusion
    width, height = picture.size
    heat, side = torch.zeros(height, width), min(width, height)
    seen, fade = torch.zeros(height, width), torch.hann_window(side + 2, periodic=False)[1:-1]
    fade = fade[None] if width >= height else fade[:, None]
    for left, top in _squares(width, height):
        square = picture.crop((left, top, left + side, top + side))
        pixels = to_tensor(square, (perceptor.size, perceptor.size)).to(perceptor.device)
        part = F.interpolate(method(perceptor, pixels, target)[None, None].cpu(), (side, side), mode="bicubic")
        place = slice(top, top + side), slice(left, left + side)
        heat[place] += fade * part[0, 0].clamp(min=0)  # faded to its ends, so that no seam shows between two
        seen[place] += fade
    heat /= seen
    score = float(perceptor.embed_image([picture])[0] @ wanted)
    return Explanation(picture, text, heat / heat.max().clamp(min=1e-12), score, how)


def _squares(width: int, height: int) -> list[tuple[int, int]]:
    """Left and top of squares as large as the shorter side, along the longer one, half over each other."""
    side, longer = min(width, height), max(width, height)
    count = 1 + math.ceil(2 * (longer - side) / side)
    starts = [round(i * (longer - side) / max(1, count - 1)) for i in range(count)]
    return [(start, 0) if width >= height else (0, start) for start in starts]


def _gradient(perceptor: Perceptor, pixels: Tensor, target: Tensor) -> Tensor:
    """(h, w) of a square (1, 3, S, S)."""
    kept: list[Tensor] = []
    asking = get_ident()

    def keep(_: nn.Module, __: Any, made: Tensor) -> None:
        if get_ident() == asking:  # a run may be looking through the same net in another thread
            kept.append(made)

    hooks = [part.register_forward_hook(keep) for part in perceptor.feature_layers]
    try:
        with torch.enable_grad():
            score = perceptor.encode_image(pixels.requires_grad_())[0] @ target
            kept = kept[-len(hooks) :]  # a net that left fp16's range was run twice
            slopes = torch.autograd.grad(score, kept)
    finally:
        for hook in hooks:
            hook.remove()
    shares = [_share(values.detach().float(), slope.float()) for values, slope in zip(kept, slopes, strict=True)]
    if kept[0].ndim == 3:
        return torch.stack(shares).sum(0)
    finest = max(share.shape for share in shares)
    large = [F.interpolate(share[None, None], finest, mode="bicubic").clamp(min=0) for share in shares]
    return torch.stack(large).prod(0)[0, 0] ** (1 / len(large))


def _share(values: Tensor, slope: Tensor) -> Tensor:
    """How much each place of a map (1, C, h, w), or token (1, N, C), adds to the score, (h, w)."""
    if values.ndim == 4:
        return (slope.mean((2, 3), keepdim=True) * values).sum(1)[0]
    side = math.isqrt(values.shape[1])  # behind the class token and other registers
    return (slope * values).sum(-1)[0, -side * side :].view(side, side)


@torch.no_grad()
def _occlusion(perceptor: Perceptor, pixels: Tensor, target: Tensor) -> Tensor:
    """(S, S) of a square (1, 3, S, S): how much its score falls, on average, where a window covers a place."""
    size = pixels.shape[-1]
    window, step = 3 * size // 8, size // 8
    whole = perceptor.encode_image(pixels)[0] @ target
    fall, times = torch.zeros(2, size, size)
    blank = pixels.mean((2, 3), keepdim=True)
    edges = [(max(0, at), min(size, at + window)) for at in range(step - window, size, step)]
    for top, bottom in edges:
        covered = pixels.repeat(len(edges), 1, 1, 1)
        for row, (left, right) in zip(covered, edges, strict=True):
            row[:, top:bottom, left:right] = blank[0]
        for (left, right), score in zip(edges, perceptor.encode_image(covered) @ target, strict=True):
            fall[top:bottom, left:right] += float(whole - score)
            times[top:bottom, left:right] += 1
    return fall / times
