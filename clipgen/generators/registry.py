"""The generators that are known by name, as data: adding a checkpoint is one line.

Addresses, sizes and checksums are those of the publishers' pages and of the notebooks of 2021: CompVis'
taming-transformers (heibox), openai/DALL-E, FoundationVision/LlamaGen; the SHA-256 of the VQGANs are those that
the mirror ``pxlpshr/pytti-models`` is used with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from clipgen.downloads import Remote

_F16: dict[str, Any] = {"embed_dim": 256, "z_channels": 256, "ch": 128, "ch_mult": (1, 1, 2, 2, 4),
                        "num_res_blocks": 2, "attn_resolutions": (16,)}  # fmt: skip
_F8 = _F16 | {"ch_mult": (1, 1, 2, 4), "attn_resolutions": (32,)}
_VQ16 = _F16 | {"embed_dim": 8, "n_embed": 16384}
_VQ8 = _VQ16 | {"ch_mult": (1, 2, 2, 4), "attn_resolutions": (32,)}


@dataclass(frozen=True)
class Entry:
    """A line of the registry. ``family``: which reader and net; ``files``: none for what ships with clipgen."""

    family: str  # embedded, dvae, taming or llamagen
    files: tuple[Remote, ...] = ()
    config: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    licence: str = "MIT"
    size: int = 256  # pixels of a side that it draws best
    factor: int = 16
    codes: int = 1024

    @property
    def megabytes(self) -> float:
        return sum(file.megabytes or 0 for file in self.files)


def _heibox(share: str, path: str) -> str:
    return f"https://heibox.uni-heidelberg.de/d/{share}/files/?p={path.replace('/', '%2F')}&dl=1"


def _taming(name: str, codes: int, megabytes: float, *sources: str, sha256: str | None = None, base=_F16,
            licence: str = "MIT", **config) -> Entry:  # fmt: skip
    file = Remote(f"{name}/last.ckpt", sources, megabytes, sha256)
    factor = 2 ** (len(base["ch_mult"]) - 1)
    return Entry("taming", (file,), base | {"n_embed": codes} | config, licence, 256, factor, codes)


def _llamagen(file: str, repo: str, config: dict[str, Any]) -> Entry:
    remote = Remote(f"llamagen/{file}", (f"hf:{repo}/{file}",), 300)
    return Entry("llamagen", (remote,), config, "MIT", 256, 2 ** (len(config["ch_mult"]) - 1), 16384)


_OPENAI, _PYTTI = "https://cdn.openai.com/dall-e", "hf:pxlpshr/pytti-models/vqgan"

_IMAGENET_16384 = _taming(
    "vqgan_imagenet_f16_16384", 16384, 980,
    _heibox("a7530b09fed84f80a887", "/ckpts/last.ckpt"),
    f"{_PYTTI}/imagenet.ckpt",
    "hf:valhalla/vqgan_imagenet_f16_16384/pytorch_model.bin",
    sha256="845a68805098cb666420d5db93df53f3a3b6dd443e6dd85c05759c5b998cd663",
)  # fmt: skip

REGISTRY: dict[str, Entry] = {
    "mini-vqgan": Entry("embedded", licence="see model card", size=128, factor=8),
    "mini-dvae": Entry("embedded", licence="see model card", size=128, factor=8),
    "dvae": Entry(
        "dvae",
        (
            Remote("dvae/encoder.pkl", (f"{_OPENAI}/encoder.pkl",), 216),
            Remote("dvae/decoder.pkl", (f"{_OPENAI}/decoder.pkl",), 176),
        ),
        licence="modified MIT",
        factor=8,
        codes=8192,
    ),
    "vqgan_imagenet_f16_1024": _taming(
        "vqgan_imagenet_f16_1024", 1024, 958,
        _heibox("8088892a516d4e3baf92", "/ckpts/last.ckpt"),
        "hf:thomwolf/vqgan_imagenet_f16_1024/pytorch_model.bin",
    ),
    "vqgan_imagenet_f16_16384": _IMAGENET_16384,
    # What DALL-E mini's and mega's tokens are of: the same file, says the card of dalle-mini/vqgan_imagenet_f16_16384.
    # Dayma's notebooks (encode_dataset, inference_pipeline), and min-dalle, show it pixels in [0, 1] and take them so.
    "dalle_mini_f16_16384": replace(_IMAGENET_16384, config={**_IMAGENET_16384.config, "low": 0.0}),
    # The same model, fine-tuned on photographs of people: the tokens of the first DALL-E mini, of July 2021.
    "vqgan_yfcc_f16_16384": _taming(
        "vqgan_yfcc_f16_16384", 16384, 980, "hf:boris/vqgan_f16_16384/model.ckpt", licence="see hub page",
    ),
    "vqgan_openimages_f8_8192": _taming(
        "vqgan_openimages_f8_8192", 8192, 377,
        _heibox("2e5662443a6b4307b470", "/ckpts/last.ckpt"),
        f"{_PYTTI}/openimages.ckpt",
        sha256="5cd6c74810ab97e00e942c25403f73afc081e8b19987b31ec0d9ff5b68e7ab14",
        base=_F8, gumbel=True,
    ),
    "wikiart_f16_16384": _taming(
        "wikiart_f16_16384", 16384, 1005,
        f"{_PYTTI}/wikiart.ckpt",
        "https://github.com/pixray/pixray/releases/download/v1.7.1/vqgan_wikiart_16384.ckpt",
        licence="not stated",
    ),
    "coco": _taming(
        "coco", 8192, 296, f"{_PYTTI}/coco_first_stage.ckpt",
        sha256="106cc20fde571df14afc4349d62218d8213cf47177c682ecaa78a8c28b12f9de",
    ),
    "faceshq": _taming(
        "faceshq", 1024, 3860,
        "https://app.koofr.net/content/links/a04deec9-0c59-4673-8b37-3d696fe63a5d/files/get/last.ckpt"
        "?path=%2F2020-11-13T21-41-45_faceshq_transformer%2Fcheckpoints%2Flast.ckpt",
    ),
    "sflckr": _taming(
        "sflckr", 1024, 4264,
        _heibox("73487ab6e5314cb5adba", "/checkpoints/last.ckpt"),
        f"{_PYTTI}/sflckr.ckpt",
        sha256="8a8adea3da8dab412675772831370dd948e0aa97bb11a9488a2f328b58dbc929",
    ),
    "llamagen_vq16": _llamagen("vq_ds16_c2i.pt", "FoundationVision/LlamaGen", _VQ16),
    "llamagen_vq8": _llamagen("vq_ds8_c2i.pt", "FoundationVision/LlamaGen", _VQ8),
}  # fmt: skip
