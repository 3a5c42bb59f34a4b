"""Colours, places with their backgrounds, and relations of two things: of scenes to train with, and of drafts."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

RGB = tuple[float, float, float]

COLOURS: dict[str, RGB] = {
    "red": (0.88, 0.15, 0.15),
    "orange": (0.98, 0.55, 0.1),
    "yellow": (0.99, 0.84, 0.15),
    "green": (0.2, 0.68, 0.25),
    "blue": (0.15, 0.4, 0.9),
    "purple": (0.55, 0.25, 0.75),
    "pink": (0.98, 0.55, 0.75),
    "brown": (0.5, 0.32, 0.2),
    "gray": (0.55, 0.55, 0.58),
    "black": (0.15, 0.15, 0.17),
    "white": (0.95, 0.95, 0.96),
}
LOCATIONS = {
    "grass": ("on the grass", "in a meadow", "on a green field"),
    "sea": ("over the sea", "in the sea", "on the ocean", "in the water"),
    "night sky": ("in the night sky", "at night", "under the stars", "in space"),
    "sunset": ("at sunset", "in front of a sunset", "at dusk"),
    "beach": ("on the beach", "on the sand"),
    "snow": ("in the snow", "in winter", "on a snowy field"),
    "forest": ("in the forest", "among the trees", "in the woods"),
}
# The colours of the sky, and of the ground, at its top and at its bottom.
_SKY: dict[str, tuple[RGB, RGB]] = {
    "grass": ((0.35, 0.65, 0.95), (0.75, 0.9, 1.0)),
    "sea": ((0.4, 0.7, 0.98), (0.8, 0.92, 1.0)),
    "night sky": ((0.02, 0.03, 0.14), (0.1, 0.1, 0.32)),
    "sunset": ((0.4, 0.2, 0.5), (1.0, 0.6, 0.25)),
    "beach": ((0.35, 0.7, 0.97), (0.7, 0.9, 1.0)),
    "snow": ((0.6, 0.75, 0.9), (0.85, 0.92, 0.98)),
    "forest": ((0.1, 0.28, 0.12), (0.3, 0.5, 0.25)),
    "sky": ((0.35, 0.65, 0.97), (0.75, 0.9, 1.0)),  # of drafts alone, not of training
}
_GROUND: dict[str, tuple[RGB, RGB]] = {
    "grass": ((0.4, 0.75, 0.25), (0.2, 0.55, 0.15)),
    "sea": ((0.2, 0.5, 0.85), (0.05, 0.25, 0.55)),
    "sunset": ((0.5, 0.22, 0.3), (0.2, 0.1, 0.25)),
    "beach": ((0.96, 0.86, 0.62), (0.88, 0.74, 0.48)),
    "snow": ((0.97, 0.98, 1.0), (0.85, 0.9, 0.97)),
    "forest": ((0.25, 0.4, 0.15), (0.2, 0.25, 0.1)),
}
TIMES = {"night sky": 0.3, "sunset": 0.7}  # of day, with the light that a ground has


class Style(NamedTuple):
    """How a picture in a style differs from others."""

    palette: tuple[RGB, ...]  # from dark to light
    stroke: float = 0.0  # length of a brush stroke, as a fraction of the picture's side
    strength: float = 0.7  # how far colours are drawn towards the palette


_WASH = Style(((0.4, 0.47, 0.6), (0.62, 0.74, 0.8), (0.88, 0.88, 0.8), (1.0, 1.0, 0.98)), strength=0.45)
_GREY = Style(((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), 0.05, 1.0)
# The painters' palettes: Starry Night, Impression Sunrise, Great Wave, The Scream, blue period, Night Watch, The Kiss.
STYLES = {
    "van gogh": Style(((0.05, 0.1, 0.32), (0.12, 0.3, 0.62), (0.45, 0.65, 0.75), (0.98, 0.85, 0.35)), 0.15),
    "monet": Style(((0.3, 0.38, 0.55), (0.5, 0.6, 0.65), (0.9, 0.62, 0.5), (0.97, 0.88, 0.78)), 0.06),
    "hokusai": Style(((0.07, 0.14, 0.3), (0.2, 0.38, 0.55), (0.7, 0.74, 0.7), (0.96, 0.91, 0.78))),
    "munch": Style(((0.1, 0.12, 0.25), (0.4, 0.28, 0.3), (0.85, 0.4, 0.15), (0.98, 0.75, 0.35)), 0.15),
    "picasso": Style(((0.05, 0.12, 0.28), (0.2, 0.38, 0.58), (0.5, 0.66, 0.76), (0.82, 0.88, 0.88))),
    "rembrandt": Style(((0.08, 0.05, 0.03), (0.32, 0.19, 0.09), (0.68, 0.46, 0.2), (0.93, 0.8, 0.55)), 0.05),
    "klimt": Style(((0.15, 0.1, 0.05), (0.55, 0.38, 0.1), (0.85, 0.65, 0.2), (0.98, 0.88, 0.55))),
    "oil painting": Style(((0.1, 0.08, 0.08), (0.5, 0.45, 0.4), (0.97, 0.94, 0.88)), 0.1, 0.25),
    **dict.fromkeys(("watercolour", "watercolor"), _WASH),
    **dict.fromkeys(("pencil sketch", "pencil drawing", "charcoal drawing", "charcoal", "sketch"), _GREY),
}


def apply_style(image: Tensor, style: Style, rng: torch.Generator) -> Tensor:
    """Return an image (1, 3, H, W) in the colours of a style that have the same lightness, and with its strokes."""
    light = image.mean(1, keepdim=True)
    palette = torch.tensor(style.palette, device=image.device).T[None, :, None]
    grid = torch.cat([light * 2 - 1, torch.zeros_like(light)], 1).permute(0, 2, 3, 1)
    image = image.lerp(F.grid_sample(palette, grid, padding_mode="border", align_corners=True), style.strength)
    return _brush(image, style.stroke, rng) if style.stroke else image


def _brush(image: Tensor, length: float, rng: torch.Generator) -> Tensor:
    """Return an image smeared along random curves, in streaks: line integral convolution (Cabral and Leedom 1993)."""
    height, width = image.shape[-2:]
    coarse = torch.randn(1, 1, 4, 4, generator=rng)
    fine = torch.randn(1, 1, max(1, height // 3), max(1, width // 3), generator=rng)
    angle, streaks = (F.interpolate(x.to(image.device), (height, width), mode="bicubic") for x in (coarse, fine))
    direction = torch.cat([(math.pi * angle).cos(), (math.pi * angle).sin()], 1)
    painted, steps = torch.cat([image, streaks], 1), 9
    total = torch.zeros_like(painted)
    for sign in (1, -1):
        grid = F.affine_grid(torch.eye(2, 3, device=image.device)[None], [1, 1, height, width], align_corners=True)
        for _ in range(steps):
            total = total + F.grid_sample(painted, grid, padding_mode="reflection", align_corners=True)
            ahead = F.grid_sample(direction, grid, padding_mode="border", align_corners=True).permute(0, 2, 3, 1)
            grid = grid + sign * length / steps * ahead
    smeared = total / (2 * steps)
    streaks = smeared[:, 3:] / smeared[:, 3:].std(correction=0).clamp(min=1e-6)
    depth = 0.03 + 0.06 * (1 - image.mean(1, keepdim=True))  # paper has faint ones
    return (image.lerp(smeared[:, :3], 0.6) + depth * streaks).clamp(0, 1)


def with_article(name: str) -> str:
    """Return a name with its article: "a cat", "an apple"."""
    return f"an {name}" if name[0].lower() in "aeiou" else f"a {name}"


def draw_scenery(location: str, size: int, rng: torch.Generator, time: str | None = None) -> Tensor:
    """Return a picture (3, size, size) of a location, with nothing in it, at one of ``TIMES`` or by day."""

    def rand(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=rng))

    ground = _GROUND.get(location)
    horizon = size if not ground else int(size * rand(0.5, 0.75))
    picture = torch.empty(3, size, size)
    picture[:, :horizon] = _ramp(*_SKY[time or location], horizon)
    if ground:
        picture[:, horizon:] = _ramp(*ground, size - horizon) * TIMES.get(time or "", 1.0)
    ys, xs = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
    if time or location == "night sky":
        picture = _draw_lights(picture, time or location, xs, ys, horizon / size, rand)
    if location == "sea":
        waves = torch.sin(40 * ys + 3 * torch.sin(2 * math.pi * (2 * xs + rand(0, 1))))
        picture = picture + 0.06 * (waves > 0.6) * (ys > horizon / size)
    if location == "forest":
        for _ in range(int(rand(5, 10))):
            x, width = rand(0, 1), rand(0.02, 0.05)
            trunk = ((xs - x).abs() < width) & (ys < horizon / size + rand(0, 0.15))
            picture = torch.where(trunk, torch.tensor([0.3, 0.2, 0.12])[:, None, None] * rand(0.7, 1.2), picture)
    if ground and location in ("grass", "snow"):
        hill = ys > horizon / size - 0.06 * torch.sin(math.pi * (xs * rand(1, 2) + rand(0, 1)))
        fill = picture[:, horizon, :1, None].expand_as(picture)
        picture = torch.where(hill & (ys <= horizon / size), fill, picture)
    return (picture + 0.04 * torch.randn(3, 1, 1, generator=rng)).clamp(0, 1)


def _draw_lights(
    picture: Tensor, time: str, xs: Tensor, ys: Tensor, horizon: float, rand: Callable[[float, float], float]
) -> Tensor:
    """Return a picture with stars, or with the sun going down."""
    if time == "sunset":
        sun = ((xs - 0.5) ** 2 + (ys - horizon + 0.03) ** 2 < 0.012) & (ys < horizon)
        return torch.where(sun, torch.tensor([1.0, 0.85, 0.45])[:, None, None], picture)
    for _ in range(int(rand(20, 45))):
        star = torch.exp(-((xs - rand(0, 1)) ** 2 + (ys - rand(0, 1)) ** 2) / rand(2e-5, 1.2e-4)) * (ys <= horizon)
        picture = picture + (1 - picture) * star * rand(0.5, 1)
    return picture


def _ramp(top: RGB, bottom: RGB, rows: int) -> Tensor:
    """Return (3, rows, 1), from one colour down to another."""
    fraction = torch.linspace(0, 1, rows)[None, :, None]
    return torch.tensor(top)[:, None, None] * (1 - fraction) + torch.tensor(bottom)[:, None, None] * fraction


Square = tuple[float, float, float]  # (side, x, y): side and centre, as fractions of the scene's side

# What is worn, by where it is worn.
WORN = {
    "head": (
        *("top hat", "billed cap", "crown", "graduation cap", "woman's hat", "rescue worker's helmet"),
        "military helmet",
    ),
    "eyes": ("glasses", "sunglasses", "goggles"),
    "neck": ("scarf", "necktie"),
}
RAISED = {"balloon", "umbrella", "umbrella with rain drops"}  # held above the head
FACES = {  # things of which only the face is drawn
    *("bear", "fox", "frog", "hamster", "koala", "lion", "moose", "panda", "polar bear", "raccoon", "unicorn", "wolf"),
    *("man", "woman", "person", "boy", "girl", "child", "baby", "old man", "old woman", "older person"),
    "smiley",
}
BEHIND = {"on"}  # relations in which the second of two things is painted first
_RELATIONS = {  # by the words that join two things
    **dict.fromkeys(("holding", "carrying", "playing", "eating"), "hold"),
    "riding": "ride",
    **dict.fromkeys((f"{verb}on{top}" for verb in ("", "standing ", "sitting ") for top in ("", " top of")), "on"),
    **dict.fromkeys(("in", "inside", "sitting in", "standing in"), "in"),
}
_WEARS = {"wearing", "with", "in"}  # words before what is worn
MATERIAL = {"made of", "made from", "made out of", "in the shape of"}  # words before a material
_MATERIALS = {  # by the drawings that have their colours
    "gold": "coin",
    "silver": "spoon",
    "metal": "gear",
    "stone": "rock",
    "glass": "ice",
    "chocolate": "chestnut",
    "snow": "cloud",
    "wool": "yarn",
}
# Things that another can be in; "in" anything else is side by side.
_HOLLOW = {"basket", "bathtub", "bowl", "box", "bucket", "canoe", "cup", "gift", "pot", "teacup"}
# A pattern of the words that join two things; drafts.py adds the prepositions.
VERBS = "|".join(sorted(MATERIAL | {"wearing"} | set(_RELATIONS) - {"in", "on", "on top of"}, reverse=True))


def find_material(bare: str, names: Sequence[str]) -> str | None:
    """Return the drawing, among ``names``, that has a material's colours: "a banana" for "bananas", or None."""
    exact = [name for name in (_MATERIALS.get(bare, bare), bare.removesuffix("s")) if name in names]
    kinds = [name for name in names if bare in name.split()]  # "cheese wedge"
    return with_article([*exact, *kinds][0]) if exact or kinds else None


def relation_of(joint: str, other: str) -> str | None:
    """Return the relation of a thing to ``other``, which ``joint`` joins to it; None if they stand side by side."""
    if joint in MATERIAL:
        return "made"
    noun = other.split()[-1]
    if joint in _WEARS:
        for part, worn in WORN.items():
            if any(noun == name.split()[-1] for name in worn):
                return part
    relation = "hold" if joint == "wearing" else _RELATIONS.get(joint)
    if relation == "hold" and noun in RAISED:
        return "raise"
    return relation if relation != "in" or noun in _HOLLOW else None


def bounding_boxes(opaque: Tensor) -> Tensor:
    """Return (n, 5) for masks (n, H, W): left, top, right, bottom, and the centre of the upper fifth, as fractions."""
    height, width = opaque.shape[1:]
    columns, rows = opaque.any(1).float(), opaque.any(2).float()

    def ends(line: Tensor) -> tuple[Tensor, Tensor]:
        return line.argmax(1) / line.shape[1], 1 - line.flip(1).argmax(1) / line.shape[1]

    (left, right), (top, bottom) = ends(columns), ends(rows)
    ys = torch.arange(height, device=opaque.device)[None, :, None] / height
    upper = (opaque & (ys <= (top + 0.2 * (bottom - top))[:, None, None])).float()
    xs = (torch.arange(width, device=opaque.device) + 0.5) / width
    middle = (upper.sum(1) * xs).sum(1) / upper.sum((1, 2)).clamp(min=1)
    return torch.stack([left, top, right, bottom, middle], 1)


# Each for a face and for a whole body: side of what is worn, and distance of its centre from the top of the head.
_BELOW = {"eyes": ((0.5, 0.44), (0.25, 0.14)), "neck": ((0.5, 0.95), (0.3, 0.36))}


def arrange(
    relation: str, first: Sequence[float], second: Sequence[float], face: bool = False
) -> tuple[Square, Square]:
    """Return where two drawings are of which the first wears, holds or rides the second, or is on or in it.

    Args:
        relation: head, eyes or neck (where the second is worn), hold, raise, ride, on or in.
        first, second: Their rows of ``bounding_boxes``.
        face: Whether the first is a face alone.
    """
    left, top, right, bottom, middle = first
    upper, lower = second[1], second[3]
    if relation in ("hold", "raise"):
        return (0.75, 0.4, 0.5), (0.375, 0.8, 0.27 if relation == "raise" else 0.66)
    if relation in ("ride", "in", "on"):
        side, y, deep = (0.5, 0.72, 0.12) if relation == "on" else (0.625, 0.66, 0.3 if relation == "ride" else 0.35)
        edge = y + side * (upper - 0.5 + deep * (lower - upper))
        return (0.5, 0.5, max(0.23, edge - 0.5 * (bottom - 0.5))), (side, 0.5, y)
    head = (0.75, 0.5, 0.58 if relation == "head" else 0.5)
    crown, centre = head[2] + 0.75 * (top - 0.5), 0.5 + 0.75 * (middle - 0.5)
    if relation == "head":
        side = 0.4 if face else 0.31
        return head, (side, centre, max(0.16, crown - side * (lower - 0.5) + 0.16 * side))
    side, below = _BELOW[relation][0 if face else 1]
    centre = 0.5 + 0.75 * ((left + right) / 2 - 0.5) if face else centre
    return head, (side, centre, min(0.84, crown + below * 0.75 * (bottom - top)))


def cover(first: Tensor, second: Tensor) -> Tensor:
    """Return the first of two drawings (1, 4, H, W), with its opacity and its lines, in the colours of the second."""
    boxes = bounding_boxes(torch.cat([first[:, 3], second[:, 3]]) > 0.5).tolist()
    (rows, columns), (material_rows, material_columns) = (
        (slice(int(top * height), math.ceil(bottom * height)), slice(int(left * width), math.ceil(right * width)))
        for (left, top, right, bottom, _), (height, width) in zip(boxes, (first.shape[2:], second.shape[2:]))
    )
    material = _fill_holes(second[..., material_rows, material_columns])
    covered = first[:, :3].clone()
    shape = covered[..., rows, columns].shape[2:]
    covered[..., rows, columns] = F.interpolate(material, shape, mode="bilinear", antialias=True)
    light = first[:, :3].mean(1, keepdim=True)
    usual = light[first[:, 3:] > 0.5].quantile(0.6) if bool((first[:, 3] > 0.5).any()) else light.mean()
    return torch.cat([(covered * (light / usual.clamp(min=0.1)).clamp(0.25, 1.25)).clamp(0, 1), first[:, 3:]], 1)


def _fill_holes(rgba: Tensor) -> Tensor:
    """Return (1, 3, H, W): where (1, 4, H, W) is transparent, the mean colour of what is opaque nearby."""
    mask = (rgba[:, 3:] > 0.9).float()
    filled = rgba[:, :3] * mask
    for reach in (2, 4, 8, 16, 32, 64):
        size = 2 * reach + 1
        weight = F.avg_pool2d(mask, size, 1, reach)
        is_new = (weight > 0) & (mask == 0)
        filled = torch.where(is_new, F.avg_pool2d(filled, size, 1, reach) / weight.clamp(min=1e-6), filled)
        mask = mask.maximum(is_new.float())
    return filled


def squares(count: int, height: int, width: int) -> list[tuple[int, int, int]]:
    """Return (top, left, side) of up to two squares: one in the middle, or two along the longer side, askew."""
    long, short = max(height, width), min(height, width)
    if count < 2:
        side = max(1, 7 * short // 8)
        return count * [((height - side) // 2, (width - side) // 2, side)]
    # Small ones overlap by their margins: mini CLIP recognises pairs side by side better than in corners.
    side = max(1, min(short, long // 2), 9 * short // 16)
    middle, askew = (short - side) // 2, (short - side) // 6
    first, second = (0, middle - askew), (long - side, middle + askew)
    if height > width:
        return [(*first, side), (*second, side)]
    return [(*first[::-1], side), (*second[::-1], side)]


def paste(image: Tensor, rgba: Tensor, top: int, left: int, side: int) -> None:
    """Blend a drawing (1, 4, H, W), resized to a square, into an image in place; what is outside of it is cut off."""
    square = F.interpolate(rgba, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
    inside = square[..., max(0, -top) : image.shape[-2] - top, max(0, -left) : image.shape[-1] - left]
    rows = slice(max(0, top), max(0, top) + inside.shape[-2])
    columns = slice(max(0, left), max(0, left) + inside.shape[-1])
    image[..., rows, columns].lerp_(inside[:, :3], inside[:, 3:])
