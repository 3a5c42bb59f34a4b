"""Where a text's score comes from: a heat map over a picture, by a perceptor's gradient or by covering parts."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from clipgen.clip import Perceptor, record_outputs
from clipgen.clip.catalogue import embed
from clipgen.errors import ClipgenError
from clipgen.export import check_writable
from clipgen.images.reading import to_tensor
from clipgen.images.sheets import enlarge, overlay_heat, png_bytes
from clipgen.inspect.describe import add_options, embed_words, picture_and_perceptor
from clipgen.storage import atomic_write, expand_home, find_unused, shorten_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = ("gradient", "occlusion")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
# Their mean is subtracted from a text's embedding: what matches any text does not count.
_ANY_TEXTS = ("a cat", "a car", "a tree", "a house", "food", "a face", "a tool", "the sky", "an animal", "a person")


@dataclass(frozen=True)
class Explanation:
    """The regions of a picture that match a text. Displayed as the overlay."""

    picture: Image.Image
    text: str
    map: Tensor  # (H, W) float32 from 0, nothing, to 1, the most; all 0 if nothing matches the text
    score: float  # cosine of the picture to the text, as ``clipgen.rank`` has it before its softmax
    how: str  # gradient or occlusion

    @property
    def overlay(self) -> Image.Image:
        """The picture, dark where nothing matches the text and glowing where most does."""
        return overlay_heat(self.picture, self.map.numpy())

    def figure(self) -> Figure:
        """Return the picture, the map with its scale, and the overlay, side by side."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 3.6), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        left.imshow(enlarge(self.picture))
        left.set_title("picture")
        heat = middle.imshow(self.map.numpy(), cmap="inferno", vmin=0, vmax=1)
        middle.set_title(self.how)
        figure.colorbar(heat, ax=middle, shrink=0.8)
        right.imshow(enlarge(self.overlay))
        right.set_title(f"{self.text}: {self.score:.3f}", parse_math=False)  # a text may have dollar signs
        for axes in (left, middle, right):
            axes.set_axis_off()
        return figure

    def _repr_png_(self) -> bytes:
        return png_bytes(self.overlay)


def explain(
    image: Any, text: str, perceptor: Perceptor | str | None = None, *, how: str = "gradient", device: str = "auto"
) -> Explanation:
    """Return a heat map of the regions that make a picture match a text, more than they match a generic text.

    If the picture is not square, overlapping squares along its longer side are explained.

    Args:
        image: A picture in any form, a file, a frame, or a run: its newest frame, seen by its own perceptor.
        text: What is looked for, such as "a cat".
        perceptor: The CLIP model to use, by default mini CLIP.
        how: ``gradient``. In a convolutional network the Grad-CAMs (Selvaraju et al. 2017) of the last two stages,
            multiplied: the last knows what, the one before where. In a ViT gradient times token at the input of each
            block, added up.
            ``occlusion``: how much the score falls where a window is covered (Zeiler and Fergus 2014). It takes a
            hundred forward passes, and holds for any network.
        device: auto, cpu, cuda or mps.

    Raises:
        ClipgenError: For a picture that cannot be read, an empty text, and another ``how``.
    """
    if not (isinstance(text, str) and text.strip()):
        raise ClipgenError(f"text={text!r}: write what is looked for, such as 'a cat'")
    if how not in METHODS:
        raise ClipgenError(f"how={how!r}: choose one of: {', '.join(METHODS)}")
    picture, perceptor = picture_and_perceptor(image, perceptor, device)
    embedding = embed(perceptor, [text])[0]
    target = F.normalize(embedding - embed_words(perceptor, _ANY_TEXTS).mean(0), dim=-1)
    method: Callable[[Perceptor, Tensor, Tensor], Tensor] = _gradient if how == "gradient" else _occlusion
    width, height = picture.size
    heat, total, side = torch.zeros(height, width), torch.zeros(height, width), min(width, height)
    # Squares fade to their ends, so that no seam shows between two.
    fade = torch.hann_window(side + 2, periodic=False)[1:-1]
    fade = fade[None] if width >= height else fade[:, None]
    for left, top in _squares(width, height):
        square = picture.crop((left, top, left + side, top + side))
        pixels = to_tensor(square, (perceptor.size, perceptor.size)).to(perceptor.device)
        part = F.interpolate(method(perceptor, pixels, target)[None, None].cpu(), (side, side), mode="bicubic")
        rows, columns = slice(top, top + side), slice(left, left + side)
        heat[rows, columns] += fade * part[0, 0].clamp(min=0)
        total[rows, columns] += fade
    heat /= total
    score = float(perceptor.embed_image([picture])[0] @ embedding)
    return Explanation(picture, text, heat / heat.max().clamp(min=1e-12), score, how)


def _squares(width: int, height: int) -> list[tuple[int, int]]:
    """Return left and top of squares as large as the shorter side, each half over the next."""
    side, longer = min(width, height), max(width, height)
    count = 1 + math.ceil(2 * (longer - side) / side)
    starts = [round(i * (longer - side) / max(1, count - 1)) for i in range(count)]
    return [(start, 0) if width >= height else (0, start) for start in starts]


def _gradient(perceptor: Perceptor, pixels: Tensor, target: Tensor) -> Tensor:
    """Return the map (h, w) of a square (1, 3, S, S)."""
    layers = perceptor.feature_layers
    with record_outputs(layers) as outputs, torch.enable_grad():
        score = perceptor.encode_image(pixels.requires_grad_())[0] @ target
        outputs = outputs[-len(layers) :]  # a network that left fp16's range was run twice
        gradients = torch.autograd.grad(score, outputs)
    maps = [_contribution(x.detach().float(), slope.float()) for x, slope in zip(outputs, gradients, strict=True)]
    if outputs[0].ndim == 3:
        return torch.stack(maps).sum(0)
    finest = max(each.shape for each in maps)
    enlarged = [F.interpolate(each[None, None], finest, mode="bicubic").clamp(min=0) for each in maps]
    return torch.stack(enlarged).prod(0)[0, 0] ** (1 / len(enlarged))


def _contribution(features: Tensor, gradient: Tensor) -> Tensor:
    """Return what each place of a map (1, C, h, w), or each patch of tokens (1, N, C), adds to the score: (h, w)."""
    if features.ndim == 4:
        return (gradient.mean((2, 3), keepdim=True) * features).sum(1)[0]
    side = math.isqrt(features.shape[1])  # the class token and registers come first
    return (gradient * features).sum(-1)[0, -side * side :].view(side, side)


@torch.no_grad()
def _occlusion(perceptor: Perceptor, pixels: Tensor, target: Tensor) -> Tensor:
    """Return how much the score of a square (1, 3, S, S) falls, on average, where a window covers it: (S, S)."""
    size = pixels.shape[-1]
    window, step = 3 * size // 8, size // 8
    score = perceptor.encode_image(pixels)[0] @ target
    drop, count = torch.zeros(2, size, size)
    blank = pixels.mean((2, 3), keepdim=True)[0]
    edges = [(max(0, start), min(size, start + window)) for start in range(step - window, size, step)]
    for top, bottom in edges:
        covered = pixels.repeat(len(edges), 1, 1, 1)
        for copy, (left, right) in zip(covered, edges, strict=True):
            copy[:, top:bottom, left:right] = blank
        for (left, right), covered_score in zip(edges, perceptor.encode_image(covered) @ target, strict=True):
            drop[top:bottom, left:right] += float(score - covered_score)
            count[top:bottom, left:right] += 1
    return drop / count


def explain_command(parser: argparse.ArgumentParser, words: list[str]) -> int:
    """Write the overlay, or with --figure the figure, and print the score."""
    add_options(parser)
    parser.add_argument("text", help='what to look for: "a cat"')
    parser.add_argument("--how", help=f"{' or '.join(METHODS)} (slow, works with any CLIP; default: {METHODS[0]})")
    parser.add_argument("--figure", action="store_true", default=False, help="picture, map and overlay, with a scale")
    files = f"{' '.join(SUFFIXES)} (default: <image>-why.png, here)"
    parser.add_argument("-o", "--output", type=expand_home, metavar="FILE", help=files)
    options = vars(parser.parse_intermixed_args(words))
    quiet, figure = options.pop("quiet"), options.pop("figure")
    file = options.pop("output", None) or find_unused(shorten_name(Path(options["image"]).stem, 180), ["-why.png"])[0]
    if file.suffix.lower() not in SUFFIXES:
        raise ClipgenError(f"output={str(file)!r}: choose a file with one of {SUFFIXES}")
    check_writable(file)
    explanation = explain(**options)
    try:
        with atomic_write(file) as part:
            explanation.figure().savefig(part, dpi=150) if figure else explanation.overlay.save(part)
    except OSError as error:
        raise ClipgenError(f"output={str(file)!r}: {error.strerror}; choose a place that has room") from error
    print(file if quiet else f"{file} (done): {explanation.text}, CLIP score {explanation.score:.3f}")
    return 0
