"""How good the built-in models are: ``python -m clipgen.mini.training.evaluate``, offline.

Retrieval on held-out drawings, PSNR and codebook use of the autoencoders, and R-precision of generated pictures:
how often the evaluator, which guided none of them, picks a picture's prompt among all 100 of its set.
Sets: ``hundred`` plain prompts, ``seen`` and ``held-out`` combinations (a colour of a thing, or two things)
that training showed or left out on purpose, ``drawings`` (names of held-out drawings). Ways: ``noise`` (guidance from
where the generator begins), ``transformer`` (one drawing), ``rerank`` (the best of 16 by mini CLIP), ``default`` (as
clipgen draws: each thing drafted alone, guidance from there), ``steer`` (half of
the steps towards another prompt), ``picture`` (an image prompt alone, from noise), ``half`` (a masked half of one).
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations as pairings
from itertools import product
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

import clipgen
from clipgen.cli import CommandParser, add_settings
from clipgen.clip import Perceptor
from clipgen.generators.codebook import Codebook
from clipgen.images.reading import to_tensor
from clipgen.mini import PROMPTS, drawing_names, held_out
from clipgen.mini.scenes import COLOURS, with_article
from clipgen.mini.training.data import fraction, is_held_out
from clipgen.mini.training.vqgan import psnr
from clipgen.mini.training.ways import WAYS


@torch.no_grad()
def retrieval(model, images: Tensor, names: Sequence[str]) -> tuple[float, float]:
    """Top-1 and top-5: is a picture's own caption the nearest, or among the five nearest, of all captions?"""
    seen, named = model.encode_image(F.avg_pool2d(images, 2)), model.embed_text([f"a {name}" for name in names])
    return ranks(seen @ named.T)


def ranks(likeness: Tensor) -> tuple[float, float]:
    """Top-1 and top-5 of pictures (rows) and texts (columns) in the same order."""
    right = torch.arange(len(likeness), device=likeness.device)[:, None]
    rank = likeness.argsort(1, descending=True) == right
    return float(rank[:, 0].float().mean()), float(rank[:, :5].any(1).float().mean())


@torch.no_grad()
def r_precision(
    judge: Perceptor, images: list[Image.Image], prompts: Sequence[str], candidates: Sequence[str]
) -> list[bool]:
    """For each picture, whether the judge finds its prompt the likeliest of the candidates."""
    pictures = torch.cat([to_tensor(image, (64, 64)) for image in images])
    likeness = judge.encode_image(pictures) @ judge.embed_text(list(candidates)).T
    return [candidates[i] == p for i, p in zip(likeness.argmax(1).tolist(), prompts, strict=True)]


@torch.no_grad()
def reconstruction(generator: Codebook, images: Tensor) -> tuple[float, int]:
    """Encode and decode (N, 3, H, W) images; return the mean PSNR in dB and the number of different codes used."""
    latents = [generator.encode(batch) for batch in images.split(32)]
    decoded = torch.cat([generator.image(latent) for latent in latents])
    tokens = torch.cat([generator.tokens(latent) for latent in latents])
    return psnr(decoded, images), tokens.unique().numel()


def saturated(images: Sequence[Image.Image]) -> float:
    """The share of the pictures' pixels that have a channel at either end of its range: where a clamp held them."""
    ends = [((pixels := to_tensor(image, image.size)) <= 0) | (pixels >= 1) for image in images]
    return torch.cat([end.any(1).flatten() for end in ends]).float().mean().item()


def interval(hits: int, count: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share."""
    share, z = hits / count, 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    reach = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return middle - reach, middle + reach


def combinations(unseen: bool) -> list[str]:
    """60 coloured things and 40 pairs that training left out (``data.is_held_out``), or as many that it did not."""
    known = set(drawing_names().names)
    words = [p.removeprefix("a ").removeprefix("an ").removeprefix("the ") for p in PROMPTS]
    plain = [word for word in words if not set(word.split()) & set(COLOURS)]
    names = {word: name for word in plain for name in (f"{word} face", word) if name in known}

    coloured = [with_article(f"{c} {word}") for word in names for c in COLOURS if is_held_out(c, names[word]) == unseen]
    pairs = [
        f"{with_article(x)} and {with_article(y)}"
        for x, y in pairings(names, 2)
        if is_held_out(names[x], names[y]) == unseen
    ]
    coloured, pairs = sorted(coloured, key=fraction), sorted(pairs, key=fraction)
    # In turns, so that the first few are as fair a sample as all.
    return [prompt for i in range(20) for prompt in (*coloured[3 * i : 3 * i + 3], *pairs[2 * i : 2 * i + 2])]


SETS: dict[str, Callable[[], list[str]]] = {
    "hundred": lambda: PROMPTS,
    "seen": lambda: combinations(False),
    "held-out": lambda: combinations(True),
    "drawings": lambda: [f"a {name}" for name in held_out()[1][:100]],
}
USUAL_SETS, USUAL_WAYS = ["hundred", "seen", "held-out"], ["noise", "transformer", "rerank", "default"]


def names_of(known: Mapping[str, Any]) -> Callable[[str], list[str]]:
    """The type of an option that takes some of ``known``."""

    def read(text: str) -> list[str]:
        names = text.split(",")
        if wrong := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{wrong[0]!r}: choose of {','.join(known)}")
        return names

    return read


def blind(made: Sequence[tuple[str, str, Image.Image]], others: Sequence[str], folder: Path, count: int = 60) -> None:
    """Pictures to be named by somebody who does not know how they were made, or of what.

    Of (way, prompt, picture), in another order: ``sheet.png`` has the pictures with numbers, ``candidates.txt`` their
    prompts among others, ``count`` or as many as there are, and ``key.csv`` what each number is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(len(made))
    shuffled = rng.sample(list(made), len(made))
    shown = {prompt for _, prompt, _ in made}
    rest = [prompt for prompt in others if prompt not in shown]
    candidates = shown | set(rng.sample(rest, min(len(rest), max(0, count - len(shown)))))
    (folder / "candidates.txt").write_text("".join(f"{prompt}\n" for prompt in sorted(candidates)))
    key = [f"{number},{way},{prompt}\n" for number, (way, prompt, _) in enumerate(shuffled, 1)]
    (folder / "key.csv").write_text("".join(key))
    labels = [str(number) for number in range(1, len(made) + 1)]
    clipgen.contact_sheet([image for *_, image in shuffled], 8, labels).save(folder / "sheet.png")


def main() -> None:
    parser = CommandParser(prog="python -m clipgen.mini.training.evaluate", description=__doc__)
    parser.add_argument("--sets", type=names_of(SETS), default=USUAL_SETS, help=f"some of {','.join(SETS)}")
    parser.add_argument("--ways", type=names_of(WAYS), default=USUAL_WAYS, help=f"some of {','.join(WAYS)}")
    parser.add_argument("--pictures", type=int, default=20, help="draw the first N of the 100 prompts of a set")
    parser.add_argument("--sheet", type=Path, help="write the pictures as contact sheets")
    parser.add_argument("--blind", type=Path, help="a folder for the pictures by number, candidates, and the key")
    add_settings(parser)
    settings = vars(parser.parse_intermixed_args())
    sets, ways, count, sheet, hidden = (settings.pop(name) for name in ("sets", "ways", "pictures", "sheet", "blind"))
    if "picture" in ways and sets != ["drawings"]:
        parser.error("--ways picture: shows held-out drawings; add --sets drawings")

    images, names = held_out()
    judge = clipgen.load_perceptor("evaluator", precision="fp32")
    for title, model in (("mini CLIP", clipgen.load_perceptor("mini")), ("evaluator", judge)):
        top1, top5 = retrieval(model, images, names)
        print(f"retrieval, {title}: top-1 {top1:.3f}, top-5 {top5:.3f} of {len(names)} held-out drawings")
    for name in ("mini-vqgan", "mini-dvae"):
        generator = cast(Codebook, clipgen.load_generator(name))
        quality, used = reconstruction(generator, images)
        print(f"{name}: {quality:.2f} dB PSNR, {used} of {len(generator.codebook)} codes used")

    print(f"R-precision among 100 prompts, {min(count, 100)} pictures each, with 95% intervals:")
    made: list[tuple[str, str, Image.Image]] = []
    for chosen, way in product(sets, ways):
        prompts, began = SETS[chosen](), time.monotonic()
        asked = prompts[:count]
        with tempfile.TemporaryDirectory() as folder:
            pictures = [WAYS[way](prompts, i, folder=folder, **settings) for i in tqdm(range(len(asked)), leave=False)]
        seconds = (time.monotonic() - began) / len(pictures)
        right = r_precision(judge, pictures, asked, prompts)
        low, high = interval(sum(right), len(right))
        missed = [prompt for prompt, hit in zip(asked, right) if not hit]
        score = f"{sum(right) / len(right):.3f} ({low:.3f} to {high:.3f})"
        ends = f"{100 * saturated(pictures):.1f}% of their pixels saturated"
        print(f"{chosen:9} {way:12} {score}, {seconds:.1f} s a picture, {ends}; missed: {', '.join(missed) or 'none'}")
        made += zip([way] * len(asked), asked, pictures)
        if sheet:
            several = len(sets) * len(ways) > 1
            file = sheet.with_stem(f"{sheet.stem}-{chosen}-{way}") if several else sheet
            clipgen.contact_sheet(pictures, 4 if len(pictures) < 20 else 10, asked).save(file)
    if hidden:
        blind(made, [prompt for chosen in sets for prompt in SETS[chosen]()], hidden)


if __name__ == "__main__":
    main()
