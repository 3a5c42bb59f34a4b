"""Whether a commit draws the very frames of another: ``python -m tests.benchmarks.frames --against COMMIT``.

For changes that move code and must not move a pixel. Both commits make the same runs, each in a process of its own, and
the SHA-256 of all frames of each run are compared. Frames depend on the machine, so nothing is stored.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
SMALL = {"steps": 24, "every": 3, "cutouts": 6, "size": (96, 64)}


def runs(folder: Path) -> dict[str, Callable[[], object]]:
    """What is made, by name; each returns a run, a journal or pictures."""
    import numpy as np
    from PIL import Image

    import clipgen

    rows = np.linspace(0, 255, 96, dtype=np.uint8)
    photo = Image.fromarray(
        np.stack([np.tile(rows, (64, 1)), np.full((64, 96), 90, np.uint8), np.tile(rows[::-1], (64, 1))], -1)
    )
    tree = Image.new("RGB", (96, 64), "skyblue")
    tree.paste((30, 140, 40), (30, 8, 66, 44))

    def run(prompt, **settings):
        made = clipgen.Run(prompt, folder=folder, **(SMALL | settings))
        list(made)
        return made

    def steered(**settings):
        made = clipgen.Run("a cat", folder=folder, **(SMALL | settings))
        for frame in made:
            if frame.step == 6:
                made.change(prompt="fire:2 | snow:-0.5", lr=0.3)
            if frame.step == 12:
                made.change(mask="left", symmetry=0.5, near=2.0)
        return made

    def resumed():
        made = clipgen.Run("a cat", folder=folder, **SMALL)
        for frame in made:
            if frame.step == 6:
                made.change(prompt="fire", tv=0.3)
            if frame.step == 12:
                made.stop()
        made = clipgen.Run.resume(made.journal.folder)
        list(made)
        return made

    def replayed():
        made = clipgen.Run.replay(steered().journal.folder, folder=folder)
        list(made)
        return made

    def branched():
        made = run("a cat").branch(12, prompt="a dog", steps=12, folder=folder)
        list(made)
        return made

    def threaded():
        made = clipgen.Run("a cat", folder=folder, **SMALL)
        for frame in made:
            if frame.step == 9:
                thread = threading.Thread(target=made.change, kwargs={"near_space": "clip", "near": 3.0})
                thread.start()
                thread.join()
        return made

    return {
        "default": lambda: run("a red apple", steps=45, size=None, cutouts=16),
        "dvae": lambda: run("a sunflower", generator="mini-dvae"),
        "random codes": lambda: run("a fox", init="random", optimizer="AdamW", schedule="linear"),
        "gumbel": lambda: run("a cat", generator="mini-dvae", relax="gumbel", size=(64, 64)),
        "story": lambda: run("the sea@0-14 | fire@8-24"),
        "spots, a stop and a negative": lambda: run("the sea:1:0.6 | the moon [top]:2 | fog:-0.3"),
        "a photo, its lower half repainted": lambda: run("fire", init=photo, mask="bottom"),
        "a photo, near it in pixels": lambda: run("fire", init=photo, near=3.0, near_space="pixels", near_fade=1.0),
        "an image prompt": lambda: run([tree, "snow:-0.2"], init="grey"),
        "a camera": lambda: run("a tunnel", camera="zoom=1.03, angle=2@6-18", init="perlin"),
        "a camera over logits": lambda: run(
            "a tunnel", camera="x=0.02", generator="mini-dvae", relax="gumbel", init="perlin", size=(64, 64)
        ),
        "regularisers and a palette": lambda: run(
            "a rose",
            tv=0.2,
            saturation=0.5,
            sharpness=0.1,
            symmetry=1.0,
            palette="navy, #ffcc00, white",
            palette_weight=2.0,
        ),
        "a loss of one's own": lambda: run("a rose", losses=[lambda image, latent, step: image[:, 2].mean()]),
        "every augmentation, cosine": lambda: run(
            "a bee",
            distance="cosine",
            ema=0.5,
            every=1,
            steps=9,
            passes=2,
            augment="flip,affine,perspective,colour,noise,erase,blur",
        ),
        "a drawing by the transformer": lambda: run("a red car in the snow", init="dalle", size=(128, 128), steps=9),
        "SGD": lambda: run("fire", optimizer="SGD", lr=5.0, init="gradient"),
        "draft": lambda: run("a cat", quality="draft", steps=30, size=None),
        "steered": steered,
        "steered from a thread": threaded,
        "resumed": resumed,
        "replayed": replayed,
        "branched": branched,
        "restyled": lambda: clipgen.restyle(
            [photo, tree], "a painting", steps=6, cutouts=4, size=(96, 64), folder=folder, progress=False
        ),
        "drawings": lambda: clipgen.dalle("a red car in the snow", n=4).images,
        "a drawing completed": lambda: clipgen.dalle("a house", n=2, image=photo, keep="top").images,
    }


def make(names: list[str]) -> dict[str, str]:
    """The hash of every run's frames."""
    import torch

    torch.set_num_threads(1)
    hashes = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, draw in runs(Path(folder)).items():
            if not names or name in names:
                made = draw()
                journal = getattr(made, "journal", made)
                frames = made if isinstance(made, list) else list(journal.frames())
                hashes[name] = hashlib.sha256(b"".join(frame.tobytes() for frame in frames)).hexdigest()[:16]
                print(f"{name}: {hashes[name]} ({len(frames)} frames)", file=sys.stderr, flush=True)
    return hashes


def main() -> int:
    """Exit status: 0 when every run has the same frames in both."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.frames", description=__doc__)
    parser.add_argument("--against", help="a commit")
    parser.add_argument("--only", nargs="*", default=[], help="some of the runs")
    options = parser.parse_args()
    if not options.against:
        print(json.dumps(make(options.only)))
        return 0
    made = []
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", tree, options.against], cwd=ROOT, check=True)
        try:
            for place in (tree, ROOT):
                command = [sys.executable, Path(__file__).resolve(), "--only", *options.only]
                done = subprocess.run(
                    command,
                    cwd=scratch,
                    env=os.environ | {"PYTHONPATH": str(place)},
                    check=True,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                made.append(json.loads(done.stdout.splitlines()[-1]))
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=True)
    before, now = made
    for name, frames in before.items():
        print(f"{'same' if now[name] == frames else 'OTHER':6} {frames} {now[name]}  {name}")
    same = sum(now[name] == frames for name, frames in before.items())
    print(f"{same} of {len(before)} runs have the frames of {options.against}")
    return int(same < len(before))


if __name__ == "__main__":
    sys.exit(main())
