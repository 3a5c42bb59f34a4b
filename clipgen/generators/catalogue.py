"""The generators that are known by name, as data: adding a checkpoint is one line.

Addresses, sizes and checksums are those of the publishers' pages and of the notebooks of 2021: CompVis'
taming-transformers (heibox), openai/DALL-E, FoundationVision/LlamaGen, madebyollin/taesd. The SHA-256 of the VQGANs
are those that pytti-core and PyTTI Portable use the mirrors ``Somnai/pytti-vqgan-checkpoints`` (with a manifest, at the
revision given here) and ``pxlpshr/pytti-models`` with; where both know a file, they agree.
"""

from __future__ import annotations

from dataclasses import replace
from os.path import isfile
from pathlib import Path
from typing import Any

import torch

from clipgen import device as devices
from clipgen.errors import ClipgenError
from clipgen.generators import defaults
from clipgen.generators.entry import Entry, relaxation
from clipgen.generators.protocol import Parameterisation
from clipgen.registry import RELAXATIONS, attribute, unknown
from clipgen.storage.remote import Remote

_HERE = "clipgen.generators"
MOST = 4096  # marks of a drawing


_F16: dict[str, Any] = {
    "embed_dim": 256,
    "z_channels": 256,
    "ch": 128,
    "ch_mult": (1, 1, 2, 2, 4),
    "num_res_blocks": 2,
    "attn_resolutions": (16,),
}
_F8 = _F16 | {"ch_mult": (1, 1, 2, 4), "attn_resolutions": (32,)}
_VQ16 = _F16 | {"embed_dim": 8, "n_embed": 16384}
_VQ8 = _VQ16 | {"ch_mult": (1, 2, 2, 4), "attn_resolutions": (32,)}


def _heibox(share: str, path: str) -> str:
    return f"https://heibox.uni-heidelberg.de/d/{share}/files/?p={path.replace('/', '%2F')}&dl=1"


def _taming(
    name: str,
    codes: int,
    megabytes: float,
    *sources: str,
    sha256: str | None = None,
    base=_F16,
    licence: str = "MIT",
    bulky: bool = False,
    **config,
) -> Entry:
    """``sha256``: of all the sources but those that say something of their own behind a ``#``."""
    marked = tuple(f"{source}#sha256={sha256}" if sha256 and "#" not in source else source for source in sources)
    file = Remote(f"{name}/last.ckpt", marked, megabytes, bulky=bulky)
    stride = 2 ** (len(base["ch_mult"]) - 1)
    return Entry(
        f"{_HERE}.taming:load",
        (file,),
        base | {"n_embed": codes} | config,
        licence,
        stride=stride,
        codes=codes,
        logits=config.get("gumbel", False),
        defaults=defaults.VQGAN,
        notebook_size=True,
    )


def _llamagen(file: str, repo: str, config: dict[str, Any]) -> Entry:
    remote = Remote(f"llamagen/{file}", (f"hf:{repo}/{file}",), 300)
    stride = 2 ** (len(config["ch_mult"]) - 1)
    return Entry(
        f"{_HERE}.taming:load_llamagen", (remote,), config, stride=stride, codes=16384, defaults=defaults.LLAMAGEN
    )


_OPENAI, _PYTTI = "https://cdn.openai.com/dall-e", "hf:pxlpshr/pytti-models/vqgan"
_SOMNAI = "hf:Somnai/pytti-vqgan-checkpoints@debc22c8f285c7734980c464ff992d335dde6e9a"
_PIXRAY = "https://github.com/pixray/pixray/releases/download/v1.7.1"

_IMAGENET_16384 = _taming(
    "vqgan_imagenet_f16_16384",
    16384,
    980,
    _heibox("a7530b09fed84f80a887", "/ckpts/last.ckpt"),
    f"{_PYTTI}/imagenet.ckpt",
    f"{_SOMNAI}/imagenet/imagenet.ckpt",
    sha256="845a68805098cb666420d5db93df53f3a3b6dd443e6dd85c05759c5b998cd663",
)


def _taesd(name: str, channels: int, megabytes: float) -> Entry:
    file = "diffusion_pytorch_model.safetensors"
    remote = Remote(f"{name}/{file}", (f"hf:madebyollin/{name}/{file}",), megabytes)
    return Entry(
        f"{_HERE}.vae:load", (remote,), {"channels": channels}, side=512, stride=8, defaults=defaults.CONTINUOUS
    )


_DRAWN = {"licence": "-", "side": 128, "stride": 1}
_MINI = {"licence": "see model card", "side": 128, "stride": 8, "codes": 1024}

GENERATORS: dict[str, Entry] = {
    "mini-vqgan": Entry("clipgen.mini.autoencoders:load_vqgan", wide=True, settled=1.0, **_MINI),  # type: ignore[arg-type]
    "mini-dvae": Entry("clipgen.mini.autoencoders:load_dvae", logits=True, **_MINI),  # type: ignore[arg-type]
    "pixels": Entry(f"{_HERE}.pixels:load", licence="-", side=128, stride=1, defaults=defaults.BARE | {"lr": 0.3}),
    "fft": Entry(f"{_HERE}.fft:load", licence="-", side=128, stride=1, defaults=defaults.FFT),
    "stack": Entry(f"{_HERE}.stack:load", defaults=defaults.BARE | {"lr": 0.08}, settled=2.0, **_DRAWN),  # type: ignore[arg-type]
    "strokes": Entry(f"{_HERE}.strokes:load", config={"marks": 128}, defaults=defaults.STROKES, **_DRAWN),  # type: ignore[arg-type]
    "shapes": Entry(f"{_HERE}.shapes:load", config={"marks": 96}, defaults=defaults.STROKES, **_DRAWN),  # type: ignore[arg-type]
    "pen": Entry(f"{_HERE}.strokes:load_pen", config={"marks": 192}, defaults=defaults.STROKES, **_DRAWN),  # type: ignore[arg-type]
    "taesd": _taesd("taesd", 4, 9.8),
    "taesdxl": _taesd("taesdxl", 4, 9.8),
    "taef1": _taesd("taef1", 16, 9.9),
    "dvae": Entry(
        f"{_HERE}.dvae:load",
        (
            Remote("dvae/encoder.pkl", (f"{_OPENAI}/encoder.pkl",), 216),
            Remote("dvae/decoder.pkl", (f"{_OPENAI}/decoder.pkl",), 176),
        ),
        licence="modified MIT",
        stride=8,
        codes=8192,
        logits=True,
        defaults=defaults.DVAE,
        notebook_size=True,
    ),
    "vqgan_imagenet_f16_1024": _taming(
        "vqgan_imagenet_f16_1024",
        1024,
        958,
        _heibox("8088892a516d4e3baf92", "/ckpts/last.ckpt"),
        "hf:thomwolf/vqgan_imagenet_f16_1024/pytorch_model.bin#megabytes=359",  # without the optimisers' state
    ),
    "vqgan_imagenet_f16_16384": _IMAGENET_16384,
    # What DALL-E mini's and mega's tokens are of: the same file, says the card of dalle-mini/vqgan_imagenet_f16_16384.
    # Dayma's notebooks (encode_dataset, inference_pipeline), and min-dalle, show it pixels in [0, 1] and take them so.
    "dalle_mini_f16_16384": replace(_IMAGENET_16384, config={**_IMAGENET_16384.config, "low": 0.0}),
    # The same model, fine-tuned on photographs of people: the tokens of the first DALL-E mini, of July 2021.
    "vqgan_yfcc_f16_16384": _taming(
        "vqgan_yfcc_f16_16384",
        16384,
        980,
        "hf:boris/vqgan_f16_16384/model.ckpt",
        licence="see hub page",
    ),
    "vqgan_openimages_f8_8192": _taming(
        "vqgan_openimages_f8_8192",
        8192,
        377,
        _heibox("2e5662443a6b4307b470", "/ckpts/last.ckpt"),
        f"{_PYTTI}/openimages.ckpt",
        f"{_SOMNAI}/openimages/openimages.ckpt",
        sha256="5cd6c74810ab97e00e942c25403f73afc081e8b19987b31ec0d9ff5b68e7ab14",
        base=_F8,
        gumbel=True,
    ),
    "wikiart_f16_1024": _taming(
        "wikiart_f16_1024",
        1024,
        957,
        f"{_PIXRAY}/vqgan_wikiart_1024.ckpt",
        licence="not stated",
    ),
    "wikiart_f16_16384": _taming(
        "wikiart_f16_16384",
        16384,
        1005,
        f"{_PYTTI}/wikiart.ckpt",
        f"{_SOMNAI}/wikiart/wikiart.ckpt",
        f"{_PIXRAY}/vqgan_wikiart_16384.ckpt",
        sha256="bd08bb46301f98be1712bb2be9f8868cea30b53137cd985d4d6e8da8b3e02c36",
        licence="not stated",
    ),
    "coco": _taming(
        "coco",
        8192,
        296,
        f"{_PYTTI}/coco_first_stage.ckpt",
        f"{_SOMNAI}/coco/coco.ckpt",
        sha256="106cc20fde571df14afc4349d62218d8213cf47177c682ecaa78a8c28b12f9de",
    ),
    "faceshq": _taming(
        "faceshq",
        1024,
        3860,
        f"{_SOMNAI}/faceshq/faceshq.ckpt",  # the publisher's own link gives a web page
        sha256="3274bba51bd565c90990bbcf7bb5dad0b9b95a6a77011980afc4c3cfc4d1cad1",
        bulky=True,
    ),
    "sflckr": _taming(
        "sflckr",
        1024,
        4264,
        _heibox("73487ab6e5314cb5adba", "/checkpoints/last.ckpt"),
        f"{_PYTTI}/sflckr.ckpt",
        f"{_SOMNAI}/sflickr/sflickr.ckpt",
        sha256="8a8adea3da8dab412675772831370dd948e0aa97bb11a9488a2f328b58dbc929",
        bulky=True,
    ),
    "llamagen_vq16": _llamagen("vq_ds16_c2i.pt", "FoundationVision/LlamaGen", _VQ16),
    "llamagen_vq16_t2i": _llamagen("vq_ds16_t2i.pt", "peizesun/llamagen_t2i", _VQ16),  # of its text models
    "llamagen_vq8": _llamagen("vq_ds8_c2i.pt", "FoundationVision/LlamaGen", _VQ8),
}


ALIASES = {
    "vqgan": "vqgan_imagenet_f16_16384",
    "imagenet": "vqgan_imagenet_f16_16384",
    "imagenet-16384": "vqgan_imagenet_f16_16384",
    "imagenet-1024": "vqgan_imagenet_f16_1024",
    "openimages": "vqgan_openimages_f8_8192",
    "wikiart": "wikiart_f16_16384",
    "wikiart-16384": "wikiart_f16_16384",
    "wikiart-1024": "wikiart_f16_1024",
    "dalle": "dvae",
}
"""The short names that people use, each for the generator that the notebooks of 2021 meant by it."""


def canonical_name(name: str) -> str:
    """Return the name under which the catalogue has a generator; any other name as it is."""
    return ALIASES.get(name, name)


def entry_of(name: str) -> Entry:
    """What is known of a generator: by its name or alias, or by a checkpoint's path and the yaml beside it.

    Raises ClipgenError for an unknown name and for a checkpoint without its yaml.
    """
    name = canonical_name(name)
    if name in GENERATORS:
        return GENERATORS[name]
    kind, _, number = name.partition(":")
    if kind in GENERATORS and GENERATORS[kind].vectors:
        if not (number.isdecimal() and len(number) < 10 and 1 <= int(number) <= MOST):
            raise ClipgenError(f"generator={name!r}: behind {kind}: stands how many there are, from 1 to {MOST}")
        return replace(GENERATORS[kind], config={"marks": int(number)})
    if isfile(name):  # of a name that is too long for a path, too
        config = attribute(f"{_HERE}.taming:config_beside")(Path(name))
        stride = 2 ** (len(config["ch_mult"]) - 1)
        place = f"{_HERE}.taming:load_file"
        codes, logits = config["n_embed"], config["gumbel"]
        return Entry(place, (), config, "yours", stride=stride, codes=codes, logits=logits, defaults=defaults.VQGAN)
    if name.startswith("hf-hub:"):
        config = attribute(f"{_HERE}.vae:hub_config")(name)
        place = f"{_HERE}.vae:load_hub"
        return Entry(place, (), config, "see hub page", side=512, stride=config["stride"], defaults=defaults.CONTINUOUS)
    raise unknown("generator", name, GENERATORS, ", hf-hub:org/name (an autoencoder), or the path of a checkpoint")


def load_generator(
    name: str = "mini-vqgan",
    device: torch.device | str = "cpu",
    relax: str = "straight-through",
    precision: str = "auto",
) -> Parameterisation:
    """A generator by its name in the catalogue or by its checkpoint's path, ready on ``device``.

    A path: a VQGAN's checkpoint with its yaml beside it (``model.ckpt`` and ``model.yaml``). ``relax``, of one with a
    codebook: straight-through, none, and where the encoder gives token logits gumbel or sample. ``precision``: what its
    net computes in, bf16, fp16 or fp32; auto: what suits the device. Published weights are downloaded at the first
    use. Raises ClipgenError for an unknown name, and for weights that cannot be had, read or fitted.
    """
    name = canonical_name(name)
    entry = entry_of(name)
    entry.check(name, relax, (entry.side, entry.side))
    device, (kind, number) = torch.device(device), relaxation(relax)
    precision = devices.precision(device, precision)
    made = attribute(entry.place)(name, entry, device)
    model = RELAXATIONS[kind](name, made.net, made.side, **number) if entry.codes else made
    model.settle("fp32" if entry.wide and precision == "fp16" else precision)
    return model
