"""Pictures in a terminal."""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path


def show(file: Path) -> None:
    """Draw a picture into the terminal where its protocol is known (iTerm2, WezTerm, kitty, Ghostty)."""
    if not sys.stdout.isatty() or file.suffix not in (".png", ".gif"):
        return
    data = base64.b64encode(file.read_bytes()).decode()
    if os.environ.get("TERM_PROGRAM") in ("iTerm.app", "WezTerm"):
        print(f"\033]1337;File=inline=1:{data}\a")
    elif file.suffix == ".png" and os.environ.get("TERM") in ("xterm-kitty", "xterm-ghostty"):
        pieces = [data[i : i + 4096] for i in range(0, len(data), 4096)]
        for i, piece in enumerate(pieces):
            first = "a=T,f=100," if i == 0 else ""
            print(f"\033_G{first}m={int(i < len(pieces) - 1)};{piece}\033\\", end="")
        print()
