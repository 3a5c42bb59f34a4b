"""Write the list of all settings into settings.md, from their declarations: python notebooks/guide/settings.py"""

from dataclasses import MISSING, Field, fields
from pathlib import Path

import clipgen
from clipgen.cli import GROUPS
from clipgen.setting import bounds_of

PAGE = Path(__file__).with_suffix(".md")
HEADING = "## All settings"
HEADER = "| setting | what it does | default | values |", "|---|---|---|---|"
INTRO = (
    "Settings marked with * can change during a run, with `run.change(...)` or in the Studio. Generators "
    'and recipes can have other defaults: `clipgen.Run("a cat", generator=...).settings` shows them.'
)


def describe_setting(field: Field) -> str:
    """Return the row of a setting."""
    facts = field.metadata
    name = f"`{field.name}`{' *' if facts['live'] else ''}"
    values = ", ".join(f"`{choice}`" for choice in facts["choices"] if choice) or bounds_of(field)
    cells = name, facts["help"], f"`{field.default!r}`", values
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


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
