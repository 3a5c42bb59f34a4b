"""The recipe of the embedded models: ``python -m clipgen.mini.training all --cache DIR``.

Stages, in order: ``text`` (text tower, distilled from all-MiniLM-L6-v2), ``clip`` (both towers, contrastively and
adversarially), ``critic`` (the image tower again, from its own mistakes), ``evaluator`` (a judge that guides nothing),
``vqgan``, ``dvae``, ``prior`` (the second stage, on scenes as the dVAE's tokens) and ``pack`` (everything into
clipgen/mini/weights). Each runs for ``--minutes``, writes a checkpoint every two minutes and continues from it when
started again with more minutes, on a GPU where there is one. Needs ``pip install ".[train]"``.

Beside them, ``bundle`` writes the drawings into one file of 7 MB, ``drawings.xz``, which another machine takes as its
cache, with nothing else but resvg-py: ``first second --cache drawings.xz --out DIR`` trains both stages of DALL-E
there, larger than those that ship, meant for 7 and 8 minutes of a large GPU. ``decoder`` makes the dVAE's edges sharper
and leaves its tokens; ``refine`` fine-tunes the shipped transformer.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from clipgen.device import resolve_device
from clipgen.errors import ClipgenError
from clipgen.mini.training import (
    bundle,
    clip,
    critic,
    decoder,
    dvae,
    evaluator,
    first_stage,
    pack,
    prior,
    refine,
    second_stage,
    text,
    vqgan,
)
from clipgen.mini.training.training import Job

# With the minutes that each gets unless told otherwise.
STAGES: dict[str, tuple[Callable[..., None], float]] = {
    "text": (text.train, 10),
    "clip": (clip.train, 60),
    "critic": (critic.train, 90),
    "evaluator": (evaluator.train, 15),
    "vqgan": (vqgan.train, 60),
    "dvae": (dvae.train, 30),
    "prior": (prior.train, 90),
    "pack": (pack.pack, 0),
}
# Beside them: the drawings in one file, both stages of DALL-E for a GPU, the dVAE's decoder, and fine-tuning.
MORE: dict[str, tuple[Callable[..., None], float]] = {
    "bundle": (bundle.pack, 0),
    "first": (first_stage.train, 7),
    "second": (second_stage.train, 8),
    "decoder": (decoder.train, 240),
    "refine": (refine.train, 60),
}
CAPTIONED = ("text", "prior", "second", "refine")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m clipgen.mini.training", description=__doc__)
    parser.add_argument(
        "stages", nargs="+", choices=[*STAGES, *MORE, "all"], metavar="stage", help=", ".join(STAGES | MORE)
    )
    parser.add_argument(
        "--cache", type=Path, default=Path("mini-cache"), help="where data and checkpoints are kept; or a bundle"
    )
    parser.add_argument(
        "--out", type=Path, help="checkpoints and weights elsewhere (default: the cache and the package)"
    )
    parser.add_argument("--minutes", type=float, help="training time of a stage, on any hardware")
    parser.add_argument(
        "--captions", type=int, help="so many (default: text 60,000, prior 72,000, second 600,000, refine 3,000)"
    )
    parser.add_argument("--batch", type=int, help="pictures or texts of a step (default: as suits the stage)")
    options = parser.parse_args()
    out = options.out or (options.cache.parent if options.cache.is_file() else options.cache)
    out.mkdir(parents=True, exist_ok=True)
    for name in STAGES if "all" in options.stages else options.stages:
        stage, minutes = (STAGES | MORE)[name]
        job = Job(options.cache, out, minutes if options.minutes is None else options.minutes, resolve_device("auto"))
        print(f"{name}: {job}", flush=True)
        extra = {"captions": options.captions} if options.captions and name in CAPTIONED else {}
        extra |= {"batch": options.batch} if options.batch and name not in ("pack", "bundle") else {}
        stage(job, **extra)


if __name__ == "__main__":
    try:
        main()
    except ClipgenError as error:
        sys.exit(str(error))
