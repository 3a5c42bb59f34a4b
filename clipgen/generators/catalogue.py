"""The generators that are known by name, as data: adding a checkpoint is one line.

Addresses, sizes and checksums are those of the publishers' pages and of the notebooks of 2021: CompVis'
taming-transformers (heibox), openai/DALL-E, FoundationVision/LlamaGen, madebyollin/taesd. The SHA-256 of the VQGANs
are taken from pytti-core and PyTTI Portable, which use the mirrors ``Somnai/pytti-vqgan-checkpoints`` (at the revision
given here) and ``pxlpshr/pytti-models``, and agree wherever both list a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from os.path import isfile
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch

from clipgen import device as devices
from clipgen.errors import ClipgenError
from clipgen.generators import PIPELINE, Entry, Generator, defaults, parse_relaxation
from clipgen.registry import RELAXATIONS, unknown_name
from clipgen.storage.remote import Remote

MAX_MARKS = 4096  # of a drawing

# --- rows of the table ----------------------------------------------------------------------------------


def _builtin(loader: str, settings: Mapping[str, Any] = defaults.PIXELS, **facts: Any) -> Entry:
    values: dict[str, Any] = {"licence": "-", "native_size": 128, "stride": 1} | facts
    return Entry(loader, defaults=settings, **values)


def _drawing(kind: str, marks: int) -> Entry:
    return _builtin(f"clipgen.generators.drawings:{kind}", defaults.DRAWING, config={"marks": marks}, tileable=False)


def _taesd(name: str, channels: int, files: dict[str, float] | None = None, stride: int = 8, **config: Any) -> Entry:
    """Return one of TAESD's family; ``files``: sources and their megabytes, by default one named by diffusers."""
    files = files or {f"hf:madebyollin/{name}/diffusion_pytorch_model.safetensors": 9.8}
    return Entry(
        "clipgen.generators.vae:load",
        {"channels": channels} | config,
        files=tuple(Remote(f"{name}/{source.rpartition('/')[2]}", (source,), size) for source, size in files.items()),
        native_size=512,
        stride=stride,
        defaults=defaults.CONTINUOUS,
        memory=0.2,
        proof="the publisher's code" if config else "diffusers",
        licence="MIT",
    )


def _vqgan(config: dict[str, Any], loader: str = "load", **facts: Any) -> Entry:
    values: dict[str, Any] = {"defaults": defaults.VQGAN, "memory": 0.6, "licence": "MIT"} | facts
    return Entry(
        f"clipgen.generators.vqgan:{loader}",
        config=config,
        stride=2 ** (len(config["ch_mult"]) - 1),
        codebook_size=config["n_embed"],
        has_logits=config.get("gumbel", False),
        **values,
    )


def _taming(name: str, config: dict[str, Any], megabytes: float, *sources: str, bulky: bool = False, **facts) -> Entry:
    """Return a checkpoint of taming-transformers; a ``bulky`` one holds much more than the network."""
    if name in _SHA256:
        sources = tuple(f"{source}#sha256={_SHA256[name]}" for source in sources)
    remote = Remote(f"{name}/last.ckpt", sources, megabytes, bulky=bulky)
    return _vqgan(config, files=(remote,), proof="taming-transformers", uses_notebook_defaults=True, **facts)


def _llamagen(file: str, repo: str, config: dict[str, Any], **facts: Any) -> Entry:
    remote = Remote(f"llamagen/{file}", (f"hf:{repo}/{file}",), 300)
    return _vqgan(config, "load_llamagen", files=(remote,), defaults=defaults.LLAMAGEN, **facts)


def _titok(name: str, tokens: int, megabytes: float, memory: float, *towers: tuple[int, ...], **config: Any) -> Entry:
    sources = [f"hf:yucornetto/tokenizer_titok_{name}_imagenet/model.safetensors"]
    sources += [f"hf:fun-research/TiTok/tokenizer_titok_{name}.bin"]
    return Entry(
        "clipgen.generators.titok:load",
        {"encoder": towers[0], "decoder": towers[-1], "tokens": tokens} | config,
        files=(Remote(f"titok/{name}.safetensors", tuple(sources), megabytes),),
        memory=memory,
        proof="the publisher's code",
        licence="research only",
        sequence=tokens,
        codebook_size=config.get("codes", (4096, 12))[0],
        tileable=False,
        defaults=defaults.TITOK,
    )


def _heibox(share: str, path: str) -> str:
    return f"https://heibox.uni-heidelberg.de/d/{share}/files/?p={path.replace('/', '%2F')}&dl=1"


# --- where published weights are, and the arguments of their networks --------------------------------------

_OPENAI = "https://cdn.openai.com/dall-e"
_OLLIN = "https://github.com/madebyollin/taesd/raw/5cccb12dc72074a4be35680c3b108548a7c69978"
_TAESANA = {f"{_OLLIN}/taesana_encoder.pth": 2.5, f"{_OLLIN}/taesana_decoder.pth": 16.6}
_PYTTI = "hf:pxlpshr/pytti-models/vqgan"
_SOMNAI = "hf:Somnai/pytti-vqgan-checkpoints@debc22c8f285c7734980c464ff992d335dde6e9a"
_PIXRAY = "https://github.com/pixray/pixray/releases/download/v1.7.1"
_SHA256 = {  # of all sources of a checkpoint
    "vqgan_imagenet_f16_16384": "845a68805098cb666420d5db93df53f3a3b6dd443e6dd85c05759c5b998cd663",
    "vqgan_openimages_f8_8192": "5cd6c74810ab97e00e942c25403f73afc081e8b19987b31ec0d9ff5b68e7ab14",
    "wikiart_f16_16384": "bd08bb46301f98be1712bb2be9f8868cea30b53137cd985d4d6e8da8b3e02c36",
    "coco": "106cc20fde571df14afc4349d62218d8213cf47177c682ecaa78a8c28b12f9de",
    "faceshq": "3274bba51bd565c90990bbcf7bb5dad0b9b95a6a77011980afc4c3cfc4d1cad1",
    "sflckr": "8a8adea3da8dab412675772831370dd948e0aa97bb11a9488a2f328b58dbc929",
}
_F16: dict[str, Any] = {
    "n_embed": 16384,
    "embed_dim": 256,
    "z_channels": 256,
    "ch": 128,
    "ch_mult": (1, 1, 2, 2, 4),
    "num_res_blocks": 2,
    "attn_resolutions": (16,),
}
_F16_1024 = _F16 | {"n_embed": 1024}
_F8_8192 = _F16 | {"n_embed": 8192, "ch_mult": (1, 1, 2, 4), "attn_resolutions": (32,)}
_VQ16 = _F16 | {"embed_dim": 8}
_VQ8 = _VQ16 | {"ch_mult": (1, 2, 2, 4), "attn_resolutions": (32,)}
_MINI: dict[str, Any] = {"licence": "see model card", "stride": 8, "codebook_size": 1024}

_IMAGENET_16384 = _taming(
    "vqgan_imagenet_f16_16384",
    _F16,
    980,
    _heibox("a7530b09fed84f80a887", "/ckpts/last.ckpt"),
    f"{_PYTTI}/imagenet.ckpt",
    f"{_SOMNAI}/imagenet/imagenet.ckpt",
)

_SMALL, _BASE, _LARGE = (512, 8, 8), (768, 12, 12), (1024, 24, 16)  # width, layers and heads of TiTok's towers
_TAESD = _taesd("taesd", 4)
_ONE_STEP: dict[str, Any] = {"native_size": 512, "stride": 8, "tileable": False, "defaults": defaults.ONE_STEP}
_SD_TURBO = Entry(
    "clipgen.generators.turbo:load",
    {"class": PIPELINE, "repo": "stabilityai/sd-turbo"},
    hub_megabytes=5160,
    memory=8.8,
    proof="diffusers",
    licence="Stability AI",
    **_ONE_STEP,
)

GENERATORS: dict[str, Entry] = {
    "mini-vqgan": _builtin("clipgen.mini:load_autoencoder", {}, overflows_fp16=True, settled=1.0, **_MINI),
    "mini-dvae": _builtin("clipgen.mini:load_autoencoder", {}, has_logits=True, **_MINI),
    "pixels": _builtin("clipgen.generators.pixels:Pixels"),
    "fft": _builtin("clipgen.generators.pixels:FFT", defaults.PIXELS | {"augment": "flip, affine, grain=0.3"}),
    "maco": _builtin("clipgen.generators.pixels:Maco"),
    "stack": _builtin("clipgen.generators.pixels:Stack", defaults.PIXELS | {"lr": 0.08}, settled=2.0, tileable=False),
    "strokes": _drawing("Strokes", 128),
    "shapes": _drawing("Shapes", 96),
    "pen": _drawing("Pen", 192),
    "taesd": _TAESD,
    "taesdxl": _taesd("taesdxl", 4),
    "taesd3": _taesd("taesd3", 16),
    "taef1": _taesd("taef1", 16),
    "taef2": _taesd("taef2", 32, {"hf:madebyollin/taef2/taef2.safetensors": 10}, norms=True),
    "taesana": _taesd("taesana", 32, _TAESANA, stride=32, widths=(256, 128, 64, 64, 64, 64)),
    "dvae": Entry(
        "clipgen.generators.dvae:load",
        files=(
            Remote("dvae/encoder.pkl", (f"{_OPENAI}/encoder.pkl",), 216),
            Remote("dvae/decoder.pkl", (f"{_OPENAI}/decoder.pkl",), 176),
        ),
        licence="modified MIT",
        memory=0.5,
        proof="dall-e",
        stride=8,
        codebook_size=8192,
        has_logits=True,
        defaults=defaults.DVAE,
        uses_notebook_defaults=True,
    ),
    "vqgan_imagenet_f16_1024": _taming(
        "vqgan_imagenet_f16_1024",
        _F16_1024,
        958,
        _heibox("8088892a516d4e3baf92", "/ckpts/last.ckpt"),
        "hf:thomwolf/vqgan_imagenet_f16_1024/pytorch_model.bin#megabytes=359",  # without the optimisers' state
    ),
    "vqgan_imagenet_f16_16384": _IMAGENET_16384,
    # The VQGAN of DALL-E mini and mega: the same file, says the card of dalle-mini/vqgan_imagenet_f16_16384, but with
    # pixels in [0, 1] in Dayma's notebooks (encode_dataset, inference_pipeline) and in min-dalle.
    "dalle_mini_f16_16384": replace(_IMAGENET_16384, config=_F16 | {"low": 0.0}),
    # The same model, fine-tuned on photographs of people: the tokens of the first DALL-E mini, of July 2021.
    "vqgan_yfcc_f16_16384": _taming(
        "vqgan_yfcc_f16_16384", _F16, 980, "hf:boris/vqgan_f16_16384/model.ckpt", licence="see hub page"
    ),
    "vqgan_openimages_f8_8192": _taming(
        "vqgan_openimages_f8_8192",
        _F8_8192 | {"gumbel": True},
        377,
        _heibox("2e5662443a6b4307b470", "/ckpts/last.ckpt"),
        f"{_PYTTI}/openimages.ckpt",
        f"{_SOMNAI}/openimages/openimages.ckpt",
        memory=0.7,
    ),
    "wikiart_f16_1024": _taming(
        "wikiart_f16_1024", _F16_1024, 957, f"{_PIXRAY}/vqgan_wikiart_1024.ckpt", licence="not stated"
    ),
    "wikiart_f16_16384": _taming(
        "wikiart_f16_16384",
        _F16,
        1005,
        f"{_PYTTI}/wikiart.ckpt",
        f"{_SOMNAI}/wikiart/wikiart.ckpt",
        f"{_PIXRAY}/vqgan_wikiart_16384.ckpt",
        licence="not stated",
    ),
    "coco": _taming(
        "coco", _F16 | {"n_embed": 8192}, 296, f"{_PYTTI}/coco_first_stage.ckpt", f"{_SOMNAI}/coco/coco.ckpt"
    ),
    # The publisher's own link gives a web page.
    "faceshq": _taming("faceshq", _F16_1024, 3860, f"{_SOMNAI}/faceshq/faceshq.ckpt", bulky=True),
    "sflckr": _taming(
        "sflckr",
        _F16_1024,
        4264,
        _heibox("73487ab6e5314cb5adba", "/checkpoints/last.ckpt"),
        f"{_PYTTI}/sflckr.ckpt",
        f"{_SOMNAI}/sflickr/sflickr.ckpt",
        bulky=True,
    ),
    "llamagen_vq16": _llamagen("vq_ds16_c2i.pt", "FoundationVision/LlamaGen", _VQ16),
    "llamagen_vq16_t2i": _llamagen("vq_ds16_t2i.pt", "peizesun/llamagen_t2i", _VQ16),  # of its text models
    "llamagen_vq8": _llamagen("vq_ds8_c2i.pt", "FoundationVision/LlamaGen", _VQ8, memory=0.7),
    "sd-turbo": _SD_TURBO,
    "sd-turbo-taesd": replace(_SD_TURBO, config={**_SD_TURBO.config, "tiny": _TAESD}, memory=5.3),
    "titok_s128": _titok("s128", 128, 335, 0.6, _SMALL),
    "titok_b64": _titok("b64", 64, 819, 1.2, _BASE),
    "titok_bl128": _titok("bl128_vq8k", 128, 1561, 1.9, _BASE, _LARGE, codes=(8192, 64), legacy=False),
    "titok_l32": _titok("l32", 32, 2564, 3.1, _LARGE),
}

# Short names, each for the generator that the notebooks of 2021 meant by it.
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


def canonical_name(name: str) -> str:
    """Return the name under which the catalogue has a generator; any other name as it is."""
    return ALIASES.get(name, name)


def entry_of(name: str) -> Entry:
    """Return the entry of a generator, by its name or alias, or by the path of a checkpoint with its yaml beside it.

    Raises:
        ClipgenError: An unknown name, or a checkpoint without its yaml.
    """
    name = canonical_name(name)
    if name in GENERATORS:
        return GENERATORS[name]
    kind, _, number = name.partition(":")
    if kind in GENERATORS and GENERATORS[kind].is_vector:
        if not (number.isdecimal() and len(number) < 10 and 1 <= int(number) <= MAX_MARKS):
            raise ClipgenError(f"generator={name!r}: expected {kind}:<number of marks>, from 1 to {MAX_MARKS}")
        return replace(GENERATORS[kind], config={"marks": int(number)})
    if isfile(name):  # not Path.is_file: a name may be too long for a path
        from clipgen.generators.vqgan import config_beside

        return _vqgan(config_beside(Path(name)), licence="yours", memory=0.0)
    if name.startswith("hf-hub:"):
        from clipgen.generators.vae import hub_config

        config = hub_config(name)
        if config["class"] == PIPELINE:
            return Entry("clipgen.generators.turbo:load", config, **_ONE_STEP)
        facts = {"native_size": 512, "stride": config["stride"], "defaults": defaults.CONTINUOUS}
        return Entry("clipgen.generators.vae:load_hub", config, **facts)
    others = ", hf-hub:org/name (an autoencoder or a one-step pipeline), or the path of a checkpoint"
    raise unknown_name("generator", name, GENERATORS, others)


def load_generator(
    name: str = "mini-vqgan",
    device: torch.device | str = "cpu",
    relax: str = "straight-through",
    precision: str = "auto",
) -> Generator:
    """Load a generator. Published weights are downloaded at the first use.

    Args:
        name: A name of the catalogue; the path of a VQGAN's checkpoint with its yaml beside it (``model.ckpt`` and
            ``model.yaml``); or ``hf-hub:org/name``, an autoencoder of diffusers.
        device: auto, cpu, cuda or mps, or a torch device.
        relax: For a generator with a codebook: straight-through, none, and if its encoder gives token logits gumbel or
            sample.
        precision: What its network computes in: bf16, fp16, fp32, or auto, what suits the device.

    Raises:
        ClipgenError: An unknown name or device, or weights that cannot be downloaded, read or fitted.
    """
    name = canonical_name(str(name))
    entry = entry_of(name)
    entry.check(name, relax, (entry.native_size, entry.native_size))
    kind, numbers = parse_relaxation(relax)
    device = devices.resolve_device(device) if isinstance(device, str) else device
    precision = devices.resolve_precision(device, precision)
    generator = resolve_name(entry.loader)(name, entry, device)
    if entry.codebook_size:
        generator = RELAXATIONS[kind](name, generator.to(device), entry.native_size, **numbers)
    generator.set_precision("fp32" if entry.overflows_fp16 and precision == "fp16" else precision)
    return generator
