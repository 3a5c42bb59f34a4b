"""The recipe of the embedded models: ``python -m clipgen.mini.recipe all --cache DIR``.

Stages, in order: ``text`` (text tower, distilled from all-MiniLM-L6-v2), ``clip`` (both towers, contrastively and
adversarially), ``critic`` (the image tower again, from its own mistakes), ``evaluator`` (a judge that guides nothing),
``vqgan``, ``dvae``, ``prior`` (the second stage, on scenes as the dVAE's tokens) and ``pack`` (everything into
clipgen/mini/weights). Each runs for ``--minutes``, writes a checkpoint every two minutes and goes on from it when it is
started again with more minutes, on a GPU where there is one. Needs ``pip install ".[train]"``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from clipgen.device import pick
from clipgen.errors import ClipgenError
from clipgen.mini.recipe import clip, critic, dvae, evaluator, pack, prior, text, vqgan
from clipgen.mini.recipe.training import Job

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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m clipgen.mini.recipe", description=__doc__)
    parser.add_argument("stage", choices=[*STAGES, "all"])
    parser.add_argument("--cache", type=Path, default=Path("mini-cache"), help="where data and checkpoints are kept")
    parser.add_argument(
        "--out", type=Path, help="checkpoints and weights elsewhere (default: the cache and the package)"
    )
    parser.add_argument("--minutes", type=float, help="training time of a stage, on any hardware")
    parser.add_argument(
        "--captions", type=int, help="so many for the text tower and the prior (default: 60,000 and 72,000)"
    )
    options = parser.parse_args()
    out = options.out or options.cache
    out.mkdir(parents=True, exist_ok=True)
    for name in STAGES if options.stage == "all" else [options.stage]:
        stage, minutes = STAGES[name]
        job = Job(options.cache, out, minutes if options.minutes is None else options.minutes, pick("auto"))
        print(f"{name}: {job}", flush=True)
        extra = {"captions": options.captions} if options.captions and name in ("text", "prior") else {}
        stage(job, **extra)


if __name__ == "__main__":
    try:
        main()
    except ClipgenError as error:
        sys.exit(str(error))
