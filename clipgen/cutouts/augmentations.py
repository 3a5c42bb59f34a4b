"""Augmentations of cutouts: names, strengths, and the probability that a cutout has them."""

import re
from typing import NamedTuple

from clipgen.errors import ClipgenError
from clipgen.setting import UNSIGNED


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
    """Parse ``flip, affine=15 + shear=5:0.7``: names with ``=strength`` and ``:share of cutouts``.

    Those joined by ``+`` are on the same cutouts; the last of them has the share. Raises ClipgenError for an unknown
    name, and for a share above 1.
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
