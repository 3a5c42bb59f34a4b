"""Write the list of all settings into settings.md, from their declarations: python notebooks/guide/settings.py"""

from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, NamedTuple

import clipgen
from clipgen.cli import GROUPS
from clipgen.setting import bounds_of

PAGE = Path(__file__).with_suffix(".md")
HEADING = "## All settings"
INTRO = (
    "Settings marked with * can change during a run, with `run.change(...)` or in the Studio. Generators "
    'and recipes can have other defaults: `clipgen.Run("a cat", generator=...).settings` shows them. '
    "The small pictures are drawn by the built-in models in 24 steps."
)
FOLDER = PAGE.parents[1] / "pictures" / "settings"


class Example(NamedTuple):
    """What a setting's picture shows: a prompt with some values of the setting, and other settings beside them."""

    prompt: str
    values: tuple[Any, ...]
    settings: dict[str, Any] | None = None


NOISE = {"init": "random"}
PICTURES = {  # drawn by pictures.py
    "generator": Example("an apple", ("stack", "fft", "mini-vqgan", "strokes", "shapes", "pen")),
    "negative": Example("an apple", ("", "red:1")),
    "tile": Example("flowers", (False, True), NOISE | {"generator": "mini-vqgan"}),
    "tv": Example("a butterfly", (0, 5), NOISE),
    "sharpness": Example("a butterfly", (0, 1), NOISE),
    "saturation": Example("a fox", (-5, 0, 5), NOISE),
    "fringes": Example("a blue car", (0, 100, 1000)),
    "init": Example("a fox", ("dalle", "random", "perlin", "gradient", "#204080")),
    "lr": Example("a butterfly", (0.05, 0.15, 0.5), NOISE),
}


def describe_setting(field: Field) -> str:
    """Return the row of a setting."""
    facts = field.metadata
    name = f"`{field.name}`{' *' if facts['live'] else ''}"
    values = ", ".join(f"`{choice}`" for choice in facts["choices"] if choice) or bounds_of(facts["low"], facts["high"])
    text = facts["help"].replace("|", "\\|")
    if field.name in PICTURES:
        shown = ", ".join(str(value) or "none" for value in PICTURES[field.name].values)
        text += f"<br>![{field.name}: {shown}](../pictures/settings/{field.name}.webp)"
    cells = name, text, f"`{field.default!r}`", values
    return f"| {' | '.join(cells)} |"


def list_settings() -> str:
    """Return the list of all settings, a table for each group of options."""
    lines = [HEADING, "", INTRO]
    declared = [field for field in fields(clipgen.Settings) if field.default is not MISSING]
    for title, sections in GROUPS.items():
        rows = [describe_setting(field) for field in declared if field.metadata["section"] in sections]
        lines += [
            "",
            f"### {title[0].upper()}{title[1:]}",
            "",
            "| setting | what it does | default | values |",
            "|---|---|---|---|",
            *rows,
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the list."""
    PAGE.write_text(f"{PAGE.read_text().split(HEADING)[0].rstrip()}\n\n{list_settings()}")


if __name__ == "__main__":
    main()
