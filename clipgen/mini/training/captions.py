"""What scenes show, in words and in numbers: captions, and which drawing lies where. ``composer`` paints them."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from typing import NamedTuple

import numpy as np

from clipgen.mini.scenes import BEHIND, COLOURS, FACES, LOCATIONS, RAISED, WORN, arrange, with_article
from clipgen.mini.training.data import STYLES, Drawings, is_held_out

MAIN = STYLES.index("noto")
LOOKS = {
    "fluent-emoji": ("glossy", "3d"),
    "fluent-emoji-flat": ("flat",),
    "twemoji": ("simple",),
    "noto-v1": ("round",),
}
RIDDEN = (
    *("bicycle", "motorcycle", "skateboard", "horse", "automobile", "kick scooter", "motor scooter", "elephant"),
    *("rocket", "flying saucer", "sled", "canoe", "sailboat", "tractor", "turtle", "whale", "dragon", "roller skate"),
)
CONTAINERS = (
    *("bowl with spoon", "teacup without handle", "wrapped gift", "bathtub", "canoe", "shopping cart", "wastebasket"),
    *("pot of food", "bucket", "basket"),
)
JOINTS = {
    "hold": ("holding", "with", "carrying"),
    "ride": ("riding",),
    "on": ("on", "standing on", "sitting on"),
    "in": ("in",),
}
SHORT = {
    "hat": ("top hat", "woman's hat"),
    "cap": ("billed cap",),
    "helmet": ("rescue worker's helmet", "military helmet"),
    "cup": ("teacup without handle",),
    "bowl": ("bowl with spoon",),
    "gift": ("wrapped gift",),
    "car": ("automobile",),
    "bike": ("bicycle",),
    "ufo": ("flying saucer",),
}
EXTRA_PLACES = {
    "city": ("in the city", "in a city", "in town", "on a street"),
    "city at night": ("in the city at night", "in a city at night"),
    "sky": ("in the sky", "in the clouds", "in the air"),
    "desert": ("in the desert", "on a dune"),
    "room": ("in a room", "in a kitchen", "on the floor", "at home"),
    "road": ("on the road", "on a road"),
    "mountains": ("in the mountains", "in front of a mountain"),
}
SCENES = {
    "city": ("a city", "a skyline", "a city landscape", "a town", "a city skyline"),
    "city at night": ("a city at night", "a skyline at night", "a city landscape at night"),
    "grass": ("a meadow", "a green field"), "sea": ("the sea", "the ocean"), "night sky": ("the night sky", "stars"),
    "sunset": ("a sunset",), "beach": ("a beach",), "snow": ("a snowy field",), "forest": ("a forest", "the woods"),
    "sky": ("the sky", "clouds in the sky"), "desert": ("a desert",), "room": ("a room",), "road": ("a road",),
    "mountains": ("mountains", "a mountain landscape"),
}  # fmt: skip
ALL_PLACES = {**LOCATIONS, **EXTRA_PLACES}
FIELDS = tuple(ALL_PLACES)  # in the order of the bank of backgrounds
WHITE, PLAIN, FIELD = -1, 0, 100  # backgrounds: papers from PLAIN, the bank's places from FIELD
LAYERS = 3
SIDE = 128  # pixels of a scene


class Spec(NamedTuple):
    """Scenes in numbers: ``layers`` (n, LAYERS, 7) of drawing, side, x, y, flip, tint, texture; -1: no drawing."""

    captions: list[str]
    layers: np.ndarray
    ground: np.ndarray  # (n,)


def templates() -> list[str]:
    """Every word that a caption can have beside names, keywords and colours."""
    lists = (*ALL_PLACES.values(), *SCENES.values(), *LOOKS.values(), *JOINTS.values(), (*SHORT, *COLOURS))
    joints = "a an and beside next to with above on top of over in wearing background"
    return [*(text for some in lists for text in some), joints, "made from the shape"]


def _short(name: str) -> str:
    """A dog is also the dog face."""
    return name if name.endswith("with face") else name.removesuffix(" face")


class Writer:
    """Endless captioned scenes of the drawings that are ``allowed``, (N,) bool; ``boxes`` are those of ``composer``."""

    def __init__(self, drawings: Drawings, allowed: np.ndarray, boxes: np.ndarray, seed: int):
        self.rng = random.Random(seed)
        self.things, self.boxes, self.colours = drawings.things, boxes, list(COLOURS)
        self.drawn: dict[int, dict[int, int]] = defaultdict(dict)  # of a thing by style
        for row in np.flatnonzero(allowed):
            self.drawn[int(drawings.thing[row])][int(drawings.style[row])] = int(row)
        number = {thing.name: i for i, thing in enumerate(self.things) if i in self.drawn}
        self.number = number
        self.usual = list(number.values())
        rare = {"people-body": 0.25, "smileys-emotion": 0.5, "symbols": 0.25}
        words = [len(re.split("[ -]", _short(self.things[i].name))) for i in self.usual]
        self.weights = [rare.get(self.things[i].group, 1.0) * 0.6 ** (n - 1) for i, n in zip(self.usual, words)]
        shared: dict[str, int] = defaultdict(int)
        for i in self.usual:
            for keyword in self.things[i].keywords:
                shared[keyword] += 1
        taken = {_short(self.things[i].name) for i in self.usual}
        self.others = {  # what else a thing is called, and nearly nothing else is
            i: [k for k in self.things[i].keywords if shared[k] <= 2 and k not in taken and len(k) > 2]
            for i in self.usual
        }
        self.faces = [i for i in self.usual if self.things[i].name.endswith(" face")]
        alive = ("animals-nature", "people-body", "smileys-emotion")
        needed = {"wear": WORN["head"], "ride": RIDDEN, "in": CONTAINERS}
        kinds = ("wear", "wear", "hold", "hold", "ride", "on", "in")
        self.kinds = [kind for kind in kinds if kind not in needed or set(needed[kind]) & set(number)]
        self.wearers = [i for i in self.usual if self.things[i].group in alive]

    def write(self, count: int) -> Spec:
        captions, grounds = [], np.full(count, WHITE, np.int16)
        layers = np.full((count, LAYERS, 7), -1, np.float32)
        for i in range(count):
            caption, rows, grounds[i] = self._scene()
            captions.append(caption)
            for k, row in enumerate(rows):
                layers[i, k] = row
        return Spec(captions, layers, grounds)

    def _scene(self) -> tuple[str, list[tuple], int]:
        kind = self.rng.random()
        if kind < 0.36:
            return self._single(coloured=0.0, placed=0.06)
        if kind < 0.56:
            return self._single(coloured=1.0, placed=0.15)
        if kind < 0.76:
            return self._pair()
        if kind < 0.84:
            return self._single(coloured=0.3, placed=1.0)
        if kind < 0.96:
            return self._related()
        if kind < 0.985:
            return self._made_of()
        scene = self.rng.choice(FIELDS)
        return self.rng.choice(SCENES[scene]), [], FIELD + FIELDS.index(scene)

    # --- things -------------------------------------------------------------------------------------------

    def _thing(self, options: list[int] | None = None) -> int:
        if options:
            return self.rng.choice(options)
        return self.rng.choices(self.usual, self.weights)[0]

    def _called(self, names: tuple[str, ...]) -> tuple[int, str]:
        """One of the things with these names, and what it is called."""
        name = self.rng.choice([name for name in names if name in self.number])
        short = [word for word, long in SHORT.items() if name in long]
        return self.number[name], self.rng.choice([name, *short]) if short else name

    def _name(self, thing: int) -> str:
        name = self.things[thing].name
        if self.rng.random() < 0.1 and self.others[thing]:
            return self.rng.choice(self.others[thing])
        return _short(name) if self.rng.random() < 0.85 else name

    def _colour(self, thing: int, share: float) -> str | None:
        if self.rng.random() >= share:
            return None
        colour = self.rng.choice(self.colours)
        return None if is_held_out(colour, self.things[thing].name) else colour

    def _phrase(self, name: str, *before: str | None) -> str:
        phrase = " ".join([*filter(None, before), name])
        return with_article(phrase) if self.rng.random() < 0.8 else phrase

    def _drawing(self, thing: int, style: int = MAIN) -> int:
        looks = self.drawn[thing]
        return looks[style] if style in looks else looks[min(looks)]

    def _row(self, thing: int, side: float, x: float, y: float, colour: str | None, style=MAIN, texture=-1) -> tuple:
        tint = self.colours.index(colour) if colour else -1
        return (self._drawing(thing, style), side, x, y, 0, tint, texture)

    def _ground(self, share: float) -> tuple[str, int]:
        """Return the end of a caption, which names the background, and the background's number."""
        draw = self.rng.random()
        if draw < share * 0.85:
            scene = self.rng.choice(FIELDS)
            return " " + self.rng.choice(ALL_PLACES[scene]), FIELD + FIELDS.index(scene)
        if draw < share:
            colour = self.rng.choice(self.colours)
            return f" on a {colour} background", PLAIN + self.colours.index(colour)
        return "", WHITE

    # --- scenes -------------------------------------------------------------------------------------------

    def _single(self, coloured: float, placed: float) -> tuple[str, list[tuple], int]:
        thing = self._thing()
        colour = self._colour(thing, coloured)
        looks = [style for style in LOOKS if STYLES.index(style) in self.drawn[thing]]
        style, look = MAIN, None
        if looks and self.rng.random() < 0.18:
            chosen = self.rng.choice(looks)
            style, look = STYLES.index(chosen), self.rng.choice(LOOKS[chosen])
        where, ground = self._ground(placed)
        caption = self._phrase(self._name(thing), look, colour) + where
        return caption, [self._row(thing, 112, 64, 64, colour, style)], ground

    def _pair(self) -> tuple[str, list[tuple], int]:
        first, second = self._thing(), self._thing()
        names = self.things[first].name, self.things[second].name
        if names[0] == names[1] or is_held_out(*names):
            return self._single(0.3, 0.1)
        colours = self._colour(first, 0.3), self._colour(second, 0.3)
        a, b = (self._phrase(self._name(t), c) for t, c in zip((first, second), colours))
        where, ground = self._ground(0.15)
        if self.rng.random() < 0.75:
            caption = self.rng.choice(
                ("{a} and {b}", "{a} and {b}", "{a} next to {b}", "{a} with {b}", "{a} beside {b}")
            )
            spots = [(64, 32, 64), (64, 96, 64)]
        else:
            caption = self.rng.choice(("{a} above {b}", "{a} on top of {b}", "{a} over {b}"))
            spots = [(64, 64, 32), (64, 64, 96)]
        rows = [self._row(t, *spot, c) for t, spot, c in zip((first, second), spots, colours)]
        return caption.format(a=a, b=b) + where, rows, ground

    def _related(self) -> tuple[str, list[tuple], int]:
        """A thing and what it wears, holds, rides, stands on or is in: the head is always the first of the caption."""
        kind = self.rng.choice(self.kinds)
        head = self._thing(self.wearers if kind in ("wear", "ride", "hold") and self.rng.random() < 0.85 else None)
        if kind == "wear" and self.rng.random() < 0.7:
            head = self._thing(self.faces)
        colour = self._colour(head, 0.2)
        a = self._phrase(self._name(head), colour)
        where, ground = self._ground(0.15)
        if kind == "wear":
            return self._worn(head, colour, a, where, ground)
        if kind in ("hold", "on"):
            second = self._thing()
            name = self._name(second)
        else:
            second, name = self._called(RIDDEN if kind == "ride" else CONTAINERS)
        tint = self._colour(second, 0.25)
        lifted = kind == "hold" and self.things[second].name in RAISED
        rows = self._rows("raise" if lifted else kind, (head, colour), (second, tint))
        return f"{a} {self.rng.choice(JOINTS[kind])} {self._phrase(name, tint)}{where}", rows, ground

    def _rows(self, relation: str, first: tuple, second: tuple, face: bool = False) -> list[tuple]:
        """Both of two things, (thing, colour), in the order in which they are painted."""
        one, other = (self.boxes[self._drawing(thing)] for thing, _ in (first, second))
        spots = arrange(relation, one, other, face)
        rows = []
        for (thing, colour), spot in zip((first, second), spots):
            side, x, y = (round(SIDE * share) for share in spot)
            rows.append(self._row(thing, side, x, y, colour))
        return rows[::-1] if relation in BEHIND else rows

    def _worn(self, head: int, colour: str | None, a: str, where: str, ground: int) -> tuple[str, list[tuple], int]:
        thing = self.things[head]
        face = thing.name.endswith(" face") or thing.name in FACES or thing.group == "smileys-emotion"
        kind = self.rng.choice(("head", "head", "eyes", "neck")) if face else "head"
        if not set(WORN[kind]) & set(self.number):
            kind = "head"
        worn, name = self._called(WORN[kind])
        tint = self._colour(worn, 0.45)
        bare = kind == "eyes" and self.rng.random() < 0.5
        b = " ".join(filter(None, (tint, name))) if bare else self._phrase(name, tint)
        rows = self._rows(kind, (head, colour), (worn, tint), face)
        return f"{a} {self.rng.choice(('wearing', 'wearing', 'with', 'in'))} {b}{where}", rows, ground

    def _made_of(self) -> tuple[str, list[tuple], int]:
        first, second = self._thing(), self._thing()
        texture = self._drawing(second)
        a, b = self._phrase(self._name(first)), self._name(second)
        form = self.rng.choice(("{a} made of {b}", "{a} made of {b}", "{a} in the shape of {c}", "{a} made from {b}"))
        caption = form.format(a=a, b=b, c=with_article(b))
        return caption, [self._row(first, 112, 64, 64, None, MAIN, texture)], WHITE
