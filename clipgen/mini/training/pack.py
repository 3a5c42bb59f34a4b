"""The last stage: every model's averaged weights, the drawings' names and the held-out drawings, into the package."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.utils import make_grid

from clipgen.images.reading import to_image
from clipgen.mini import WEIGHTS, everyday_name
from clipgen.mini.clip import MiniCLIP
from clipgen.mini.training import critic, data, dvae, prior, vqgan
from clipgen.mini.training.training import Job, save_weights

LEAST = 0.6  # cosine of a keyword and a name: "copter" and "helicopter" have 0.79, "table" and "ping pong" 0.57
BEST = {  # the drawing that stands for a word; the transformer draws it well
    "arm": "flexed biceps", "bag": "handbag", "ball": "soccer ball", "beer": "beer mug", "box": "package",
    "bride": "woman with veil", "builder": "construction worker", "businessman": "man office worker",
    "cake": "birthday cake", "cat": "cat face", "circle": "red circle", "climber": "person climbing",
    "clock": "alarm clock", "coffee": "hot beverage", "couch": "couch and lamp", "couple": "couple with heart",
    "cup": "hot beverage", "cyclist": "person biking", "dancer": "woman dancing", "demon": "smiling face with horns",
    "devil": "smiling face with horns", "doctor": "health worker", "explosion": "collision", "face": "grinning face",
    "finger": "index pointing up", "fireman": "firefighter", "flower": "blossom", "friends": "people holding hands",
    "glass of juice": "tumbler glass", "golfer": "person golfing", "groom": "man in tuxedo",
    "happy face": "grinning face", "heart": "red heart", "hug": "people hugging", "human": "person",
    "juggler": "person juggling", "juice": "tumbler glass", "kettle": "teapot", "king": "person with crown",
    "lamp": "light bulb", "laughing face": "face with tears of joy", "lightning bolt": "high voltage",
    "monster": "ogre", "nurse": "woman health worker", "ok sign": "OK hand", "painter": "artist",
    "peace sign": "victory hand", "people": "people holding hands", "piano": "musical keyboard",
    "policeman": "man police officer", "policewoman": "woman police officer", "poop": "pile of poo",
    "programmer": "technologist", "queen": "person with crown", "rower": "person rowing boat",
    "runner": "person running", "sad face": "crying face", "santa": "Mx Claus", "santa claus": "Mx Claus",
    "scared face": "face screaming in fear", "shoe": "running shoe", "sick face": "face with thermometer",
    "skeleton": "skull", "smile": "grinning face", "smiley": "grinning face", "smiley face": "grinning face",
    "sofa": "couch and lamp", "soldier": "guard", "spaceman": "astronaut", "spaceship": "flying saucer",
    "square": "blue square", "surfer": "person surfing", "surprised face": "astonished face",
    "swimmer": "person swimming", "tea": "teacup without handle", "thought bubble": "thought balloon",
    "tiger": "tiger face", "toy": "teddy bear", "train": "locomotive", "tree": "deciduous tree",
    "triangle": "red triangle pointed up", "ufo": "flying saucer", "wine": "wine glass", "wink": "winking face",
    "witch": "mage", "wizard": "mage", "worker": "construction worker", "wrestlers": "people wrestling",
    "yeti": "hairy creature", "yoga": "person in lotus position",
}  # fmt: skip


def pack(job: Job) -> None:
    """Into ``clipgen/mini/weights``, or ``weights`` in a folder of checkpoints that is not the cache."""
    drawings = data.drawings(job.cache)
    target = WEIGHTS if job.out == job.cache else job.out / "weights"
    target.mkdir(parents=True, exist_ok=True)
    save_weights(target / "clip.safetensors", job.shipped("critic"), critic.CONFIG, ("text.tokens.weight",))
    save_weights(target / "judge.safetensors", job.shipped("evaluator"), {}, ("words.weight",))
    save_weights(target / "vqgan.safetensors", job.shipped("vqgan"), vqgan.CONFIG)
    save_weights(target / "dvae.safetensors", job.shipped("dvae"), dvae.CONFIG)
    last = "refined" if (job.out / "refined.pt").exists() else "prior"
    save_weights(target / "prior.safetensors", job.shipped(last), prior.CONFIG)
    names = [thing.name for thing in drawings.things]
    with torch.no_grad():
        clip = job.trained("critic", MiniCLIP(**critic.CONFIG))
        embeddings = clip.embed_text([everyday_name(name) for name in names])
    config = {"names": names, "keywords": read_keywords(drawings.things, clip, embeddings)}
    save_weights(target / "names.safetensors", {"embeddings": embeddings.cpu()}, config)
    rows = drawings.test_set()
    sheet = make_grid(drawings.pictures(rows)[0], nrow=20, padding=0)
    to_image(sheet).save(target / "heldout.webp", lossless=True, quality=100)
    (target / "heldout.json").write_text(json.dumps(drawings.names(rows), indent=0))
    for file in sorted(target.iterdir()):
        print(f"{file.name}  {file.stat().st_size / 1e6:.2f} MB")


def read_keywords(things: Sequence[data.Thing], clip: MiniCLIP, embeddings: Tensor) -> dict[str, list[int]]:
    """The things that words which are no names also stand for, by number.

    A keyword is kept if up to three things share it, of those that mini CLIP finds somewhat similar (``LEAST``).
    """
    names = [thing.name for thing in things]
    numbers = defaultdict(list)
    for number, thing in enumerate(things):
        for keyword in thing.keywords:
            numbers[keyword].append(number)
    taken = {name.lower() for thing in names for name in (thing, everyday_name(thing))}
    specific = {word: some for word, some in sorted(numbers.items()) if len(some) <= 3 and word not in taken}
    with torch.no_grad():
        cosines = clip.embed_text(list(specific)) @ embeddings.T if specific else torch.empty(0)
    keywords = {word: [i for i in specific[word] if row[i] >= LEAST] for word, row in zip(specific, cosines)}
    keywords |= {word: [names.index(name)] for word, name in BEST.items() if name in names}
    return {word: some for word, some in keywords.items() if some}
