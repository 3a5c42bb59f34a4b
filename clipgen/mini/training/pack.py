"""The last stage: every model's averaged weights, the remembered drawings and the held-out ones, into the package."""

from __future__ import annotations

import json

import numpy as np
import torch
from torchvision.utils import make_grid

from clipgen.generators.vqgan import VQModel
from clipgen.images.reading import to_image
from clipgen.mini import WEIGHTS
from clipgen.mini.clip import MiniCLIP
from clipgen.mini.collage import alone, called, cut_out, pack_mask, unpack_mask
from clipgen.mini.training import critic, data, dvae, prior, vqgan
from clipgen.mini.training.training import Job
from clipgen.storage import weights

REMEMBERED = ("noto", "fluent-emoji-flat", "twemoji")  # styles of the collage


def pack(job: Job) -> None:
    """Into ``clipgen/mini/weights``, or ``weights`` in a folder of checkpoints that is not the cache."""
    drawings = data.drawings(job.cache)
    target = WEIGHTS if job.out == job.cache else job.out / "weights"
    target.mkdir(parents=True, exist_ok=True)
    weights.write(target / "clip.safetensors", job.shipped("critic"), critic.CONFIG, ("text.tokens.weight",))
    weights.write(target / "judge.safetensors", job.shipped("evaluator"), {}, ("words.weight",))
    weights.write(target / "vqgan.safetensors", job.shipped("vqgan"), vqgan.CONFIG)
    weights.write(target / "dvae.safetensors", job.shipped("dvae"), dvae.CONFIG)
    weights.write(target / "prior.safetensors", job.shipped("prior"), prior.CONFIG)
    names = [thing.name for thing in drawings.things]
    weights.write(target / "memory.safetensors", remembered(job, drawings), {"names": names})
    rows = drawings.test_set()
    sheet = make_grid(drawings.pictures(rows)[0], nrow=20, padding=0)
    to_image(sheet).save(target / "heldout.webp", lossless=True, quality=100)
    (target / "heldout.json").write_text(json.dumps(drawings.names(rows), indent=0))
    for file in sorted(target.iterdir()):
        print(f"{file.name}  {file.stat().st_size / 1e6:.2f} MB")


@torch.no_grad()
def remembered(job: Job, drawings: data.Drawings) -> dict[str, torch.Tensor]:
    """What the collage keeps of each drawing: its tokens by the VQGAN, its outline and what it shows; and the names."""
    net = job.trained("vqgan", VQModel(**vqgan.CONFIG))
    styles = [data.STYLES.index(style) for style in REMEMBERED]
    keep = np.flatnonzero(np.isin(drawings.style, styles) & ~drawings.held_out())
    clip = job.trained("critic", MiniCLIP(**critic.CONFIG))
    tokens, masks, looks = [], [], []
    for rows in np.split(keep, range(256, len(keep), 256)):
        pictures, alpha = drawings.pictures(rows)
        masks.append(pack_mask(alpha))
        with job.autocast():
            tokens.append(net.tokens(net.encode(pictures.to(job.device))).short().cpu())
            shown = net.decode(net.lookup(tokens[-1].long().to(job.device))).float().cpu()
        looks.append(clip.encode_image(alone(cut_out(shown, unpack_mask(masks[-1])), 64).to(job.device)).cpu())
    thing = torch.from_numpy(drawings.thing[keep]).short()
    embedded = clip.embed_text([called(thing.name) for thing in drawings.things]).cpu()
    kept = {"tokens": torch.cat(tokens), "masks": torch.cat(masks), "looks": torch.cat(looks)}
    return kept | {"thing": thing, "embedded": embedded}
