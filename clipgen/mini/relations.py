"""Relations of two things (wears, holds, rides, is on, is in): found in a prompt, and laid out in a picture."""

from collections.abc import Sequence

import torch
from torch import Tensor

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
# Animals of which only the face is drawn.
_FACES = "bear", "fox", "frog", "hamster", "koala", "lion", "moose", "panda", "raccoon", "unicorn", "wolf"
FACES = {*_FACES, "polar bear"}
BEHIND = {"on"}  # relations in which the second of two things is painted first
_RELATIONS = {  # by the words that join two things
    **dict.fromkeys(("holding", "carrying", "playing", "eating"), "hold"),
    "riding": "ride",
    **dict.fromkeys((f"{verb}on{top}" for verb in ("", "standing ", "sitting ") for top in ("", " top of")), "on"),
    **dict.fromkeys(("in", "inside", "sitting in", "standing in"), "in"),
}
_WEARS = {"wearing", "with", "in"}  # words before what is worn
MATERIAL = {"made of", "made from", "made out of", "in the shape of"}  # words before a material
# Things that another can be in; "in" anything else is side by side.
_HOLLOW = {"basket", "bathtub", "bowl", "box", "bucket", "canoe", "cup", "gift", "pot", "teacup"}
# A pattern of the words that join two things; drafts.py adds the prepositions.
VERBS = "|".join(sorted(MATERIAL | {"wearing"} | set(_RELATIONS) - {"in", "on", "on top of"}, reverse=True))


def relation_of(joint: str, other: str) -> str | None:
    """Return the relation of a thing to ``other``, which ``joint`` joins to it; None if they stand side by side."""
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
