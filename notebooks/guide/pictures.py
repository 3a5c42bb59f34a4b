"""Draw the pictures of settings.md with the built-in models: python notebooks/guide/pictures.py [NAME...]

This takes a few minutes. The table of what is drawn is in settings.py.
"""

import sys
from tempfile import TemporaryDirectory

from settings import FOLDER, PICTURES, Example

import clipgen
from clipgen.images.sheets import repeat_picture

WIDTH = 110  # pixels of one tile in the guide


def draw(name: str, example: Example, folder: str) -> None:
    """Write the tiles of one setting side by side."""
    settings = {"steps": 24, "cutouts": 8, "folder": folder, "progress": False} | (example.settings or {})
    tiles = [clipgen.generate(example.prompt, **settings | {name: value}).image for value in example.values]
    if name == "tile":
        tiles = [repeat_picture(tile, 2) for tile in tiles]
    labels = [f"{value!s:.12}" or "none" for value in example.values]
    strip = clipgen.strip(tiles, labels)
    strip.thumbnail((WIDTH * len(tiles), strip.height))
    strip.save(FOLDER / f"{name}.webp", quality=80, method=6)


def main() -> None:
    """Draw the pictures of all settings, or of those that are named."""
    FOLDER.mkdir(exist_ok=True)
    with TemporaryDirectory() as folder:
        for name in sys.argv[1:] or PICTURES:
            draw(name, PICTURES[name], folder)


if __name__ == "__main__":
    main()
