"""The last stage: every model's averaged weights, the drawings' names and the held-out drawings, into the package."""

from __future__ import annotations

import json

import torch
from torchvision.utils import make_grid

from clipgen.images.reading import to_image
from clipgen.mini import WEIGHTS, everyday_name
from clipgen.mini.clip import MiniCLIP
from clipgen.mini.training import critic, data, dvae, prior, vqgan
from clipgen.mini.training.training import Job, save_weights


def pack(job: Job) -> None:
    """Into ``clipgen/mini/weights``, or ``weights`` in a folder of checkpoints that is not the cache."""
    drawings = data.drawings(job.cache)
    target = WEIGHTS if job.out == job.cache else job.out / "weights"
    target.mkdir(parents=True, exist_ok=True)
    save_weights(target / "clip.safetensors", job.shipped("critic"), critic.CONFIG, ("text.tokens.weight",))
    save_weights(target / "judge.safetensors", job.shipped("evaluator"), {}, ("words.weight",))
    save_weights(target / "vqgan.safetensors", job.shipped("vqgan"), vqgan.CONFIG)
    save_weights(target / "dvae.safetensors", job.shipped("dvae"), dvae.CONFIG)
    save_weights(target / "prior.safetensors", job.shipped("prior"), prior.CONFIG)
    names = [thing.name for thing in drawings.things]
    with torch.no_grad():
        clip = job.trained("critic", MiniCLIP(**critic.CONFIG))
        embeddings = clip.embed_text([everyday_name(name) for name in names])
    save_weights(target / "names.safetensors", {"embeddings": embeddings.cpu()}, {"names": names})
    rows = drawings.test_set()
    sheet = make_grid(drawings.pictures(rows)[0], nrow=20, padding=0)
    to_image(sheet).save(target / "heldout.webp", lossless=True, quality=100)
    (target / "heldout.json").write_text(json.dumps(drawings.names(rows), indent=0))
    for file in sorted(target.iterdir()):
        print(f"{file.name}  {file.stat().st_size / 1e6:.2f} MB")
