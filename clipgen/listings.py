"""What there is, as tables: ``clipgen models`` and ``clipgen cache``."""

from __future__ import annotations

import argparse
import sys


def models() -> str:
    """The generators and perceptors that are known by name, as a table."""
    import open_clip

    from clipgen.clip.openclip import remote
    from clipgen.generators.catalogue import GENERATORS
    from clipgen.storage.remote import Remote, cached

    def here(files: tuple[Remote, ...]) -> str:
        return "cached" if all(map(cached, files)) else "-"

    row = "{:42}{:>9}{:>8}{:>10}  {:15}{:10}{}".format
    lines = [row("generator", "size", "stride", "codebook", "licence", "here", "settings that suit it")]
    for name, entry in GENERATORS.items():
        size = f"{entry.megabytes:.0f} MB" if entry.files else "-"
        state = here(entry.files) if entry.files else "embedded" if entry.codes else "no weights"
        suits = " ".join(f"{setting}={value}" for setting, value in entry.defaults.items())
        lines.append(row(name, size, f"f{entry.stride}", entry.codes or "-", entry.licence, state, suits).rstrip())
    lines += ["", row("perceptor", "pixels", "", "", "licence", "here", "").rstrip()]
    lines += [row(name, "64", "", "", "see model card", "embedded", "").rstrip() for name in ("mini", "evaluator")]
    for architecture, tag in open_clip.list_pretrained():
        config = open_clip.get_model_config(architecture) or {}
        pixels = config.get("vision_cfg", {}).get("image_size", "")
        pixels = "x".join(map(str, pixels)) if isinstance(pixels, (list, tuple)) else pixels
        licence = "MIT" if tag == "openai" else "see hub page"
        state = here((remote(architecture, tag),))
        lines.append(row(f"{architecture}/{tag}", pixels, "", "", licence, state, "").rstrip())
    return "\n".join(lines)


def downloads(about: str, words: list[str]) -> int:
    """List what lies in the cache folder; with --prune, delete what is not needed any more."""
    from clipgen.storage import cache

    command = argparse.ArgumentParser("clipgen cache", description=about)
    command.add_argument("--prune", action="store_true", help="delete what is marked with *")
    asked, found = command.parse_args(words).prune, cache.items()
    for item in found:
        print(f"{item.megabytes:10.1f} MB {'*' if item.spare else ' '} {item.file}  ({item.kind})")
    spare = [item for item in found if item.spare]
    total, less = (sum(item.megabytes for item in some) for some in (found, spare))
    print(f"{total:10.1f} MB; not needed any more (*, what --prune deletes): {less:.1f} MB")
    asking = sys.stdin is not None and sys.stdin.isatty()
    if asked and spare and (not asking or input("Delete these? [y/N] ").strip().lower() in ("y", "yes")):
        print(f"deleted: {len(cache.prune())} files")
    return 0
