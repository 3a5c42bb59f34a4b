"""How far a prompt travels: ``python -m tests.benchmarks.call_chain``.

Counts the functions of clipgen that get the text of the prompt, or its parsed prompts, as an argument before the first
frame of a run with default settings, and how often it is parsed.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import clipgen
from clipgen.prompts import Prompt

PROMPT = "a red apple:2 | a worm:-0.5"
PACKAGE = Path(clipgen.__file__).parent


def carries_prompt(value: Any) -> bool:
    """Return whether an argument is the text, or a list of its prompts."""
    if isinstance(value, str):
        return value == PROMPT
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(item, Prompt) for item in value)


def count_calls() -> Counter[tuple[str, str]]:
    """Return how often each (file, function) gets the prompt before the first frame."""
    calls: Counter[tuple[str, str]] = Counter()

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(str(PACKAGE)) or code.co_name.startswith("<"):
            return
        arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if any(carries_prompt(frame.f_locals.get(name)) for name in arguments):
            calls[str(Path(code.co_filename).relative_to(PACKAGE)), code.co_name] += 1

    with tempfile.TemporaryDirectory() as folder:
        sys.setprofile(note)
        try:
            next(clipgen.stream(PROMPT, steps=2, size=(64, 64), cutouts=2, folder=folder))
        finally:
            sys.setprofile(None)
    return calls


if __name__ == "__main__":
    calls = count_calls()
    for (file, function), count in sorted(calls.items()):
        print(f"{file:24} {function:16} {count}")
    files = {file for file, _ in calls}
    print(f"{len(calls)} functions in {len(files)} files; parsed {calls['prompts.py', 'parse']} times")
