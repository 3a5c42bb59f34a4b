"""The drawings in one compressed file of a few megabytes, as vector graphics, for training on another machine.

``python -m clipgen.mini.training bundle`` writes it, and the stages ``first``, ``second`` and ``decoder`` take it for
their ``--cache``. They need no npm then, no network and no open_clip: the tokens of all words of captions are in it.
"""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clipgen.clip.tokenizer import encode
from clipgen.mini.training import data
from clipgen.mini.training.captions import templates
from clipgen.mini.training.training import Job

FILE = "drawings.xz"
FINE = 256  # pixels of a side at which drawings are rendered: every size of a scene is made smaller from there


class Sources(NamedTuple):
    """Drawings, and the tokens of a text."""

    drawings: data.Drawings
    encode: Callable[[str], list[int]]


def pack(job: Job) -> None:
    """Write ``FILE`` into ``out``: every drawing's SVG, and the tokens of the words of captions and evaluations."""
    from clipgen.mini.training.evaluate import SETS

    modules = data.fetch(job.cache)
    by_slug = data.read_things(modules)
    things = sorted(set(by_slug.values()), key=lambda thing: thing.name)
    number = {thing: i for i, thing in enumerate(things)}
    drawn = [
        (style, number[thing], svg)
        for style, name in enumerate(data.STYLES)
        for thing, svg in data.icons_of(modules, name, by_slug)
    ]
    texts = [*(text for thing in things for text in (thing.name, *thing.keywords)), *templates()]
    texts += [prompt for prompts in SETS.values() for prompt in prompts()]
    words = {word: encode(word) for word in sorted({word for text in texts for word in text.lower().split()})}
    content = {
        "things": [[thing.name, thing.keywords, thing.group] for thing in things],
        "drawn": drawn,
        "words": words,
    }
    file = job.out / FILE
    file.write_bytes(lzma.compress(json.dumps(content).encode(), preset=9))
    print(f"{file}  {file.stat().st_size / 1e6:.2f} MB, {len(drawn)} drawings of {len(things)} things")


@cache
def sources(place: Path) -> Sources:
    """What a cache folder has, or a bundle, rendered by all cores."""
    if place.is_dir() or not place.exists():
        return Sources(data.drawings(place, FINE), encode)
    content = json.loads(lzma.decompress(place.read_bytes()))
    things = [data.Thing(name, tuple(keywords), group) for name, keywords, group in content["things"]]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        rgba = list(pool.map(_rendered, (svg for *_, svg in content["drawn"]), chunksize=16))
    shown = [i for i, picture in enumerate(rgba) if picture[..., 3].max() > 0]
    style, thing = (np.array([content["drawn"][i][k] for i in shown]) for k in (0, 1))
    words = content["words"]

    def spelled(text: str) -> list[int]:
        return [token for word in text.lower().split() for token in words.get(word, ())]

    return Sources(data.Drawings(things, np.stack([rgba[i] for i in shown]), thing, style), spelled)


def _rendered(svg: str) -> np.ndarray:
    return data.render(svg, FINE)
