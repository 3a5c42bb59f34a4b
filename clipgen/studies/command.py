"""``clipgen study study.yaml``: a study as a file that can be kept, sent and started again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import clipgen
from clipgen.errors import ClipgenError
from clipgen.images.names import display_path, expand_home
from clipgen.registry import ENGINES
from clipgen.studies.page import check_file
from clipgen.studies.tables import BOOLEANS, MAX_ROWS, load_yaml


def study_command(parser: argparse.ArgumentParser, words: list[str]) -> int:
    """Run the study of a YAML file. Exit status: 0 done, 2 where rows failed, 130 interrupted."""
    source = "the arguments of clipgen.study, and the template as prompt"
    parser.add_argument("source", type=Path, metavar="study.yaml", help=source)
    parser.add_argument("--workers", type=int, metavar="N", help="draw N rows at a time")
    parser.add_argument("--batch", type=int, metavar="N", help="draw N rows in one batch (default: 1)")
    parser.add_argument("--max-rows", type=int, metavar="N", help=f"maximum number of rows (default: {MAX_ROWS})")
    parser.add_argument("--engine", help=" or ".join(ENGINES))
    parser.add_argument("--folder", help="where the runs are kept (default: clipgen-runs/study-<prompt>)")
    files = ".html: a page; .png: the sheet; .csv: the table; repeatable (default: study.html, after study.yaml)"
    parser.add_argument("-o", "--output", action="append", type=expand_home, metavar="FILE", help=files)
    parser.add_argument("--quiet", action="store_true", default=False, help="show no progress bar")
    options = vars(parser.parse_intermixed_args(words))
    source, quiet = options.pop("source"), options.pop("quiet")
    outputs = options.pop("output", None) or [Path(f"{source.stem}.html")]
    for file in outputs:
        check_file(file)
    study = clipgen.study(**_arguments(source) | options, progress=not quiet)
    states = [row.state for row in study.rows]
    if any(row.image for row in study.rows):
        files = " and ".join(str(study.export(file)) for file in outputs)
        best = study.best()
        scores = ", ".join(f"{name} {value:.3f}" for name, value in best.scores.items() if name != "loss")
        print(f"{files} ({'done' if study.finished else 'so far'}); the runs are kept in {display_path(study.folder)}")
        print(f"best: {best.label} ({scores})")
    for row, state in zip(study.rows, states):
        if state.error:
            print(f"clipgen: {row.label}: {state.error}", file=sys.stderr)
    if study.finished:
        return 0
    if all(state.done or state.error for state in states):
        return 2
    print(f"interrupted; go on with: clipgen study {source}", file=sys.stderr)
    return 130


def _arguments(source: Path) -> dict[str, Any]:
    """Return the arguments of ``clipgen.study`` from a YAML file. Raises ClipgenError for one with no names."""
    content = load_yaml(source)
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise ClipgenError(f"{source}: has to be names with values, such as 'prompt: a {{thing}}', 'thing: [cat, dog]'")
    arguments = {name: value for name, value in content.items() if name != "progress"}
    if arguments.get("folder", "") is None:
        raise ClipgenError(f"{source}: folder has no value; write a path or an address, or leave it out")
    if isinstance(arguments.get("folder"), (int, float)):
        arguments["folder"] = str(arguments["folder"])
    if isinstance(word := arguments.get("zip"), str):
        arguments["zip"] = BOOLEANS.get(word.lower(), word)
    return {"template": arguments.pop("prompt", None)} | arguments
